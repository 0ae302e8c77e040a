/* Whether two passes have a layer's weights in common, and what they then need not compute twice. */
#include "verify/layer_same.h"

#include <string.h>

#include "tests/ct.h"
#include "tests/forward_support.h"

/* 4 of 16 experts each: past the 256 tokens for each expert that make comparing experts worth it, and not. */
enum { MANY = 1100, FEW = 1000, LAYERS = 3 };

/* ---- what is the same ---- */

struct change {
    const char *what;
    const char *tensor;            /* its last byte gets another value; NULL: none */
    const char *from, *to;         /* a text of config.json */
    const char *attention, *whole; /* by layer, the draft layer last: y or n */
};

static const struct change changes[] = {
    {"nothing", NULL, NULL, NULL, "yyyy", "yyyy"},
    {"attention, a code", "model.layers.1.self_attn.o_proj.weight", NULL, NULL, "ynyy", "ynyy"},
    {"attention, a scale", "model.layers.0.self_attn.q_b_proj.weight_scale_inv", NULL, NULL, "nyyy", "nyyy"},
    {"attention, a norm", "model.layers.2.self_attn.kv_a_layernorm.weight", NULL, NULL, "yyny", "yyny"},
    {"input norm", "model.layers.3.input_layernorm.weight", NULL, NULL, "yyyn", "yyyn"},
    {"norm behind attention", "model.layers.0.post_attention_layernorm.weight", NULL, NULL, "yyyy", "nyyy"},
    {"dense layer", "model.layers.0.mlp.up_proj.weight", NULL, NULL, "yyyy", "nyyy"},
    {"shared expert", "model.layers.1.mlp.shared_experts.down_proj.weight_scale_inv", NULL, NULL, "yyyy", "ynyy"},
    {"router", "model.layers.2.mlp.gate.weight", NULL, NULL, "yyyy", "yyny"},
    {"router's bias", "model.layers.2.mlp.gate.e_score_correction_bias", NULL, NULL, "yyyy", "yyny"},
    {"last expert", "model.layers.3.mlp.experts.15.down_proj.weight", NULL, NULL, "yyyy", "yyyn"},
    {"an embedding", "model.embed_tokens.weight", NULL, NULL, "yyyy", "yyyy"},
    {"rope", NULL, "\"rope_theta\": 10000", "\"rope_theta\": 10001", "nnnn", "nnnn"},
    {"YaRN", NULL, "\"mscale\": 1.0", "\"mscale\": 0.9", "nnnn", "nnnn"},
    {"epsilon", NULL, "1e-06", "1e-05", "nnnn", "nnnn"},
    {"routing", NULL, "\"routed_scaling_factor\": 2.5", "\"routed_scaling_factor\": 2", "nnnn", "nnnn"},
    {"what may be asked", NULL, "\"max_position_embeddings\": 163840", "\"max_position_embeddings\": 4096", "yyyy",
     "yyyy"},
};

static void make(struct made *m, const struct change *c)
{
    if (c->from)
        made_init_with(m, "fp8", c->from, c->to);
    else
        made_init(m, "fp8");
    for (size_t i = 0; c->tensor && i < m->maker.count; i++)
        if (strcmp(m->maker.tensors[i].name, c->tensor) == 0)
            ((uint8_t *)m->maker.data[i])[m->maker.tensors[i].bytes - 1] ^= 1;
    made_open(m);
}

static struct forward *begin(struct made *m, const struct forward_options *o, const struct batch *b)
{
    struct forward *f = NULL;
    struct err e = {0};

    EXPECT_OK(forward_open(&f, &m->source, o, &e) && forward_begin(f, b, &e), e);
    return f;
}

