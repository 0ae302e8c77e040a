#include "verify/attend.h"

#include <math.h>
#include <string.h>

#include "quant/vecmath.h"

static size_t key_dim(const struct attend *a)
{
    return a->nope_dim + a->rope_dim;
}

static size_t tiles_of(size_t tokens)
{
    return (tokens + ATTEND_KEYS - 1) / ATTEND_KEYS;
}

void attend_place(struct attend_scratch *s, const struct attend *a, size_t tokens, struct scratch *memory)
{
    size_t tile_width = a->nope_dim > 1 ? a->nope_dim : 1;

    s->keys = scratch_take(memory, tiles_of(tokens) * key_dim(a) * ATTEND_KEYS * sizeof(float));
    s->values = scratch_take(memory, tokens * a->v_dim * sizeof(float));
    s->query = scratch_take(memory, ATTEND_QUERIES * key_dim(a) * sizeof(float));
    s->output = scratch_take(memory, ATTEND_QUERIES * a->v_dim * sizeof(float));
    s->tile = scratch_take(memory, ATTEND_KEYS * tile_width * sizeof(float));
    s->maximum = scratch_take(memory, ATTEND_QUERIES * sizeof(float));
    s->sum = scratch_take(memory, ATTEND_QUERIES * sizeof(double));
}

/* y[t][r] for some rows of a float32 matrix, as outputs of a linear. */
static bool multiply(const struct attend *a, const float *rows, size_t row_count, size_t cols, const float *x,
                     size_t x_stride, size_t tokens, float *y, unsigned worker, struct err *e)
{
    struct coded w = {.scheme = {.kind = SCHEME_PLAIN, .dtype = DTYPE_F32}, .rows = row_count, .cols = cols};

    w.parts.part[PART_CODES] = (float *)rows; /* gemm only reads */
    if (!gemm(a->crew->kernel, &w, 0, row_count, x, x_stride, tokens, y, row_count, false,
              crew_scratch(a->crew, worker), e))
        return false;
    crew_round(a->crew, y, tokens * row_count);
    return true;
}

/* ---- plain ---- */

/* A tile's keys, columns outside: scores of one query then run along tokens. */
static void transpose_keys(const struct attend *a, const float *nope, const float *latent, size_t count, float *keys)
{
    size_t width = a->latent_width + a->rope_dim;

    for (size_t i = 0; i < a->nope_dim; i++)
        for (size_t t = 0; t < count; t++)
            keys[i * ATTEND_KEYS + t] = nope[t * a->nope_dim + i];
    for (size_t i = 0; i < a->rope_dim; i++)
        for (size_t t = 0; t < count; t++)
            keys[(a->nope_dim + i) * ATTEND_KEYS + t] = latent[t * width + a->latent_width + i];
}

static bool make_keys(const struct attend *a, const float *kv_b, const struct context *c,
                      const struct attend_scratch *s, unsigned worker, struct err *e)
{
    size_t width = a->latent_width + a->rope_dim;

    for (size_t t = 0; t < c->tokens; t += ATTEND_KEYS) {
        size_t count = c->tokens - t < ATTEND_KEYS ? c->tokens - t : ATTEND_KEYS;
        const float *latent = c->latent + t * width;
        if (!multiply(a, kv_b, a->nope_dim, a->latent_width, latent, width, count, s->tile, worker, e))
            return false;
        transpose_keys(a, s->tile, latent, count, s->keys + t / ATTEND_KEYS * key_dim(a) * ATTEND_KEYS);
    }
    return multiply(a, kv_b + a->nope_dim * a->latent_width, a->v_dim, a->latent_width, c->latent, width, c->tokens,
                    s->values, worker, e);
}

static bool make_queries(const struct attend *a, const float *q_b, const struct context *c, size_t first, size_t count,
                         const struct attend_scratch *s, unsigned worker, struct err *e)
{
    if (!multiply(a, q_b, key_dim(a), a->query_width, c->query + first * a->query_width, a->query_width, count,
                  s->query, worker, e))
        return false;
    for (size_t t = 0; t < count; t++)
        rope_turn(a->rope, c->turns + (first + t) * a->rope_dim, s->query + t * key_dim(a) + a->nope_dim,
                  a->crew->emulate == EMULATE_BF16);
    return true;
}

/* Scores of one query against the keys of a tile that it sees. */
static void score(const struct attend *a, const float *query, const float *keys, size_t seen, float *scores)
{
    const struct vecmath *v = a->crew->kernel->vec;

    memset(scores, 0, seen * sizeof *scores);
    v->rows_fma(scores, query, keys, ATTEND_KEYS, key_dim(a), seen);
    crew_round(a->crew, scores, seen);
    v->scale(scores, scores, a->rope->softmax_scale, seen);
    crew_round(a->crew, scores, seen);
}

/* The running softmax takes in a tile. Returns by what the output so far is to be multiplied. */
static float take_in(const struct attend *a, float *scores, size_t seen, float *maximum, double *sum)
{
    const struct vecmath *v = a->crew->kernel->vec;
    float most = v->max(scores, seen), shift = 1.0f;

    if (most > *maximum) {
        float fall = *maximum - most;
        v->exp(&shift, &fall, 1);
        *maximum = most;
    }
    *sum = *sum * (double)shift + v->exp_sum(scores, scores, *maximum, seen);
    return shift;
}

