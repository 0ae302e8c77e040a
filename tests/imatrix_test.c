/* Read back by the layouts as llama.cpp's own reader takes them: sizes and places are worked out here. */
#include "formats/imatrix.h"

#include <stdio.h>
#include <string.h>

#include "convert/calibrate.h"
#include "tests/ct.h"
#include "tests/forward_support.h"

static const struct sequence contexts[3] = {{0, 6, 0}, {6, 9, 0}, {15, 5, 0}};
enum { CONTEXTS = 3, LONGEST = 9, TOKENS = 20 };

struct scene {
    struct made made;
    struct calib_stats stats;
    char *data; /* of the imatrix */
    size_t bytes;
};

static bool scene_make(struct scene *s, const char *kind, const char *name, struct err *e)
{
    struct calib_stats run = {0};

    *s = (struct scene){0};
    made_init(&s->made, kind);
    made_open(&s->made);
    struct arena *a = &s->made.maker.arena;
    const char *stats = path_join(a, ct_temp_dir(), "stats"), *path = path_join(a, ct_temp_dir(), name);
    struct batch b = {made_ids(&s->made, TOKENS), TOKENS, contexts, CONTEXTS};
    struct calibrate_options o = {.threads = 2, .batch = &b};
    bool ok = calib_stats_plan(&run, &s->made.source, false, e) &&
              calibrate_run(&run, &s->made.source, &o, stats, NULL, e) && calib_stats_open(&s->stats, stats, e) &&
              imatrix_write(&s->stats, path, e) && file_slurp(path, 16u << 20, &s->data, &s->bytes, e);
    calib_stats_release(&run);
    return ok;
}

static void scene_drop(struct scene *s)
{
    mem_free(s->data);
    calib_stats_release(&s->stats);
    made_release(&s->made);
}

/* Takes things off a file, front to back; past its end is a failure. */
struct taker {
    const char *at, *end;
};

static void take(struct taker *t, void *to, size_t bytes)
{
    memset(to, 0, bytes);
    if (!CT_TRUE((size_t)(t->end - t->at) >= bytes))
        return;
    memcpy(to, t->at, bytes);
    t->at += bytes;
}

static uint32_t take_u32(struct taker *t)
{
    uint32_t x;
    take(t, &x, sizeof x);
    return x;
}

static uint64_t take_u64(struct taker *t)
{
    uint64_t x;
    take(t, &x, sizeof x);
    return x;
}

static void take_text(struct taker *t, size_t bytes, char text[64])
{
    memset(text, 0, 64);
    if (CT_TRUE(bytes < 64))
        take(t, text, bytes);
}

/* "blk.2.ffn_down_exps.weight" -> its input; by the names that llama.cpp gives deepseek2's tensors. */
static const struct calib_input *input_of(const struct calib_stats *s, const char *name)
{
    static const struct {
        const char *name;
        enum role input;
    } names[] = {
        {"attn_q_a", ROLE_Q_A_PROJ},         {"attn_q", ROLE_Q_A_PROJ},         {"attn_q_b", ROLE_Q_B_PROJ},
        {"attn_kv_a_mqa", ROLE_Q_A_PROJ},    {"attn_kv_b", ROLE_KV_B_PROJ},     {"attn_output", ROLE_O_PROJ},
        {"ffn_gate", ROLE_DENSE_GATE},       {"ffn_up", ROLE_DENSE_GATE},       {"ffn_down", ROLE_DENSE_DOWN},
        {"ffn_gate_shexp", ROLE_ROUTER},     {"ffn_up_shexp", ROLE_ROUTER},     {"ffn_down_shexp", ROLE_SHARED_DOWN},
        {"ffn_gate_exps", ROLE_EXPERT_GATE}, {"ffn_up_exps", ROLE_EXPERT_GATE}, {"ffn_down_exps", ROLE_EXPERT_DOWN},
    };
    unsigned layer = 0;
    char tensor[64];

    if (sscanf(name, "blk.%u.%40[a-z_].weight", &layer, tensor) == 2)
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            if (strcmp(names[i].name, tensor) == 0)
                return calib_input_find(s, layer, names[i].input);
    return NULL;
}

static const double *sums_of(const struct calib_stats *s, const struct calib_input *in, size_t index)
{
    static double sums[256];
    struct err e = {0};

    EXPECT_OK(calib_stats_sum2(s, in, index, sums, &e), e);
    return sums;
}

/* Entries of three layers of "fp8" and its MTP layer: one dense. */
enum { DENSE_ENTRIES = 8, MOE_ENTRIES = 11 };

TEST(imatrix, the_dat_form_holds_means_times_calls_expert_by_expert)
{
    static const char *const kinds[] = {"fp8", "v2-lite"};
    static const uint32_t counts[] = {DENSE_ENTRIES + 3 * MOE_ENTRIES, DENSE_ENTRIES - 1 + 2 * (MOE_ENTRIES - 1)};

    for (size_t k = 0; k < 2; k++) {
        struct scene s;
        char name[64], last[64] = "";
        struct err e = {0};

        ct_case("%s", kinds[k]);
        ASSERT_OK(scene_make(&s, kinds[k], "im.dat", &e), e);
        struct taker t = {s.data, s.data + s.bytes};
        uint32_t count = take_u32(&t), silent = 0;
        EXPECT_EQ_U64(counts[k], count);
        for (uint32_t i = 0; i < count; i++) {
            take_text(&t, take_u32(&t), name);
            EXPECT_TRUE(strcmp(last, name) < 0);
            strcpy(last, name);
            const struct calib_input *in = input_of(&s.stats, name);
            ASSERT_TRUE(in != NULL);
            EXPECT_EQ_U64(CONTEXTS, take_u32(&t));
            EXPECT_EQ_U64(in->n * in->cols, take_u32(&t));
            for (size_t n = 0; n < in->n; n++) {
                const double *sums = sums_of(&s.stats, in, n);
                silent += in->seen[n] == 0;
                for (size_t j = 0; j < in->cols; j++) {
                    float value;
                    take(&t, &value, sizeof value);
                    double want = in->seen[n] > 0 ? sums[j] / (double)in->seen[n] * CONTEXTS : CONTEXTS;
                    EXPECT_NEAR_F64(want, (double)value, 1e-7 * want);
                }
            }
        }
        EXPECT_EQ_U64(CONTEXTS, take_u32(&t));
        take_text(&t, take_u32(&t), name);
        EXPECT_STR_EQ("quern calibrate", name);
        EXPECT_TRUE(t.at == t.end);
        EXPECT_TRUE(silent > 0 || k > 0); /* of fp8's experts, some get no token */
        scene_drop(&s);
    }
}