static void expect_same(struct made *a, struct made *b, size_t tokens, const char *attention, const char *whole)
{
    const struct sequence all = {.tokens = tokens};
    const struct batch batch = {made_ids(a, tokens), tokens, &all, 1};
    struct forward_options o = {.threads = 2};
    struct forward *f = begin(a, &o, &batch), *g = begin(b, &o, &batch);

    for (uint64_t layer = 0; f && g && layer <= LAYERS; layer++) {
        struct layer_same same;
        struct err e = {0};
        EXPECT_OK(layer_same_find(&same, f, g, layer, &e), e);
        EXPECT_EQ_I64(attention[layer] == 'y', same.attention);
        EXPECT_EQ_I64(whole[layer] == 'y', same.whole);
    }
    forward_close(f);
    forward_close(g);
}

TEST(layer_same, one_changed_byte_or_number_is_seen_where_it_counts)
{
    struct made a;

    make(&a, &changes[0]);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct made b;
        ct_case("%s", changes[i].what);
        make(&b, &changes[i]);
        expect_same(&a, &b, MANY, changes[i].attention, changes[i].whole);
        made_release(&b);
    }
    made_release(&a);
}

/* Equal values are not equal bytes, and no product is asked whether it minds. */
TEST(layer_same, other_storage_of_the_same_values_is_not_the_same)
{
    const char *name = "model.layers.1.input_layernorm.weight";
    struct made a, b;
    uint32_t wide[64];

    make(&a, &changes[0]);
    made_init(&b, "fp8");
    for (size_t i = 0; i < b.maker.count; i++)
        for (size_t c = 0; c < 64 && strcmp(b.maker.tensors[i].name, name) == 0; c++)
            wide[c] = (uint32_t)((const uint16_t *)b.maker.data[i])[c] << 16;
    ckpt_drop(&b.maker, name);
    ckpt_vector(&b.maker, name, DTYPE_F32, 64, wide);
    made_open(&b);
    expect_same(&a, &b, MANY, "ynyy", "ynyy");
    made_release(&a);
    made_release(&b);
}

TEST(layer_same, experts_that_get_few_tokens_are_not_read)
{
    struct made a, b;

    make(&a, &changes[0]);
    make(&b, &changes[0]);
    expect_same(&a, &b, FEW, "yyyy", "ynnn");
    made_release(&a);
    made_release(&b);
}

/* What stands behind the last layer: logits and drafts, y or n. */
static void expect_outputs(struct made *a, const struct change *c, size_t tokens, const char *want)
{
    const struct sequence all = {.tokens = tokens};
    const struct batch batch = {made_ids(a, tokens), tokens, &all, 1};
    struct forward_options o = {.threads = 2};
    struct outputs_same same = {0};
    struct made b;
    struct err e = {0};

    ct_case("%s, %zu tokens", c->what, tokens);
    make(&b, c);
    struct forward *f = begin(a, &o, &batch), *g = begin(&b, &o, &batch);
    if (f && g)
        EXPECT_OK(outputs_same_find(&same, f, g, &e), e);
    EXPECT_EQ_I64(want[0] == 'y', same.logits);
    EXPECT_EQ_I64(want[1] == 'y', same.drafts);
    forward_close(f);
    forward_close(g);
    made_release(&b);
}

TEST(layer_same, a_change_behind_the_last_layer_is_seen)
{
    static const struct {
        struct change change;
        const char *want;
    } cases[] = {
        {{.what = "nothing"}, "yy"},
        {{.what = "head", .tensor = "lm_head.weight"}, "nn"},
        {{.what = "final norm", .tensor = "model.norm.weight"}, "nn"},
        {{.what = "embedding", .tensor = "model.embed_tokens.weight"}, "yn"},
        {{.what = "projection", .tensor = "model.layers.3.eh_proj.weight"}, "yn"},
        {{.what = "MTP norm", .tensor = "model.layers.3.shared_head.norm.weight"}, "yn"},
        {{.what = "MTP attention", .tensor = "model.layers.3.self_attn.o_proj.weight"}, "yn"},
        {{.what = "MTP expert", .tensor = "model.layers.3.mlp.experts.7.up_proj.weight"}, "yn"},
        {{.what = "a layer before", .tensor = "model.layers.2.self_attn.o_proj.weight"}, "yy"},
        {{.what = "rope", .from = "\"rope_theta\": 10000", .to = "\"rope_theta\": 10001"}, "nn"},
    };
    struct made a;

    make(&a, &changes[0]);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_outputs(&a, &cases[i].change, MANY, cases[i].want);
    expect_outputs(&a, &cases[0].change, FEW, "yn");
    expect_outputs(&a, &cases[0].change, 255, "nn");
    made_release(&a);
}

