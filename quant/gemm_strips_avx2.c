/* 16 rows and 6 tokens: 12 sums in registers, 8 loads for 12 fused
 * multiply-adds, all of them from two streams. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/fma_avx2.h"
#include "quant/gemm_strips.h"
#include "quant/unroll.h"

#define TILE_TOKENS GEMM_TILE_TOKENS
#define LINE        64u

/* ---- x ---- */

ALWAYS_INLINE void transpose8(__m256 v[8])
{
    __m256 a[8];

    UNROLL
    for (size_t i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL
    for (size_t i = 0; i < 8; i += 4) {
        v[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        v[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
        v[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        v[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
    }
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        a[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    }
    UNROLL
    for (size_t i = 0; i < 8; i++)
        v[i] = a[i];
}

/* Eight columns of a step, as whole vectors: what is past the tokens is overwritten by the next step, or padding. */
ALWAYS_INLINE void pack8(float *to, size_t lane, const float *x, size_t x_stride, const size_t tokens)
{
    __m256 v[8];

    UNROLL
    for (size_t t = 0; t < 8; t++)
        v[t] = t < tokens ? _mm256_loadu_ps(x + t * x_stride) : _mm256_setzero_ps();
    transpose8(v);
    UNROLL
    for (size_t l = 0; l < 8; l++)
        _mm256_storeu_ps(to + l * lane, v[l]);
}

ALWAYS_INLINE void pack_tile(float *packed, size_t lane, const float *x, size_t x_stride, const size_t tokens,
                             size_t cols)
{
    size_t c = 0;

    for (; c + GEMM_LANES <= cols; c += GEMM_LANES, packed += tokens) {
        pack8(packed, lane, x + c, x_stride, tokens);
        pack8(packed + 8 * lane, lane, x + c + 8, x_stride, tokens);
    }
    for (size_t l = 0; c + l < cols; l++)
        for (size_t t = 0; t < tokens; t++)
            packed[l * lane + t] = x[t * x_stride + c + l];
}

/* ---- sums ---- */

ALWAYS_INLINE void step(__m256 sum[TILE_TOKENS][2], const float *w, const float *x, const size_t tokens)
{
    __m256 low = _mm256_load_ps(w), high = _mm256_load_ps(w + 8);

    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        __m256 b = _mm256_broadcast_ss(x + t);
        fma_add(&sum[t][0], b, low);
        fma_add(&sum[t][1], b, high);
    }
}

/* Lanes whose sums are finished are added to those they fold into, as far as these are, too: l to l - 8, that to
 * l - 12 and so on while l has the bit. */
ALWAYS_INLINE float *fold_into(__m256 sum[TILE_TOKENS][2], float *sums, size_t lane_sums, size_t lane,
                               const size_t tokens)
{
    for (size_t half = GEMM_LANES / 2; lane & half; half /= 2) {
        sums -= half * lane_sums;
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            UNROLL
            for (size_t h = 0; h < 2; h++)
                sum[t][h] = _mm256_add_ps(_mm256_load_ps(sums + t * GEMM_STRIP_ROWS + h * 8), sum[t][h]);
        }
    }
    return sums;
}

/* What the tiles of a lane have in common. */
struct lane {
    size_t strips, steps, x_steps;
    size_t sums;  /* floats of a lane's sums */
    size_t folds; /* its number in the last panel, 0 in others */
    bool first;
    const struct gemm_strip_panel *last; /* of the last lane of all: its sums, folded, go to y */
};

/* Where a tile's products of a strip go. */
struct outputs {
    float *y; /* NULL: they are not all there yet */
    size_t y_stride, rows;
    bool add;
};

ALWAYS_INLINE struct outputs outputs_at(const struct lane *lane, size_t token, size_t strip)
{
    const struct gemm_strip_panel *p = lane->last;
    size_t row = strip * GEMM_STRIP_ROWS;

    if (!p)
        return (struct outputs){0};
    return (struct outputs){p->y + token * p->y_stride + row, p->y_stride, p->rows - row, p->add};
}

/* Rows past the last are left out: a masked store is slow, AMD does it by microcode. */
ALWAYS_INLINE void store_few(float *y, const __m256 sum[2], size_t rows, bool add)
{
    float products[GEMM_STRIP_ROWS];

    _mm256_storeu_ps(products, sum[0]);
    _mm256_storeu_ps(products + 8, sum[1]);
    for (size_t r = 0; r < rows; r++)
        y[r] = add ? y[r] + products[r] : products[r];
}

ALWAYS_INLINE void store_tile(const struct outputs *o, __m256 sum[TILE_TOKENS][2], const size_t tokens)
{
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        float *to = o->y + t * o->y_stride;
        if (o->rows < GEMM_STRIP_ROWS) {
            store_few(to, sum[t], o->rows, o->add);
            continue;
        }
        UNROLL
        for (size_t h = 0; h < 2; h++)
            _mm256_storeu_ps(to + h * 8, o->add ? _mm256_add_ps(_mm256_loadu_ps(to + h * 8), sum[t][h]) : sum[t][h]);
    }
}

/* Four steps of the next tile's x, which comes from past L2. */
ALWAYS_INLINE void fetch_tile(const float *x)
{
    _mm_prefetch((const char *)x, _MM_HINT_T0);
    _mm_prefetch((const char *)(x + 16), _MM_HINT_T0);
}

/* The lines that products go to, while they are made. */
ALWAYS_INLINE void fetch_outputs(const struct outputs *o, const size_t tokens)
{
    UNROLL
    for (size_t t = 0; t < tokens; t++)
        __builtin_prefetch(o->y + t * o->y_stride, 1);
}

ALWAYS_INLINE void lane_tile(float *sums, const float *w, const float *x, const size_t tokens, const struct lane *lane,
                             const struct outputs *o)
{
    __m256 sum[TILE_TOKENS][2];
    size_t steps = lane->steps;

    if (o->y)
        fetch_outputs(o, tokens);
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t h = 0; h < 2; h++)
            sum[t][h] = lane->first ? _mm256_setzero_ps() : _mm256_load_ps(sums + t * GEMM_STRIP_ROWS + h * 8);
    }
    for (; steps >= 4; steps -= 4, w += 4 * GEMM_STRIP_ROWS, x += 4 * tokens) {
        fetch_tile(x + lane->x_steps * tokens);
        UNROLL
        for (size_t i = 0; i < 4; i++)
            step(sum, w + i * GEMM_STRIP_ROWS, x + i * tokens, tokens);
    }
    for (; steps > 0; steps--, w += GEMM_STRIP_ROWS, x += tokens)
        step(sum, w, x, tokens);
    sums = fold_into(sum, sums, lane->sums, lane->folds, tokens);
    if (o->y) {
        store_tile(o, sum, tokens);
        return;
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t h = 0; h < 2; h++)
            _mm256_store_ps(sums + t * GEMM_STRIP_ROWS + h * 8, sum[t][h]);
    }
}

