/* Attention of a head against the order that verify/forward.h writes down, one query at a time. */
#include "verify/attend.h"

#include <math.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/vecmath.h"
#include "tests/kernel_support.h"

#define TOKENS_MAX 300u
#define DIM_MAX    80u
#define HEADS      2u

struct shape {
    size_t tokens, nope, rope, v, query_width, latent;
};

static struct {
    float q_b[DIM_MAX * DIM_MAX], kv_b[2 * DIM_MAX * DIM_MAX];
    float query[TOKENS_MAX * DIM_MAX], latent[TOKENS_MAX * DIM_MAX], turns[TOKENS_MAX * DIM_MAX];
    float keys[TOKENS_MAX * DIM_MAX], values[TOKENS_MAX * DIM_MAX];
    float want[TOKENS_MAX * DIM_MAX], got[TOKENS_MAX * HEADS * DIM_MAX];
} data;

static void make(const struct attend *a, const struct shape *s, uint64_t seed)
{
    support_floats(data.q_b, (s->nope + s->rope) * s->query_width, &seed, -4, 1);
    support_floats(data.kv_b, (s->nope + s->v) * s->latent, &seed, -4, 1);
    support_floats(data.query, s->tokens * s->query_width, &seed, -4, 1);
    support_floats(data.latent, s->tokens * (s->latent + s->rope), &seed, -4, 1);
    for (size_t i = 0; i < s->tokens; i++)
        rope_turns(a->rope, i, data.turns + i * s->rope);
}

/* A row of a linear's outputs. */
static void linear(const struct attend *a, float *y, const float *rows, size_t count, const float *x, size_t n)
{
    a->crew->kernel->vec->dots(y, x, rows, n, count, n);
    crew_round(a->crew, y, count);
}

static void scores_of(const struct attend *a, const float *query, size_t dim, size_t first, size_t count, float *scores)
{
    for (size_t k = 0; k < count; k++) {
        scores[k] = 0.0f;
        for (size_t i = 0; i < dim; i++)
            scores[k] = fmaf(query[i], data.keys[(first + k) * dim + i], scores[k]);
    }
    crew_round(a->crew, scores, count);
    a->crew->kernel->vec->scale(scores, scores, a->rope->softmax_scale, count);
    crew_round(a->crew, scores, count);
}

static void add_values(float *out, const float *weights, size_t first, size_t count, size_t v)
{
    for (size_t k = 0; k < count; k++)
        for (size_t c = 0; c < v; c++)
            out[c] = fmaf(weights[k], data.values[(first + k) * v + c], out[c]);
}

/* Query q of the context; bf16: in two passes, probabilities rounded. */
static void attend_one(const struct attend *a, const struct shape *s, const float *query, size_t q, float *out)
{
    const struct vecmath *v = a->crew->kernel->vec;
    bool bf16 = a->crew->emulate == EMULATE_BF16;
    float maximum = -INFINITY, scores[ATTEND_KEYS];
    double sum = 0.0;

    memset(out, 0, s->v * sizeof *out);
    for (size_t k = 0; k <= q; k += ATTEND_KEYS) {
        size_t count = q + 1 - k < ATTEND_KEYS ? q + 1 - k : ATTEND_KEYS;
        float shift = 1.0f;
        scores_of(a, query, s->nope + s->rope, k, count, scores);
        float most = v->max(scores, count), fall = maximum - most;
        if (most > maximum) {
            v->exp(&shift, &fall, 1);
            maximum = most;
        }
        sum = sum * (double)shift + v->exp_sum(scores, scores, maximum, count);
        for (size_t c = 0; c < s->v; c++)
            out[c] *= shift;
        if (!bf16)
            add_values(out, scores, k, count, s->v);
    }
    for (size_t k = 0; bf16 && k <= q; k += ATTEND_KEYS) {
        size_t count = q + 1 - k < ATTEND_KEYS ? q + 1 - k : ATTEND_KEYS;
        scores_of(a, query, s->nope + s->rope, k, count, scores);
        v->exp_sum(scores, scores, maximum, count);
        v->scale(scores, scores, (float)(1.0 / sum), count);
        v->round_bf16(scores, scores, count);
        add_values(out, scores, k, count, s->v);
    }
    v->scale(out, out, bf16 ? 1.0f : (float)(1.0 / sum), s->v);
    crew_round(a->crew, out, s->v);
}