/* Query q of the block at position p, one tile. */
static void attend_tile(const struct attend *a, size_t q, const float *keys, const float *values, size_t seen,
                        const struct attend_scratch *s)
{
    const struct vecmath *v = a->crew->kernel->vec;
    float *scores = s->tile, *out = s->output + q * a->v_dim;

    score(a, s->query + q * key_dim(a), keys, seen, scores);
    float shift = take_in(a, scores, seen, &s->maximum[q], &s->sum[q]);
    if (shift != 1.0f)
        v->scale(out, out, shift, a->v_dim);
    v->rows_fma(out, scores, values, a->v_dim, seen, a->v_dim);
}

/* The same for eager bfloat16, which rounds probabilities after they were divided: maximum and sum are complete. */
static void attend_tile_bf16(const struct attend *a, size_t q, const float *keys, const float *values, size_t seen,
                             const struct attend_scratch *s)
{
    const struct vecmath *v = a->crew->kernel->vec;
    float *scores = s->tile;

    score(a, s->query + q * key_dim(a), keys, seen, scores);
    v->exp_sum(scores, scores, s->maximum[q], seen);
    v->scale(scores, scores, (float)(1.0 / s->sum[q]), seen);
    v->round_bf16(scores, scores, seen);
    v->rows_fma(s->output + q * a->v_dim, scores, values, a->v_dim, seen, a->v_dim);
}

enum pass { PASS_ALL, PASS_SUMS, PASS_OUTPUTS };

static void walk_tiles(const struct attend *a, size_t first, size_t count, const struct attend_scratch *s,
                       enum pass pass)
{
    for (size_t k = 0; k < first + count; k += ATTEND_KEYS) {
        const float *keys = s->keys + k * key_dim(a), *values = s->values + k * a->v_dim;
        for (size_t q = k > first ? k - first : 0; q < count; q++) {
            size_t seen = first + q - k + 1 < ATTEND_KEYS ? first + q - k + 1 : ATTEND_KEYS;
            if (pass == PASS_ALL) {
                attend_tile(a, q, keys, values, seen, s);
            } else if (pass == PASS_SUMS) {
                score(a, s->query + q * key_dim(a), keys, seen, s->tile);
                take_in(a, s->tile, seen, &s->maximum[q], &s->sum[q]);
            } else {
                attend_tile_bf16(a, q, keys, values, seen, s);
            }
        }
    }
}

static void attend_block(const struct attend *a, size_t head, const struct context *c, size_t first, size_t count,
                         const struct attend_scratch *s)
{
    bool eager = a->crew->emulate == EMULATE_BF16;

    memset(s->output, 0, count * a->v_dim * sizeof *s->output);
    for (size_t q = 0; q < count; q++) {
        s->maximum[q] = -INFINITY;
        s->sum[q] = 0.0;
    }
    walk_tiles(a, first, count, s, eager ? PASS_SUMS : PASS_ALL);
    if (eager)
        walk_tiles(a, first, count, s, PASS_OUTPUTS);
    for (size_t q = 0; q < count; q++) {
        float *out = c->out + ((first + q) * a->heads + head) * a->v_dim;
        a->crew->kernel->vec->scale(out, s->output + q * a->v_dim, eager ? 1.0f : (float)(1.0 / s->sum[q]), a->v_dim);
        crew_round(a->crew, out, a->v_dim);
    }
}

bool attend_head(const struct attend *a, size_t head, const struct head_rows *w, const struct context *c,
                 const struct attend_scratch *s, unsigned worker, struct err *e)
{
    if (!make_keys(a, w->kv_b, c, s, worker, e))
        return false;
    for (size_t q = 0; q < c->tokens; q += ATTEND_QUERIES) {
        size_t count = c->tokens - q < ATTEND_QUERIES ? c->tokens - q : ATTEND_QUERIES;
        if (!make_queries(a, w->q_b, c, q, count, s, worker, e))
            return false;
        attend_block(a, head, c, q, count, s);
    }
    return true;
}

/* ---- absorbed ---- */

size_t absorbed_scratch_floats(const struct attend *a)
{
    return 2 * a->latent_width + a->rope_dim + ATTEND_KEYS;
}

void attend_absorbed(const struct attend *a, const float *kv_b, const float *query, const float *latents, size_t tokens,
                     float *out, float *scratch)
{
    const struct vecmath *v = a->crew->kernel->vec;
    size_t rank = a->latent_width, width = rank + a->rope_dim;
    float *absorbed = scratch, *sum_latent = absorbed + width, *scores = sum_latent + rank;
    float maximum = -INFINITY;
    double sum = 0.0;

    memset(absorbed, 0, rank * sizeof *absorbed);
    v->rows_fma(absorbed, query, kv_b, rank, a->nope_dim, rank);
    memcpy(absorbed + rank, query + a->nope_dim, a->rope_dim * sizeof *absorbed);
    memset(sum_latent, 0, rank * sizeof *sum_latent);
    for (size_t t = 0; t < tokens; t += ATTEND_KEYS) {
        size_t count = tokens - t < ATTEND_KEYS ? tokens - t : ATTEND_KEYS;
        v->dots(scores, absorbed, latents + t * width, width, count, width);
        v->scale(scores, scores, a->rope->softmax_scale, count);
        v->scale(sum_latent, sum_latent, take_in(a, scores, count, &maximum, &sum), rank);
        v->rows_fma(sum_latent, scores, latents + t * width, width, count, rank);
    }
    v->scale(sum_latent, sum_latent, (float)(1.0 / sum), rank);
    v->dots(out, sum_latent, kv_b + a->nope_dim * rank, rank, a->v_dim, rank);
}