/* The first lines of what is next: the hardware does not foresee the jump from strip to strip. */
ALWAYS_INLINE void fetch_ahead(const float *w, const float *sums, const size_t tokens)
{
    UNROLL
    for (size_t i = 0; i < 2; i++)
        _mm_prefetch((const char *)(w + i * GEMM_STRIP_ROWS), _MM_HINT_T0);
    UNROLL
    for (size_t t = 0; t < tokens; t++)
        _mm_prefetch((const char *)(sums + t * GEMM_STRIP_ROWS), _MM_HINT_T0);
}

/* Lines of a panel's `later`, of which each tile asks for some. */
struct ahead {
    const uint8_t *row;
    size_t row_bytes, row_lines, line;
    size_t left, each;
};

static struct ahead ahead_of(const struct gemm_later *later, size_t tiles)
{
    struct ahead a = {
        .row = later->codes, .row_bytes = later->row_bytes, .row_lines = (later->bytes + LINE - 1) / LINE};

    a.left = later->codes ? a.row_lines * later->rows : 0;
    a.each = (a.left + tiles - 1) / tiles;
    return a;
}

static inline void fetch_later(struct ahead *a)
{
    size_t n = a->left < a->each ? a->left : a->each;

    for (a->left -= n; n > 0; n--) {
        _mm_prefetch((const char *)(a->row + a->line * LINE), _MM_HINT_T1);
        if (++a->line == a->row_lines) {
            a->line = 0;
            a->row += a->row_bytes;
        }
    }
}

