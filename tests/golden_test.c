/* The sample, converted, against tests/fixtures/golden: hashes that another program computed
 * (tests/oracle/make_golden.py: PyTorch's roundings, the quantizers' published arithmetic in numpy). */
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/map.h"
#include "tests/convert_support.h"
#include "tests/ct.h"

#define SAMPLE "samples/tiny-v3"

struct golden_row {
    const char *kase, *tensor, *sha256;
};

struct golden {
    struct arena arena;
    struct golden_row *rows;
    size_t count;
};

static void golden_open(struct golden *g, const char *name)
{
    char *text = NULL, *line_state = NULL;
    size_t bytes = 0;
    struct err e = {0};

    *g = (struct golden){0};
    ASSERT_OK(file_slurp(path_join(&g->arena, "tests/fixtures/golden", name), 1u << 20, &text, &bytes, &e), e);
    g->rows = arena_array(&g->arena, bytes / 64, sizeof *g->rows);
    for (char *line = strtok_r(text, "\n", &line_state); line; line = strtok_r(NULL, "\n", &line_state)) {
        char kase[64], tensor[160], sha256[HASH_HEX_BYTES];
        if (line[0] == '#')
            continue;
        ASSERT_EQ_I64(3, sscanf(line, "%63s %159s %64s", kase, tensor, sha256));
        g->rows[g->count++] = (struct golden_row){.kase = arena_strdup(&g->arena, kase),
                                                  .tensor = arena_strdup(&g->arena, tensor),
                                                  .sha256 = arena_strdup(&g->arena, sha256)};
    }
    mem_free(text);
}

static const struct golden_row *golden_find(const struct golden *g, const char *kase, const char *tensor)
{
    for (size_t i = 0; i < g->count; i++)
        if (strcmp(g->rows[i].kase, kase) == 0 && strcmp(g->rows[i].tensor, tensor) == 0)
            return &g->rows[i];
    return NULL;
}

static const char *float_case(enum dtype_id dtype)
{
    return dtype == DTYPE_F32 ? "f32" : dtype == DTYPE_BF16 ? "bf16" : dtype == DTYPE_F16 ? "f16" : "";
}

static bool is_linear(const char *name)
{
    return strstr(name, "_proj") || strstr(name, "embed_tokens") || strstr(name, "lm_head") ||
           strstr(name, "shared_head.head");
}

/* Every tensor is what the other program makes of it in its type; every matrix got the type asked for. */
static void check_floats(const struct golden *g, const char *to, const char *dst)
{
    struct checkpoint c = {0};
    struct err e = {0};
    char hex[HASH_HEX_BYTES];

    ASSERT_OK(checkpoint_open(&c, dst, &e), e);
    EXPECT_EQ_U64(g->count / 3, c.tensor_count);
    for (size_t i = 0; i < c.tensor_count; i++) {
        const struct tensor *t = &c.tensors[i];
        const struct golden_row *row = golden_find(g, float_case(t->dtype), t->name);
        ct_case("%s: %s", to, t->name);
        if (is_linear(t->name))
            EXPECT_STR_EQ(to, float_case(t->dtype));
        support_tensor_hash(&c, t, hex);
        EXPECT_STR_EQ(row ? row->sha256 : "no such row", hex);
    }
    checkpoint_close(&c);
}

TEST(golden, floats_are_those_of_another_reader)
{
    static const char *const types[] = {"f32", "bf16", "f16"};
    struct arena a = {0};
    struct golden g;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    golden_open(&g, "floats.txt");
    ASSERT_TRUE(g.count > 0);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const char *dst = path_join(&a, dir, types[i]);
        ct_case("%s", types[i]);
        EXPECT_OK(support_convert(SAMPLE, dst, &(struct conversion_case){.recipe = types[i]}, &e), e);
        check_floats(&g, types[i], dst);
    }
    arena_release(&g.arena);
    arena_release(&a);
}

/* The matrices of make_golden.py alone: the others would take most of the time. */
#define INT4(group_, more_)                                                                                            \
    "[{\"match\": [\"re:model.layers.1.mlp.experts.0.gate_proj\", \"re:model.layers.3.mlp.experts.15.down_proj\","     \
    "\"re:model.layers.0.self_attn.kv_a_proj_with_mqa\", \"re:model.layers.0.mlp.down_proj\","                         \
    "\"re:model.layers.2.self_attn.q_b_proj\"], \"scheme\": \"int4\", \"group\": " group_ more_ "},"                   \
    "{\"match\": \"*\", \"scheme\": \"bf16\"}]"
