/* What a forward pass promises beside its numbers: the same bits, hooks, refusals. The numbers are in
 * forward_golden_test.c. */
#include "verify/forward.h"
#include "verify/forward_options.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "quant/transform.h"
#include "tests/ct.h"
#include "tests/forward_support.h"
#include "verify/forward_options.h"
#include "verify/mtp.h"
#include "verify/step.h"

/* ---- the same bits ---- */

static uint64_t least_memory(struct made *m, const struct forward_options *o, const struct batch *b)
{
    struct forward *f = NULL;
    struct err e = {0};

    EXPECT_OK(forward_open(&f, &m->source, o, &e), e);
    uint64_t bytes = f ? forward_memory_bytes(f, b) : 0;
    forward_close(f);
    return bytes;
}

TEST(forward, threads_memory_and_slices_change_no_bit)
{
    static const char *const kinds[] = {"fp8", "v2-lite", "int4"};
    static const enum emulate emulations[] = {EMULATE_NONE, EMULATE_BF16, EMULATE_FP8_ACTIVATIONS};

    for (size_t i = 0; i < 3; i++) {
        struct made m;
        float *want_hidden = NULL, *want = NULL, *hidden = NULL, *logits = NULL;
        struct forward_options first = {.threads = 1, .emulate = emulations[i]};
        struct err e = {0};

        made_init(&m, kinds[i]);
        made_open(&m);
        struct batch b = made_batch(&m);
        ASSERT_OK(made_run(&m, &first, &b, NULL, &want_hidden, &want, &e), e);
        for (size_t j = 0; j < 9; j++) {
            struct forward_options o = {
                .threads = (unsigned[]){2, 7, 1, 2, 7, 3, 1, 7, 2}[j], .emulate = emulations[i], .by_slices = j >= 6};
            if (j >= 2 && j <= 7)
                o.memory_bytes = least_memory(&m, &o, &b) + (j == 4 || j == 5 ? 60000 * (j - 3) : 0);
            ct_case("%s, %u threads, %llu bytes%s", kinds[i], o.threads, (unsigned long long)o.memory_bytes,
                    o.by_slices ? ", by slices" : "");
            ASSERT_OK(made_run(&m, &o, &b, NULL, &hidden, &logits, &e), e);
            EXPECT_MEM_EQ(want_hidden, hidden, b.tokens * m.arch.hidden_size * sizeof *hidden);
            EXPECT_MEM_EQ(want, logits, b.tokens * m.arch.vocab_size * sizeof *logits);
        }
        made_release(&m);
    }
}

TEST(forward, a_context_has_the_same_bits_alone_and_its_beginning_too)
{
    struct sequence alone = {.tokens = 21}, beginning = {.tokens = 131};
    struct forward_options o = {.threads = 2};
    struct made m;
    float *all = NULL, *logits = NULL;
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    struct batch b = made_batch(&m), second = {b.ids + 150, 21, &alone, 1}, cut = {b.ids, 131, &beginning, 1};
    ASSERT_OK(made_run(&m, &o, &b, NULL, NULL, &all, &e), e);
    ASSERT_OK(made_run(&m, &o, &second, NULL, NULL, &logits, &e), e);
    EXPECT_MEM_EQ(all + 150 * m.arch.vocab_size, logits, 21 * m.arch.vocab_size * sizeof *logits);
    ASSERT_OK(made_run(&m, &o, &cut, NULL, NULL, &logits, &e), e);
    EXPECT_MEM_EQ(all, logits, 131 * m.arch.vocab_size * sizeof *logits);
    made_release(&m);
}

/* ---- steps ---- */

