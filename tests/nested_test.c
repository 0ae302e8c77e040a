/* A checkpoint whose language model stands inside another: Kimi-K2.5's names and config.json, from end to end. */
#include <string.h>

#include "convert/quant_config.h"
#include "formats/base/file.h"
#include "formats/json.h"
#include "tests/plan_support.h"
#include "tests/rows_support.h"
#include "verify/forward.h"
#include "verify/inspect.h"
#include "verify/verification.h"
#include "verify/weights_diff.h"

/* ---- config.json ---- */

/* What the inner model says, given as text of the outer config; "" where it has no quantization. */
static void expect_nested(const struct buf *out, const char *want)
{
    struct json_doc d = {0};
    struct err e = {0};

    ASSERT_OK(json_parse(&d, out->data, out->bytes, JSON_STRICT, &e), e);
    const struct json *q = json_get(json_get(d.root, "text_config"), "quantization_config");
    EXPECT_TRUE(json_get(d.root, "quantization_config") == NULL);
    EXPECT_STR_EQ(want, q ? json_string(json_get(q, "quant_method")) : "");
    json_release(&d);
}

TEST(nested, a_quantization_config_is_kept_or_changed_in_its_place)
{
    static const struct {
        const struct scheme *stored;
        const char *recipe, *want;
    } cases[] = {
        {&stored_int4_g32, "{\"rules\": [{\"match\": \"*\", \"scheme\": \"keep\"}]}", "compressed-tensors"},
        {&stored_int4_g32, "to:bf16", ""},
        {&stored_int4_g32, "to:fp8", "fp8"},
        {&stored_int4_g32, "int4-fast", "compressed-tensors"},
        {&stored_bf16, "int4-fast", "compressed-tensors"},
        {&stored_bf16, "to:bf16", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model m = models[MODEL_KIMI_K25];
        struct rows rows = {0};
        struct buf out = {0};
        struct err e = {0};

        ct_case("%zu: %s", i, cases[i].recipe);
        m.layers = 3;
        m.experts = 8;
        if (cases[i].stored == &stored_bf16)
            m.quantization = NULL;
        rows_model(&rows, &m, cases[i].stored);
        ASSERT_OK(
            rows_choose(&rows, cases[i].recipe, &e) &&
                quant_config_write(&out, &rows.arch, rows.config, strlen(rows.config), rows.items, rows.count, &e),
            e);
        expect_nested(&out, cases[i].want);
        EXPECT_EQ_I64(i == 0 || i == 5, strcmp(rows.config, out.data) == 0);
        buf_release(&out);
        rows_release(&rows);
    }
}

TEST(nested, an_outer_quantization_config_stays_outer_and_two_are_refused)
{
    static const char quant[] = ", \"quantization_config\": " QUANT_INT4_TEXT(32) "}";
    struct model m = models[MODEL_KIMI_K25];
    struct rows rows = {0};
    struct buf config = {0}, out = {0};
    struct err e = {0};

    m.layers = 3;
    m.experts = 8;
    for (unsigned twice = 0; twice < 2; twice++) {
        struct model one = m;
        if (!twice)
            one.quantization = NULL;
        rows_model(&rows, &one, &stored_int4_g32);
        buf_add(&config, rows.config, strlen(rows.config) - 1);
        buf_puts(&config, quant);
        ASSERT_OK(rows_choose(&rows, "to:fp8", &e), e);
        bool ok = quant_config_write(&out, &rows.arch, config.data, config.bytes, rows.items, rows.count, &e);
        EXPECT_EQ_I64(!twice, ok);
        if (ok)
            EXPECT_STR_HAS(out.data, "\"quant_method\": \"fp8\"");
        else
            EXPECT_ERR(e, ERR_UNSUPPORTED, "stands at the root and inside 'text_config' as well");
        buf_release(&config);
        buf_release(&out);
        rows_release(&rows);
    }
}

/* ---- from end to end ---- */

static void make_nested(struct ckpt_maker *m, const struct scheme *linear, const char *quantization)
{
    struct model tiny = models[MODEL_TINY];

    tiny.model_type = "kimi_k25";
    tiny.mtp = 0;
    tiny.quantization = quantization;
    EXPECT_TRUE(support_model_of(m, &tiny, linear));
}

static const char *put_nested(const struct scheme *linear, const char *quantization)
{
    const char *src = ct_temp_dir();
    struct ckpt_maker m = {0};

    make_nested(&m, linear, quantization);
    ckpt_write(&m, src);
    ckpt_release(&m);
    return src;
}

/* Its quantization_config stands inside text_config, or nowhere, and never outside. */
static void expect_place(const struct source *s, bool quantized)
{
    struct json_doc d = {0};
    struct err e = {0};

    ASSERT_OK(json_parse(&d, s->checkpoint.config, s->checkpoint.config_bytes, JSON_STRICT, &e), e);
    const struct json *text = json_get(d.root, "text_config");
    ASSERT_TRUE(text != NULL);
    EXPECT_TRUE(json_get(d.root, "quantization_config") == NULL);
    EXPECT_EQ_I64(quantized, json_get(text, "quantization_config") != NULL);
    json_release(&d);
}

static void expect_intact(const char *dst, const char *src)
{
    struct verify_options o = {.source = src, .deep = true, .sample_percent = 100, .threads = 2, .quiet = true};
    struct verification v;
    struct err e = {0};

    ASSERT_OK(verify_run(&v, dst, &o, &e), e);
    for (size_t i = 0; i < v.findings.count; i++)
        if (rule_get(v.findings.items[i].rule)->severity == SEVERITY_ERROR &&
            v.findings.items[i].rule != RULE_TOKENIZER_MISSING) /* the model has no tokenizer */
            EXPECT_STR_EQ("no error", v.findings.items[i].text);
    EXPECT_TRUE(v.fingerprint.logprobs > 0 && v.fingerprint.flips == 0);
    EXPECT_TRUE(v.fingerprint.delta_max <= 1e-5);
    verify_release(&v);
}

static void expect_same_model(const struct source *from, const struct source *to)
{
    struct weights_diff_job job = {.threads = 2, .quiet = true};
    struct weights_diff d = {0};
    struct inspection a, b;
    struct err e = {0};

    ASSERT_OK(weights_diff_run(&d, from, to, &job, &e), e);
    EXPECT_EQ_U64(0, d.unexpected_count);
    EXPECT_EQ_U64(from->weights.count, d.count);
    weights_diff_release(&d);
    inspect_run(&a, from);
    inspect_run(&b, to);
    EXPECT_TRUE(a.main.parameters > 0);
    EXPECT_EQ_U64(a.main.parameters, b.main.parameters);
    EXPECT_EQ_U64(0, b.other.parameters);
    inspect_release(&a);
    inspect_release(&b);
}

/* As Kimi-K2.5's own: only routed experts are quantized. */
#define QUANT_KIMI                                                                                                     \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"group_0\":{"          \
    "\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"type\":\"int\",\"symmetric\":true,\"strategy\":"           \
    "\"group\",\"group_size\":32}}},\"ignore\":[\"re:.*lm_head\",\"re:.*self_attn.*\",\"re:.*shared_experts.*\","      \
    "\"re:.*mlp\\\\.(gate|up|gate_up|down)_proj.*\"]}"

static const struct nested {
    const char *recipe;
    bool quantized;
    unsigned quant;
} targets[] = {
    {"bf16", false, QUANT_NONE},
    {"fp8", true, QUANT_FP8},
    {"int4:g64:absmax", true, QUANT_COMPRESSED_TENSORS},
    {"[{\"match\": \"routed_expert\", \"scheme\": \"int4\", \"group\": 32, \"method\": \"search\"},"
     "{\"match\": \"*\", \"scheme\": \"keep\"}]",
     true, QUANT_COMPRESSED_TENSORS},
};

TEST(nested, a_language_model_inside_another_is_converted_verified_and_compared)
{
    static const struct {
        const struct scheme *linear;
        const char *quantization;
    } sources[] = {{&support_kimi_int4, QUANT_KIMI}, {&support_bf16, NULL}};
    struct arena a = {0};

    for (size_t s = 0; s < 2; s++) {
        const char *src = put_nested(sources[s].linear, sources[s].quantization);
        for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
            struct conversion_case c = {.recipe = targets[i].recipe, .threads = 2, .fingerprint = true};
            const char *dst = path_join(&a, ct_temp_dir(), "dst");
            struct source from = {0}, to = {0};
            struct err e = {0};

            ct_case("%s to %s", s == 0 ? "int4" : "BF16", targets[i].recipe);
            ASSERT_OK(support_convert(src, dst, &c, &e) && source_open(&from, src, true, &e) &&
                          source_open(&to, dst, true, &e),
                      e);
            EXPECT_EQ_I64(targets[i].quant, to.arch.quant);
            expect_place(&to, targets[i].quantized);
            expect_intact(dst, src);
            expect_same_model(&from, &to);
            source_close(&from);
            source_close(&to);
        }
    }
    arena_release(&a);
}