#define ABSMAX   ", \"method\": \"absmax\""
#define ASYM     ABSMAX ", \"asymmetric\": true"
#define SEARCH   ", \"method\": \"search\""
#define FITTED   SEARCH ", \"asymmetric\": true"
#define POSITIVE SEARCH ", \"positive_scales\": true"

static const struct {
    const char *name;
    bool of_bf16; /* else of the sample itself */
    const char *recipe;
} quantized[] = {
    {"fp8-of-bf16", true, "fp8"},
    {"fp8-ue8m0-of-bf16", true, "fp8-ue8m0"},
    {"fp8-ue8m0", false, "fp8-ue8m0"},
    {"fp8-e8m0", false, "[{\"match\": \"*\", \"scheme\": \"fp8-ue8m0\", \"scale_dtype\": \"e8m0\"}]"},
    {"fp8-channel", false, "fp8-channel"},
    {"int4-g32", false, INT4("32", ABSMAX)},
    {"int4-g32-asym", false, INT4("32", ASYM)},
    {"int4-g64", false, INT4("64", ABSMAX)},
    {"int4-g64-asym", false, INT4("64", ASYM)},
    {"int4-g128", false, INT4("128", ABSMAX)},
    {"int4-g128-asym", false, INT4("128", ASYM)},
    {"int4-channel", false, INT4("\"channel\"", ABSMAX)},
    {"int4-channel-asym", false, INT4("\"channel\"", ASYM)},
    {"int4-g32-search", false, INT4("32", SEARCH)},
    {"int4-g32-search-positive", false, INT4("32", POSITIVE)},
    {"int4-g128-search", false, INT4("128", SEARCH)},
    {"int4-g128-search-positive", false, INT4("128", POSITIVE)},
    {"int4-g32-asym-search", false, INT4("32", FITTED)},
    {"int4-g128-asym-search", false, INT4("128", FITTED)},
    {"int4-channel-asym-search", false, INT4("\"channel\"", FITTED)},
    {"int4-channel-search", false, INT4("\"channel\"", SEARCH)},
    {"int4-channel-search-positive", false, INT4("\"channel\"", POSITIVE)},
};
#define QUANTIZED_COUNT (sizeof quantized / sizeof quantized[0])

static size_t check_quantized(const struct golden *g, const char *name, const char *dst)
{
    struct checkpoint c = {0};
    struct err e = {0};
    char hex[HASH_HEX_BYTES];
    size_t checked = 0;

    EXPECT_OK(checkpoint_open(&c, dst, &e), e);
    for (size_t i = 0; i < g->count; i++) {
        const struct golden_row *row = &g->rows[i];
        if (strcmp(row->kase, name) != 0)
            continue;
        const struct tensor *t = checkpoint_find(&c, row->tensor);
        ct_case("%s: %s", name, row->tensor);
        checked++;
        EXPECT_TRUE(t != NULL);
        if (!t)
            continue;
        support_tensor_hash(&c, t, hex);
        EXPECT_STR_EQ(row->sha256, hex);
    }
    checkpoint_close(&c);
    return checked;
}

TEST(golden, codes_and_scales_are_those_of_another_quantizer)
{
    struct arena a = {0};
    struct golden g;
    struct err e = {0};
    const char *dir = ct_temp_dir(), *bf16 = path_join(&a, dir, "bf16");
    size_t checked = 0;

    golden_open(&g, "quantized.txt");
    ASSERT_OK(support_convert(SAMPLE, bf16, &(struct conversion_case){.recipe = "bf16"}, &e), e);
    for (size_t i = 0; i < QUANTIZED_COUNT; i++) {
        const char *dst = path_join(&a, dir, quantized[i].name);
        struct conversion_case c = {.recipe = quantized[i].recipe};
        ct_case("%s", quantized[i].name);
        e = (struct err){0};
        EXPECT_OK(support_convert(quantized[i].of_bf16 ? bf16 : SAMPLE, dst, &c, &e), e);
        if (e.code == ERR_NONE)
            checked += check_quantized(&g, quantized[i].name, dst);
    }
    EXPECT_EQ_U64(g.count, checked);
    arena_release(&g.arena);
    arena_release(&a);
}