static double worst(const float *want, const float *got, size_t n)
{
    double off = 0, largest = 0;

    for (size_t i = 0; i < n; i++) {
        off = isnan(got[i]) ? INFINITY : fmax(off, fabs((double)want[i] - (double)got[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    return off / largest;
}

TEST(forward, steps_behind_a_prefill_agree_with_the_whole)
{
    static const char *const kinds[] = {"fp8", "v2-lite", "eps"};

    for (size_t k = 0; k < 3; k++) {
        struct sequence whole = {.tokens = 150, .start_pos = 30};
        struct forward_options o = {.threads = 2};
        struct forward *f = NULL;
        struct cache c = {0};
        struct made m;
        float *want = NULL;
        struct err e = {0};

        ct_case("%s", kinds[k]);
        made_init(&m, kinds[k]);
        made_open(&m);
        size_t vocab = m.arch.vocab_size;
        struct batch b = {made_ids(&m, 150), 150, &whole, 1};
        float *logits = arena_array(&m.maker.arena, vocab, sizeof *logits);
        ASSERT_OK(made_run(&m, &o, &b, NULL, NULL, &want, &e) && forward_open(&f, &m.source, &o, &e), e);
        cache_open(&c, f, 30, 150);
        ASSERT_OK(forward_prefill(f, &c, b.ids, 125, logits, &e), e);
        EXPECT_MEM_EQ(want + 124 * vocab, logits, vocab * sizeof *logits);
        for (size_t t = 125; t < 150; t++) {
            ASSERT_OK(forward_step(f, &c, b.ids[t], logits, &e), e);
            EXPECT_NEAR_F64(0, worst(want + t * vocab, logits, vocab), 1e-5);
        }
        cache_release(&c);
        forward_close(f);
        made_release(&m);
    }
}

/* ---- hooks ---- */

struct watch {
    struct made *made;
    size_t inputs[ROLE_COUNT], linears[ROLE_COUNT], tokens_routed;
    atomic_size_t expert_tokens, expert_calls, made_tokens;
    const float *router_input; /* [tokens][hidden] of layer 1 */
    float *kept;
    bool drop_experts, decode_linears;
};

static bool watch_input(void *ctx, const struct linear_input *in, struct err *e)
{
    struct watch *w = ctx;

    (void)e;
    if (in->role != ROLE_ROUTER) /* all of a layer's inputs come before its weight is offered */
        EXPECT_TRUE(!w->decode_linears || w->linears[in->role] == w->inputs[in->role] / MADE_TOKENS);
    EXPECT_TRUE(in->cols <= in->x_stride && in->first + in->tokens <= MADE_TOKENS);
    w->inputs[in->role] += in->tokens;
    if (in->role == ROLE_ROUTER && in->layer == 1)
        for (size_t t = 0; t < in->tokens; t++)
            memcpy(w->kept + (in->first + t) * in->cols, in->x + t * in->x_stride, in->cols * sizeof(float));
    return true;
}

/* The same numbers as float32. */
static void decode(struct watch *w, struct coded *c)
{
    float *x = arena_array(&w->made->maker.arena, c->rows * c->cols, sizeof *x);
    void *scratch = arena_alloc(&w->made->maker.arena, decode_scratch_bytes(&c->scheme, c->cols) + MEM_ALIGN);
    struct err e = {0};

    scratch = (void *)(((uintptr_t)scratch + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN);
    EXPECT_OK(decode_rows(kernel_get(), &c->scheme, 0, c->rows, c->rows, c->cols, &c->parts, x, scratch, &e), e);
    *c = (struct coded){.scheme = {.kind = SCHEME_PLAIN, .dtype = DTYPE_F32}, .rows = c->rows, .cols = c->cols};
    c->parts.part[PART_CODES] = x;
}

static bool watch_linear(void *ctx, uint64_t layer, enum role role, struct coded *c, struct err *e)
{
    struct watch *w = ctx;

    (void)layer;
    (void)e;
    w->linears[role]++;
    if (w->decode_linears)
        decode(w, c);
    return true;
}

static bool watch_expert(void *ctx, unsigned worker, const struct expert_call *c, struct coded mlp[3], struct err *e)
{
    struct watch *w = ctx;
    size_t d = w->made->arch.hidden_size;
    float x[2 * 64];

    (void)worker;
    atomic_fetch_add(&w->expert_calls, 1);
    atomic_fetch_add(&w->expert_tokens, c->count);
    EXPECT_TRUE(c->count > 0);
    if (c->layer == 1 && c->count > 1) {
        EXPECT_OK(expert_inputs(c, c->count - 2, 2, x, e), *e);
        EXPECT_MEM_EQ(w->kept + c->tokens[c->count - 1] * d, x + d, d * sizeof *x);
    }
    static float nothing[64 * 64];
    if (w->drop_experts)
        for (size_t i = 0; i < 3; i++) {
            mlp[i].scheme = (struct scheme){.kind = SCHEME_PLAIN, .dtype = DTYPE_F32};
            mlp[i].parts.part[PART_CODES] = nothing;
        }
    return true;
}

/* Dropped experts give nothing; the others something. */
static void watch_made(void *ctx, const struct expert_made *m)
{
    struct watch *w = ctx;

    atomic_fetch_add(&w->made_tokens, m->tokens);
    EXPECT_TRUE(m->inner == w->made->arch.moe_intermediate_size && m->hidden == w->made->arch.hidden_size);
    EXPECT_TRUE(w->drop_experts == (kernel_get()->absmax(m->act, m->tokens * m->inner) == 0));
    EXPECT_TRUE(w->drop_experts == (kernel_get()->absmax(m->out, m->tokens * m->hidden) == 0));
}

TEST(forward, hooks_see_every_input_once_before_the_weight_is_used_and_may_replace_it)
{
    struct forward_options o = {.threads = 2};
    struct made m;
    float *want = NULL, *got = NULL;
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    struct batch b = made_batch(&m);
    struct watch w = {.made = &m, .decode_linears = true};
    w.kept = arena_array(&m.maker.arena, MADE_TOKENS * m.arch.hidden_size, sizeof *w.kept);
    struct observer watching = {
        .ctx = &w, .input = watch_input, .linear = watch_linear, .expert = watch_expert, .made = watch_made};
    ASSERT_OK(made_run(&m, &o, &b, NULL, &want, NULL, &e), e);
    for (uint64_t memory = 0; memory < 2; memory++) {
        memset(w.inputs, 0, sizeof w.inputs);
        memset(w.linears, 0, sizeof w.linears);
        w.expert_tokens = w.expert_calls = w.made_tokens = 0;
        o.memory_bytes = memory ? least_memory(&m, &o, &b) : 0; /* then an expert is larger than a wave */
        ASSERT_OK(made_run(&m, &o, &b, &watching, &got, NULL, &e), e);
        EXPECT_MEM_EQ(want, got, MADE_TOKENS * m.arch.hidden_size * sizeof *got);
        static const enum role of_all[] = {ROLE_Q_A_PROJ, ROLE_Q_B_PROJ, ROLE_KV_B_PROJ, ROLE_O_PROJ};
        for (size_t i = 0; i < 4; i++)
            EXPECT_EQ_U64(3 * MADE_TOKENS, w.inputs[of_all[i]]);
        EXPECT_EQ_U64(0, w.inputs[ROLE_KV_A_PROJ]); /* q_a's */
        EXPECT_EQ_U64(3, w.linears[ROLE_KV_A_PROJ]);
        EXPECT_EQ_U64(MADE_TOKENS, w.inputs[ROLE_DENSE_GATE]);
        EXPECT_EQ_U64(MADE_TOKENS, w.inputs[ROLE_DENSE_DOWN]);
        EXPECT_EQ_U64(2 * MADE_TOKENS, w.inputs[ROLE_SHARED_DOWN]);
        EXPECT_EQ_U64(2 * MADE_TOKENS, w.inputs[ROLE_ROUTER]);
        EXPECT_EQ_U64(2, w.linears[ROLE_SHARED_UP]);
        EXPECT_EQ_U64(2 * MADE_TOKENS * 4, w.expert_tokens);
        EXPECT_EQ_U64(2 * MADE_TOKENS * 4, w.made_tokens);
        EXPECT_TRUE(w.expert_calls <= 2 * 16);
    }
    made_release(&m);
}

TEST(forward, experts_of_a_hook_take_the_place_of_the_stored_ones)
{
    struct forward_options o = {.threads = 2};
    struct made m;
    float *want = NULL, *got = NULL;
    struct err e = {0};

    made_init(&m, "negative-bias"); /* a dense layer and one with experts */
    made_open(&m);
    struct batch b = made_batch(&m);
    struct watch w = {.made = &m, .drop_experts = true};
    w.kept = arena_array(&m.maker.arena, MADE_TOKENS * m.arch.hidden_size, sizeof *w.kept);
    struct observer dropping = {.ctx = &w, .input = watch_input, .expert = watch_expert, .made = watch_made};
    ASSERT_OK(made_run(&m, &o, &b, &dropping, &got, NULL, &e), e);
    /* The same model with experts whose down_proj is zero. */
    for (size_t i = 0; i < m.maker.count; i++)
        if (strstr(m.maker.tensors[i].name, ".experts.") && strstr(m.maker.tensors[i].name, "down_proj"))
            memset(m.maker.data[i], 0, m.maker.tensors[i].bytes);
    source_close(&m.source);
    made_open(&m);
    ASSERT_OK(made_run(&m, &o, &b, NULL, &want, NULL, &e), e);
    EXPECT_MEM_EQ(want, got, MADE_TOKENS * m.arch.hidden_size * sizeof *got);
    made_release(&m);
}

/* ---- refusals ---- */

static void poke(struct made *m, const char *name, size_t at, const void *bytes, size_t count)
{
    for (size_t i = 0; i < m->maker.count; i++)
        if (strcmp(m->maker.tensors[i].name, name) == 0) {
            memcpy((char *)m->maker.data[i] + at, bytes, count);
            return;
        }
    EXPECT_STR_EQ("is there", name);
}

static void add_bias(struct made *m)
{
    ckpt_vector(&m->maker, "model.layers.1.self_attn.o_proj.bias", DTYPE_BF16, m->arch.hidden_size, NULL);
}

static void drop_norm(struct made *m)
{
    ckpt_drop(&m->maker, "model.layers.2.post_attention_layernorm.weight");
}

static void drop_expert(struct made *m)
{
    ckpt_drop(&m->maker, "model.layers.1.mlp.experts.7.up_proj.weight");
    ckpt_drop(&m->maker, "model.layers.1.mlp.experts.7.up_proj.weight_scale_inv");
}

static void nan_in_a_matrix(struct made *m)
{
    poke(m, "model.layers.1.self_attn.kv_b_proj.weight", 40 * 32 + 3, "\x7f", 1);
}

static void nan_in_an_expert(struct made *m)
{
    for (size_t i = 0; i < 16; i++) {
        char name[80];
        snprintf(name, sizeof name, "model.layers.2.mlp.experts.%zu.down_proj.weight", i);
        poke(m, name, 5, "\xff", 1);
    }
}

static void nan_in_a_norm(struct made *m)
{
    poke(m, "model.norm.weight", 6, "\xc0\x7f", 2);
}

/* 3e38 from the norm, times weights: past float32. */
static void overflow(struct made *m)
{
    for (size_t i = 0; i < m->arch.hidden_size; i++)
        poke(m, "model.layers.1.post_attention_layernorm.weight", 2 * i, "\x61\x7f", 2);
}

static void nan_in_the_embedding(struct made *m)
{
    for (size_t i = 0; i < m->arch.vocab_size; i++)
        poke(m, "model.embed_tokens.weight", 2 * 64 * i, "\x80\x7f", 2);
}

struct refusal {
    const char *name;
    void (*change)(struct made *m);
    enum err_code code;
    const char *part[2];
};

static const struct refusal refusals[] = {
    {"a bias", add_bias, ERR_UNSUPPORTED, {"'model.layers.1.self_attn.o_proj.bias' is a bias"}},
    {"a norm is gone", drop_norm, ERR_FORMAT, {"there is no 'model.layers.2.post_attention_layernorm.weight'"}},
    {"an expert is gone", drop_expert, ERR_FORMAT, {"there is no 'model.layers.1.mlp.experts.7.up_proj.weight'"}},
    {"NaN in a matrix",
     nan_in_a_matrix,
     ERR_FORMAT,
     {"tensor 'model.layers.1.self_attn.kv_b_proj.weight'", "row 40, column 3"}},
    {"NaN in experts", nan_in_an_expert, ERR_FORMAT, {"tensor 'model.layers.2.mlp.experts.", "row 0, column 5"}},
    {"NaN in a norm", nan_in_a_norm, ERR_FORMAT, {"tensor 'model.norm.weight'", "column 3"}},
    {"numbers that run away", overflow, ERR_FORMAT, {"layer 1, token ", "is not finite"}},
    {"infinity in the embedding", nan_in_the_embedding, ERR_FORMAT, {"tensor 'model.embed_tokens.weight'"}},
};

TEST(forward, what_cannot_be_computed_is_refused_by_name)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct forward_options o = {.threads = 2};
        struct made m;
        float *logits = NULL;
        struct err e = {0};

        ct_case("%s", refusals[i].name);
        made_init(&m, "fp8");
        refusals[i].change(&m);
        made_open(&m);
        struct batch b = made_batch(&m);
        EXPECT_FALSE(made_run(&m, &o, &b, NULL, NULL, &logits, &e));
        for (size_t p = 0; p < 2 && refusals[i].part[p]; p++)
            EXPECT_ERR(e, refusals[i].code, refusals[i].part[p]);
        made_release(&m);
    }
}

TEST(forward, batches_that_do_not_fit_the_model_are_refused_with_both_numbers)
{
    uint32_t ids[4] = {1, 2, 95, 3};
    struct sequence s = {.tokens = 4};
    struct batch b = {ids, 4, &s, 1};
    struct forward_options o = {.threads = 1};
    struct forward *f = NULL;
    struct made m;
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    ASSERT_OK(forward_open(&f, &m.source, &o, &e) && forward_begin(f, &b, &e), e);
    ids[2] = 96;
    EXPECT_FALSE(forward_begin(f, &b, &e));
    EXPECT_ERR(e, ERR_FORMAT, "token 2 is 96, but the vocabulary has 96 entries");
    ids[2] = 0;
    s.start_pos = 163840 - 4;
    ASSERT_OK(forward_begin(f, &b, &e), e);
    s.start_pos++;
    EXPECT_FALSE(forward_begin(f, &b, &e));
    EXPECT_ERR(e, ERR_LIMIT, "a context of 4 tokens from position 163837 goes past the model's 163840 positions");
    forward_close(f);

    s.start_pos = 0;
    o.memory_bytes = 1000;
    ASSERT_OK(forward_open(&f, &m.source, &o, &e), e);
    EXPECT_FALSE(forward_begin(f, &b, &e));
    EXPECT_ERR(e, ERR_MEMORY, "--memory 1000 is less than the ");
    forward_close(f);
    made_release(&m);
}

TEST(forward, a_model_without_its_mtp_layer_runs_and_says_so_when_it_is_wanted)
{
    struct forward_options o = {.threads = 1};
    struct forward *f = NULL;
    struct made m;
    struct stream last = {0}, out = {0};
    struct mtp_batch mtp;
    float *logits = NULL;
    struct err e = {0};

    made_init(&m, "fp8");
    ckpt_drop(&m.maker, "model.layers.3.eh_proj.weight");
    made_open(&m);
    struct batch b = made_batch(&m);
    ASSERT_OK(made_run(&m, &o, &b, NULL, NULL, &logits, &e) && forward_open(&f, &m.source, &o, &e), e);
    mtp_batch_init(&mtp, &b);
    EXPECT_FALSE(forward_mtp(f, &mtp, &last, &out, NULL, &e));
    EXPECT_ERR(e, ERR_FORMAT, "there is no 'model.layers.3.eh_proj.weight'");
    mtp_batch_release(&mtp);
    forward_close(f);
    made_release(&m);
}

/* DeepSeek-V3.2: with as many tokens as its indexer keeps, sparse attention is dense. */
TEST(forward, sparse_attention_is_refused_past_the_tokens_it_keeps)
{
    static const uint32_t ids[9] = {0};
    struct sequence s = {.tokens = 8};
    struct batch b = {ids, 8, &s, 1};
    struct forward_options o = {.threads = 1};
    struct forward *f = NULL;
    struct made m;
    struct buf config = {0};
    struct err e = {0};

    made_init(&m, "negative-bias");
    buf_printf(&config, "{\"index_topk\": 8, %s", m.config + 1);
    m.maker.config = config.data;
    for (size_t i = 0; i < m.arch.layers; i++)
        ckpt_matrix(&m.maker, arena_printf(&m.maker.arena, "model.layers.%zu.self_attn.indexer.wk.weight", i),
                    DTYPE_BF16, 16, 64, NULL);
    made_open(&m);
    EXPECT_STR_HAS(forward_caveat(&m.maker.arena, &m.source),
                   "is not run: up to 8 tokens its sparse attention is dense");
    ASSERT_OK(forward_open(&f, &m.source, &o, &e) && forward_begin(f, &b, &e), e);
    b.tokens = s.tokens = 9;
    EXPECT_FALSE(forward_begin(f, &b, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "a context of 9 tokens needs the model's sparse attention: 8 is the longest");

    /* It is tokens that it chooses among, wherever they stand. */
    float *logits = mem_alloc(m.arch.vocab_size * sizeof *logits);
    struct cache cache;
    e = (struct err){0};
    b.tokens = s.tokens = 8;
    s.start_pos = 50;
    EXPECT_OK(forward_begin(f, &b, &e), e);
    cache_open(&cache, f, 50, 9);
    EXPECT_OK(forward_prefill(f, &cache, ids, 7, logits, &e) && forward_step(f, &cache, 0, logits, &e), e);
    EXPECT_FALSE(forward_step(f, &cache, 0, logits, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "a context of 9 tokens needs the model's sparse attention: 8 is the longest");
    cache_release(&cache);
    mem_free(logits);
    forward_close(f);
    buf_release(&config);
    made_release(&m);
}

TEST(forward, a_draft_is_accepted_when_both_heads_choose_alike)
{
    static const float a[4] = {0, 3, 1, 3}, b[4] = {-1, 2, 1, 0}, c[4] = {0, 1, 0, 2};

    EXPECT_TRUE(mtp_draft_accepted(a, b, 4)); /* the lower of equals */
    EXPECT_FALSE(mtp_draft_accepted(a, c, 4));
}
