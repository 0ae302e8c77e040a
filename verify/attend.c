#include "verify/attend.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "quant/tile.h"
#include "quant/vecmath.h"

/* Queries whose scores and outputs are made together: a tile of quant/tile.h. */
#define BLOCK TILE_ROWS

static size_t key_dim(const struct attend *a)
{
    return a->nope_dim + a->rope_dim;
}

static size_t kv_rows(const struct attend *a)
{
    return a->nope_dim + a->v_dim;
}

void attend_place(struct attend_scratch *s, const struct attend *a, size_t tokens, struct scratch *memory)
{
    size_t keys = tile_padded(tokens);

    s->value_panel = keys * TILE_COLS;
    s->keys = scratch_take(memory, keys * key_dim(a) * sizeof(float));
    s->values = scratch_take(memory, keys * tile_padded(a->v_dim) * sizeof(float));
    s->made = scratch_take(memory, ATTEND_KEYS * kv_rows(a) * sizeof(float));
    s->query = scratch_take(memory, ATTEND_QUERIES * key_dim(a) * sizeof(float));
    s->output = scratch_take(memory, ATTEND_QUERIES * tile_padded(a->v_dim) * sizeof(float));
    s->scores = scratch_take(memory, BLOCK * ATTEND_KEYS * sizeof(float));
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

/* Keys [first, first + count), columns outside, so that scores of a query run along tokens. */
static void place_keys(const struct attend *a, const float *latent, size_t first, size_t count,
                       const struct attend_scratch *s)
{
    size_t width = a->latent_width + a->rope_dim;

    for (size_t t = 0; t < count; t += TILE_COLS) {
        size_t some = count - t < TILE_COLS ? count - t : TILE_COLS;
        const float *nope = s->made + t * kv_rows(a), *rope = latent + t * width + a->latent_width;
        float *keys = s->keys + (first + t) * key_dim(a);
        if (some < TILE_COLS)
            memset(keys, 0, TILE_COLS * key_dim(a) * sizeof *keys);
        for (size_t i = 0; i < a->nope_dim; i++, keys += TILE_COLS)
            for (size_t j = 0; j < some; j++)
                keys[j] = nope[j * kv_rows(a) + i];
        for (size_t i = 0; i < a->rope_dim; i++, keys += TILE_COLS)
            for (size_t j = 0; j < some; j++)
                keys[j] = rope[j * width + i];
    }
}

static void place_values(const struct attend *a, size_t first, size_t count, const struct attend_scratch *s)
{
    for (size_t v = 0; v < a->v_dim; v += TILE_COLS) {
        size_t some = a->v_dim - v < TILE_COLS ? a->v_dim - v : TILE_COLS;
        float *values = s->values + v / TILE_COLS * s->value_panel + first * TILE_COLS;
        for (size_t t = 0; t < count; t++, values += TILE_COLS) {
            memcpy(values, s->made + t * kv_rows(a) + a->nope_dim + v, some * sizeof *values);
            memset(values + some, 0, (TILE_COLS - some) * sizeof *values);
        }
    }
}

static bool make_keys(const struct attend *a, const float *kv_b, const struct context *c,
                      const struct attend_scratch *s, unsigned worker, struct err *e)
{
    size_t width = a->latent_width + a->rope_dim;

    for (size_t t = 0; t < c->tokens; t += ATTEND_KEYS) {
        size_t count = c->tokens - t < ATTEND_KEYS ? c->tokens - t : ATTEND_KEYS;
        const float *latent = c->latent + t * width;
        if (!multiply(a, kv_b, kv_rows(a), a->latent_width, latent, width, count, s->made, worker, e))
            return false;
        place_keys(a, latent, t, count, s);
        place_values(a, t, count, s);
    }
    return true;
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
    for (; count % BLOCK != 0; count++) /* of a block, whose outputs nobody takes */
        memset(s->query + count * key_dim(a), 0, key_dim(a) * sizeof *s->query);
    return true;
}

static_assert(ATTEND_QUERIES % ATTEND_KEYS == 0 && ATTEND_KEYS % BLOCK == 0, "no block begins inside a tile it sees");

/* A block of queries before one tile of keys, of which each row sees one more than the row before. */
struct view {
    size_t q, count; /* queries [q, q + count) of those at hand */
    size_t key;      /* the tile's first */
    size_t seen;     /* keys from there to row 0's own */
};

static size_t seen_by(const struct view *v, size_t row)
{
    return v->seen + row < ATTEND_KEYS ? v->seen + row : ATTEND_KEYS;
}

/* Scores of the block, of keys beyond what a row sees too. */
static void score(const struct attend *a, const struct view *v, const struct attend_scratch *s)
{
    const float *query = s->query + v->q * key_dim(a);
    size_t seen = seen_by(v, v->count - 1);

    memset(s->scores, 0, BLOCK * ATTEND_KEYS * sizeof *s->scores);
    for (size_t k = 0; k < seen; k += TILE_COLS)
        a->crew->kernel->tile_fma(s->scores + k, ATTEND_KEYS, query, key_dim(a), 1, s->keys + (v->key + k) * key_dim(a),
                                  key_dim(a));
}

static void scale_scores(const struct attend *a, float *scores, size_t seen)
{
    crew_round(a->crew, scores, seen);
    a->crew->kernel->vec->scale(scores, scores, a->rope->softmax_scale, seen);
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

/* The block's weights times the values: what all rows see as a tile, and what the later rows see besides. */
static void add_values(const struct attend *a, const struct view *v, const struct attend_scratch *s)
{
    const struct kernel *kernel = a->crew->kernel;
    size_t stride = tile_padded(a->v_dim), all = seen_by(v, 0);

    for (size_t c = 0; c < stride; c += TILE_COLS) {
        const float *values = s->values + c / TILE_COLS * s->value_panel + v->key * TILE_COLS;
        float *out = s->output + v->q * stride + c;
        kernel->tile_fma(out, stride, s->scores, ATTEND_KEYS, 1, values, all);
        for (size_t r = 1; r < v->count; r++)
            kernel->tile_row_fma(out + r * stride, s->scores + r * ATTEND_KEYS + all, values + all * TILE_COLS,
                                 seen_by(v, r) - all);
    }
}

static void attend_tile(const struct attend *a, const struct view *v, const struct attend_scratch *s)
{
    size_t stride = tile_padded(a->v_dim);

    for (size_t r = 0; r < v->count; r++) {
        float *scores = s->scores + r * ATTEND_KEYS, *out = s->output + (v->q + r) * stride;
        scale_scores(a, scores, seen_by(v, r));
        float shift = take_in(a, scores, seen_by(v, r), &s->maximum[v->q + r], &s->sum[v->q + r]);
        if (shift != 1.0f)
            a->crew->kernel->vec->scale(out, out, shift, stride);
    }
    add_values(a, v, s);
}

/* Eager bfloat16 rounds probabilities after they were divided: first the maximum and the sum of all tiles. */
static void sum_tile_bf16(const struct attend *a, const struct view *v, const struct attend_scratch *s)
{
    for (size_t r = 0; r < v->count; r++) {
        float *scores = s->scores + r * ATTEND_KEYS;
        scale_scores(a, scores, seen_by(v, r));
        take_in(a, scores, seen_by(v, r), &s->maximum[v->q + r], &s->sum[v->q + r]);
    }
}

static void attend_tile_bf16(const struct attend *a, const struct view *v, const struct attend_scratch *s)
{
    const struct vecmath *vec = a->crew->kernel->vec;

    for (size_t r = 0; r < v->count; r++) {
        float *scores = s->scores + r * ATTEND_KEYS;
        size_t seen = seen_by(v, r);
        scale_scores(a, scores, seen);
        vec->exp_sum(scores, scores, s->maximum[v->q + r], seen);
        vec->scale(scores, scores, (float)(1.0 / s->sum[v->q + r]), seen);
        vec->round_bf16(scores, scores, seen);
    }
    add_values(a, v, s);
}

typedef void tile_fn(const struct attend *a, const struct view *v, const struct attend_scratch *s);

/* Queries [first, first + count) of the context: a tile of keys for all blocks that see any of it, then the next. */
static void walk_tiles(const struct attend *a, size_t first, size_t count, const struct attend_scratch *s, tile_fn *fn)
{
    for (size_t k = 0; k < first + count; k += ATTEND_KEYS)
        for (size_t q = k > first ? k - first : 0; q < count; q += BLOCK) {
            struct view v = {q, count - q < BLOCK ? count - q : BLOCK, k, first + q + 1 - k};
            score(a, &v, s);
            fn(a, &v, s);
        }
}

static void attend_block(const struct attend *a, size_t head, const struct context *c, size_t first, size_t count,
                         const struct attend_scratch *s)
{
    bool eager = a->crew->emulate == EMULATE_BF16;
    size_t stride = tile_padded(a->v_dim);

    memset(s->output, 0, (count + BLOCK - 1) / BLOCK * BLOCK * stride * sizeof *s->output);
    for (size_t q = 0; q < count; q++) {
        s->maximum[q] = -INFINITY;
        s->sum[q] = 0.0;
    }
    walk_tiles(a, first, count, s, eager ? sum_tile_bf16 : attend_tile);
    if (eager)
        walk_tiles(a, first, count, s, attend_tile_bf16);
    for (size_t q = 0; q < count; q++) {
        float *out = c->out + ((first + q) * a->heads + head) * a->v_dim;
        a->crew->kernel->vec->scale(out, s->output + q * stride, eager ? 1.0f : (float)(1.0 / s->sum[q]), a->v_dim);
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