/* Some tiles of as many tokens, with the strips' lane at w. */
ALWAYS_INLINE void lane_tiles(float *sums, const float *w, const float *x, const size_t tokens, size_t first,
                              size_t tiles, const struct lane *lane, struct ahead *ahead)
{
    for (size_t i = 0; i < tiles; i++, x += lane->x_steps * tokens)
        for (size_t s = 0; s < lane->strips; s++, sums += tokens * GEMM_STRIP_ROWS) {
            fetch_later(ahead);
            fetch_ahead(w + (s + 1 < lane->strips ? s + 1 : 0) * GEMM_STRIP_FLOATS, sums + tokens * GEMM_STRIP_ROWS,
                        tokens);
            struct outputs outputs = outputs_at(lane, first + i * tokens, s);
            lane_tile(sums, w + s * GEMM_STRIP_FLOATS, x, tokens, lane, &outputs);
        }
}

#define TILE(n)                                                                                                        \
    static void pack_##n(float *packed, size_t lane, const float *x, size_t x_stride, size_t cols)                     \
    {                                                                                                                  \
        pack_tile(packed, lane, x, x_stride, n, cols);                                                                 \
    }                                                                                                                  \
    static void sum_##n(float *sums, const float *w, const float *x, size_t first, size_t tiles,                       \
                        const struct lane *lane, struct ahead *ahead)                                                  \
    {                                                                                                                  \
        lane_tiles(sums, w, x, n, first, tiles, lane, ahead);                                                          \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)

typedef void pack_fn(float *packed, size_t lane, const float *x, size_t x_stride, size_t cols);
typedef void sum_fn(float *sums, const float *w, const float *x, size_t first, size_t tiles, const struct lane *lane,
                    struct ahead *ahead);
static pack_fn *const packs[] = {NULL, pack_1, pack_2, pack_3, pack_4, pack_5, pack_6};
static sum_fn *const sums_of[] = {NULL, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6};

static void pack(float *packed, const float *x, size_t x_stride, size_t tokens, size_t cols)
{
    size_t lane = gemm_x_lane(tokens, cols), steps = (cols + GEMM_LANES - 1) / GEMM_LANES;

    for (size_t t = 0, count; t < tokens; t += count) {
        count = gemm_tile_tokens(tokens, t);
        packs[count](packed + t * steps, lane, x + t * x_stride, x_stride, cols);
    }
}

/* Bits reversed, so that a lane comes right after those that fold into it with it. */
static const uint8_t lane_order[GEMM_LANES] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

static void sum(float *sums, const struct gemm_strip_panel *p)
{
    size_t x_lane = gemm_x_lane(p->tokens, p->cols), x_steps = (p->cols + GEMM_LANES - 1) / GEMM_LANES;
    size_t tiles = (p->tokens + TILE_TOKENS - 1) / TILE_TOKENS, most = gemm_tile_tokens(p->tokens, 0);
    size_t smaller = tiles * most - p->tokens, large = tiles - smaller, done = large * most;
    size_t strips_rows = p->strip_count * GEMM_STRIP_ROWS;
    struct ahead ahead = ahead_of(&p->later, GEMM_LANES * tiles * p->strip_count);

    for (size_t i = 0; i < GEMM_LANES; i++) {
        size_t l = lane_order[i];
        struct lane lane = {.strips = p->strip_count,
                            .steps = (p->cols + GEMM_LANES - 1 - l) / GEMM_LANES,
                            .x_steps = x_steps,
                            .sums = p->tokens * strips_rows,
                            .folds = p->y ? l : 0,
                            .first = p->first,
                            .last = p->y && i == GEMM_LANES - 1 ? p : NULL};
        float *lane_sums = sums + l * lane.sums;
        const float *w = p->strips + l * GEMM_STRIP_LANE, *x = p->packed + l * x_lane;
        sums_of[most](lane_sums, w, x, 0, large, &lane, &ahead);
        if (smaller)
            sums_of[most - 1](lane_sums + done * strips_rows, w, x + done * x_steps, done, smaller, &lane, &ahead);
    }
}

const struct gemm_strips gemm_strips_avx2 = {.fill = gemm_fill_avx2, .pack = pack, .sum = sum};
#endif