static void take_key(struct taker *t, const char *key, uint32_t type)
{
    char text[64];

    take_text(t, (size_t)take_u64(t), text);
    EXPECT_STR_EQ(key, text);
    EXPECT_EQ_U64(type, take_u32(t));
}

static void take_header(struct taker *t, uint64_t *tensors)
{
    char text[64];

    take_text(t, 4, text);
    EXPECT_STR_EQ("GGUF", text);
    EXPECT_EQ_U64(3, take_u32(t));
    *tensors = take_u64(t);
    EXPECT_EQ_U64(4, take_u64(t));
    take_key(t, "general.type", 8);
    take_text(t, (size_t)take_u64(t), text);
    EXPECT_STR_EQ("imatrix", text);
    take_key(t, "imatrix.datasets", 9);
    EXPECT_EQ_U64(8, take_u32(t));
    EXPECT_EQ_U64(1, take_u64(t));
    take_text(t, (size_t)take_u64(t), text);
    EXPECT_STR_EQ("quern calibrate", text);
    take_key(t, "imatrix.chunk_count", 4);
    EXPECT_EQ_U64(CONTEXTS, take_u32(t));
    take_key(t, "imatrix.chunk_size", 4);
    EXPECT_EQ_U64(LONGEST, take_u32(t));
}

struct info {
    char name[64];
    uint64_t ne0, ne1, offset;
};

static struct info take_info(struct taker *t)
{
    struct info i = {.name = ""};

    take_text(t, (size_t)take_u64(t), i.name);
    EXPECT_EQ_U64(2, take_u32(t));
    i.ne0 = take_u64(t);
    i.ne1 = take_u64(t);
    EXPECT_EQ_U64(0, take_u32(t));
    i.offset = take_u64(t);
    return i;
}

TEST(imatrix, the_gguf_form_holds_sums_and_counts_without_gaps)
{
    struct scene s;
    uint64_t tensors = 0, at = 0;
    struct info *infos;
    struct err e = {0};

    ASSERT_OK(scene_make(&s, "fp8", "im.gguf", &e), e);
    struct taker t = {s.data, s.data + s.bytes};
    take_header(&t, &tensors);
    ASSERT_EQ_U64(2 * (DENSE_ENTRIES + 3 * MOE_ENTRIES), tensors);
    infos = mem_alloc(tensors * sizeof *infos);
    for (uint64_t i = 0; i < tensors; i++) {
        infos[i] = take_info(&t);
        EXPECT_EQ_U64(at, infos[i].offset);
        at += (infos[i].ne0 * infos[i].ne1 * 4 + 31) / 32 * 32;
    }
    const char *data = s.data + ((size_t)(t.at - s.data) + 31) / 32 * 32;
    EXPECT_EQ_U64(s.bytes, (uint64_t)(data - s.data) + at);
    for (uint64_t i = 0; i < tensors; i += 2) {
        char *suffix = strstr(infos[i].name, ".in_sum2");
        ASSERT_TRUE(suffix != NULL);
        *suffix = '\0';
        EXPECT_STR_EQ(".counts", infos[i + 1].name + (suffix - infos[i].name));
        EXPECT_TRUE(strncmp(infos[i].name, infos[i + 1].name, (size_t)(suffix - infos[i].name)) == 0);
        const struct calib_input *in = input_of(&s.stats, infos[i].name);
        ct_case("%s", infos[i].name);
        ASSERT_TRUE(in != NULL);
        EXPECT_EQ_U64(in->cols, infos[i].ne0);
        EXPECT_EQ_U64(in->n, infos[i].ne1);
        EXPECT_EQ_U64(1, infos[i + 1].ne0);
        EXPECT_EQ_U64(in->n, infos[i + 1].ne1);
        for (size_t n = 0; n < in->n; n++) {
            const double *sums = sums_of(&s.stats, in, n);
            const float *x = (const float *)(const void *)(data + infos[i].offset) + n * in->cols;
            for (size_t j = 0; j < in->cols; j++)
                EXPECT_EQ_F32((float)sums[j], x[j]);
            EXPECT_EQ_F32((float)in->seen[n], ((const float *)(const void *)(data + infos[i + 1].offset))[n]);
        }
    }
    mem_free(infos);
    scene_drop(&s);
}

TEST(imatrix, another_ending_is_refused)
{
    static const char *const names[] = {"im", "im.bin", "gguf", "im.gguf.gz", ""};
    struct err e = {0};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ct_case("%s", names[i]);
        EXPECT_FALSE(imatrix_form(names[i], NULL, &e));
        EXPECT_ERR(e, ERR_USAGE, "FILE.gguf or FILE.dat");
    }
}