/* Its names were looked up without the prefix, and long contexts ran as if attention were dense. */
TEST(nested, sparse_attention_is_seen_behind_the_prefix)
{
    static const uint32_t ids[9] = {0};
    static const char text_config[] = "\"text_config\": {";
    struct sequence nine = {.tokens = 9};
    struct batch b = {ids, 9, &nine, 1};
    struct forward_options o = {.threads = 1};
    struct forward *f = NULL;
    struct ckpt_maker m = {0};
    struct source s = {0};
    struct buf config = {0};
    struct err e = {0};
    const char *src = ct_temp_dir();

    make_nested(&m, &support_bf16, NULL);
    const char *inner = strstr(m.config, text_config);
    ASSERT_TRUE(inner != NULL);
    buf_add(&config, m.config, (size_t)(inner - m.config) + strlen(text_config));
    buf_printf(&config, "\"index_topk\": 8,%s", inner + strlen(text_config));
    m.config = config.data;
    for (unsigned i = 0; i < 3; i++)
        ckpt_matrix(&m, arena_printf(&m.arena, "language_model.model.layers.%u.self_attn.indexer.wk.weight", i),
                    DTYPE_BF16, 16, 256, NULL);
    ckpt_write(&m, src);
    ASSERT_OK(source_open(&s, src, true, &e) && forward_open(&f, &s, &o, &e), e);
    EXPECT_FALSE(forward_begin(f, &b, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "a context of 9 tokens needs the model's sparse attention: 8 is the longest");
    forward_close(f);
    source_close(&s);
    buf_release(&config);
    ckpt_release(&m);
}