/* ---- what is taken ---- */

struct pass {
    struct forward *f;
    struct stream in, out;
};

static void open_pass(struct pass *p, struct made *m, enum emulate emulate, bool in_files)
{
    struct batch b = made_batch(m);
    struct forward_options o = {.threads = 2, .emulate = emulate};
    struct err e = {0};

    *p = (struct pass){0};
    if (in_files) {
        p->f = begin(m, &o, &b);
        o.memory_bytes = forward_memory_bytes(p->f, &b);
        forward_close(p->f);
    }
    p->f = begin(m, &o, &b);
    EXPECT_OK(forward_stream(p->f, &p->in, &e) && forward_stream(p->f, &p->out, &e), e);
    EXPECT_EQ_I64(!in_files, p->in.memory != NULL);
}

static void close_pass(struct pass *p)
{
    stream_close(&p->in);
    stream_close(&p->out);
    forward_close(p->f);
}

static bool note(void *ctx, const struct routing *r, struct err *e)
{
    (void)e;
    memcpy((uint32_t *)ctx + r->first * r->top_k, r->ids, r->tokens * r->top_k * sizeof *r->ids);
    return true;
}

/* Every layer of `whole`, and what `half` makes of its attention. */
static void expect_behind(struct pass *whole, struct pass *half, struct made *m)
{
    size_t elems = MADE_TOKENS * m->arch.hidden_size, choices = MADE_TOKENS * m->arch.experts_per_token;
    struct arena *a = &m->maker.arena;
    float *want = arena_array(a, elems, sizeof *want), *got = arena_array(a, elems, sizeof *got);
    struct err e = {0};

    ASSERT_OK(forward_embed(whole->f, &whole->in, &e), e);
    for (uint64_t layer = 0; layer < LAYERS; layer++) {
        uint32_t *wanted = arena_array(a, choices, sizeof *wanted), *chosen = arena_array(a, choices, sizeof *chosen);
        struct observer first = {.ctx = wanted, .routing = note}, second = {.ctx = chosen, .routing = note};
        const float *rows[2];
        ASSERT_OK(forward_layer(whole->f, layer, &whole->in, &whole->out, &first, &e), e);
        ASSERT_OK(forward_layer_behind(half->f, layer, whole->f, &half->out, &second, &e), e);
        ASSERT_OK(stream_read(&whole->out, 0, MADE_TOKENS, want, &rows[0], &e) &&
                      stream_read(&half->out, 0, MADE_TOKENS, got, &rows[1], &e),
                  e);
        EXPECT_MEM_EQ(rows[0], rows[1], elems * sizeof *want);
        EXPECT_MEM_EQ(wanted, chosen, choices * sizeof *chosen);
        struct stream last = whole->in;
        whole->in = whole->out;
        whole->out = last;
    }
}

TEST(layer_same, a_layer_behind_another_passs_attention_has_the_same_bits)
{
    static const char *const kinds[] = {"fp8", "v2-lite"};
    static const enum emulate emulations[] = {EMULATE_NONE, EMULATE_FP8_ACTIVATIONS, EMULATE_BF16};

    for (size_t i = 0; i < 24; i++) {
        struct made m;
        struct pass whole, half;
        ct_case("%s, emulation %zu, in files: %zu %zu", kinds[i % 2], i / 8, i / 2 % 2, i / 4 % 2);
        made_init(&m, kinds[i % 2]);
        made_open(&m);
        open_pass(&whole, &m, emulations[i / 8], i / 2 % 2);
        open_pass(&half, &m, emulations[i / 8], i / 4 % 2);
        if (whole.f && half.f)
            expect_behind(&whole, &half, &m);
        close_pass(&whole);
        close_pass(&half);
        made_release(&m);
    }
}