static void attend_slowly(const struct attend *a, const struct shape *s)
{
    size_t dim = s->nope + s->rope, width = s->latent + s->rope;

    for (size_t i = 0; i < s->tokens; i++) {
        float *key = data.keys + i * dim;
        linear(a, key, data.kv_b, s->nope, data.latent + i * width, s->latent);
        memcpy(key + s->nope, data.latent + i * width + s->latent, s->rope * sizeof *key);
        linear(a, data.values + i * s->v, data.kv_b + s->nope * s->latent, s->v, data.latent + i * width, s->latent);
    }
    for (size_t i = 0; i < s->tokens; i++) {
        float query[DIM_MAX];
        linear(a, query, data.q_b, dim, data.query + i * s->query_width, s->query_width);
        rope_turn(a->rope, data.turns + i * s->rope, query + s->nope, a->crew->emulate == EMULATE_BF16);
        attend_one(a, s, query, i, data.want + i * s->v);
    }
}

static void attend_fast(const struct attend *a, const struct shape *s, size_t head)
{
    struct scratch need = {0}, memory = {0};
    struct attend_scratch scratch = {0};
    struct head_rows rows = {data.q_b, data.kv_b};
    struct context c = {s->tokens, data.query, data.latent, data.turns, data.got};
    struct err e = {0};

    attend_place(&scratch, a, s->tokens, &need);
    memory.base = mem_aligned(need.used_bytes);
    memset(memory.base, 0xFF, need.used_bytes); /* NaN */
    attend_place(&scratch, a, s->tokens, &memory);
    EXPECT_OK(attend_head(a, head, &rows, &c, &scratch, 0, &e), e);
    mem_free(memory.base);
}

static void compare(const struct shape *s, size_t head)
{
    for (size_t i = 0; i < s->tokens; i++)
        EXPECT_MEM_EQ(data.want + i * s->v, data.got + (i * HEADS + head) * s->v, s->v * sizeof *data.want);
}

static void run(const struct kernel *k, enum emulate emulate, const struct shape *s)
{
    struct arena arena = {0};
    struct arch arch = {.qk_nope_dim = s->nope, .qk_rope_dim = s->rope, .rope_theta = 10000};
    struct rope rope;
    struct crew crew;

    ct_case("%s, %zu tokens, %zu + %zu, %zu, %d", k->name, s->tokens, s->nope, s->rope, s->v, (int)emulate);
    rope_init(&rope, &arena, &arch);
    crew_init(&crew, 1, emulate, DIM_MAX);
    crew.kernel = k;
    struct attend a = {&crew, &rope, HEADS, s->nope, s->rope, s->v, s->query_width, s->latent};
    make(&a, s, s->tokens);
    attend_slowly(&a, s);
    attend_fast(&a, s, 1);
    compare(s, 1);
    crew_release(&crew);
    arena_release(&arena);
}

TEST(attend, every_query_has_the_bits_of_the_written_order)
{
    static const struct shape shapes[] = {
        {1, 4, 2, 4, 8, 8},        {7, 32, 16, 32, 40, 24},   {8, 16, 16, 33, 16, 16},          {33, 5, 6, 20, 9, 17},
        {127, 32, 16, 32, 40, 24}, {129, 32, 16, 64, 40, 24}, {TOKENS_MAX, 48, 16, 40, 32, 16},
    };

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_exact(i);
        for (size_t j = 0; k && j < sizeof shapes / sizeof shapes[0]; j++) {
            run(k, EMULATE_NONE, &shapes[j]);
            run(k, EMULATE_BF16, &shapes[j]);
        }
    }
}
