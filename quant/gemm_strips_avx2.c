/* 16 rows and 6 tokens: 12 sums in registers, 8 loads for 12 fused
 * multiply-adds, all of them from two streams. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/gemm_strips.h"
#include "quant/unroll.h"

#define TILE_TOKENS GEMM_TILE_TOKENS

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
        sum[t][0] = _mm256_fmadd_ps(b, low, sum[t][0]);
        sum[t][1] = _mm256_fmadd_ps(b, high, sum[t][1]);
    }
}

ALWAYS_INLINE void lane_tile(float *sums, const float *w, const float *x, const size_t tokens, size_t steps, bool first)
{
    __m256 sum[TILE_TOKENS][2];

    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t h = 0; h < 2; h++)
            sum[t][h] = first ? _mm256_setzero_ps() : _mm256_load_ps(sums + t * GEMM_STRIP_ROWS + h * 8);
    }
    for (; steps >= 4; steps -= 4, w += 4 * GEMM_STRIP_ROWS, x += 4 * tokens) {
        UNROLL
        for (size_t i = 0; i < 4; i++)
            step(sum, w + i * GEMM_STRIP_ROWS, x + i * tokens, tokens);
    }
    for (; steps > 0; steps--, w += GEMM_STRIP_ROWS, x += tokens)
        step(sum, w, x, tokens);
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

/* Some tiles of as many tokens, with the strips' lane at w. */
ALWAYS_INLINE void lane_tiles(float *sums, const float *w, size_t strips, const float *x, const size_t tokens,
                              size_t tiles, size_t steps, size_t x_steps, bool first)
{
    for (size_t i = 0; i < tiles; i++, x += x_steps * tokens)
        for (size_t s = 0; s < strips; s++, sums += tokens * GEMM_STRIP_ROWS) {
            fetch_ahead(w + (s + 1 < strips ? s + 1 : 0) * GEMM_STRIP_FLOATS, sums + tokens * GEMM_STRIP_ROWS, tokens);
            lane_tile(sums, w + s * GEMM_STRIP_FLOATS, x, tokens, steps, first);
        }
}

#define TILE(n)                                                                                                        \
    static void pack_##n(float *packed, size_t lane, const float *x, size_t x_stride, size_t cols)                     \
    {                                                                                                                  \
        pack_tile(packed, lane, x, x_stride, n, cols);                                                                 \
    }                                                                                                                  \
    static void sum_##n(float *sums, const float *w, size_t strips, const float *x, size_t tiles, size_t steps,        \
                        size_t x_steps, bool first)                                                                    \
    {                                                                                                                  \
        lane_tiles(sums, w, strips, x, n, tiles, steps, x_steps, first);                                               \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)

typedef void pack_fn(float *packed, size_t lane, const float *x, size_t x_stride, size_t cols);
typedef void sum_fn(float *sums, const float *w, size_t strips, const float *x, size_t tiles, size_t steps,
                    size_t x_steps, bool first);
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

static void sum(float *sums, const float *strips, size_t strip_count, const float *packed, size_t tokens, size_t cols,
                bool first)
{
    size_t lane = gemm_x_lane(tokens, cols), x_steps = (cols + GEMM_LANES - 1) / GEMM_LANES;
    size_t tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS, most = gemm_tile_tokens(tokens, 0);
    size_t smaller = tiles * most - tokens, large = tiles - smaller, done = large * most;

    for (size_t l = 0; l < GEMM_LANES; l++) {
        size_t steps = (cols + GEMM_LANES - 1 - l) / GEMM_LANES;
        float *lane_sums = sums + l * tokens * strip_count * GEMM_STRIP_ROWS;
        const float *w = strips + l * GEMM_STRIP_LANE, *x = packed + l * lane;
        sums_of[most](lane_sums, w, strip_count, x, large, steps, x_steps, first);
        if (smaller)
            sums_of[most - 1](lane_sums + done * strip_count * GEMM_STRIP_ROWS, w, strip_count, x + done * x_steps,
                              smaller, steps, x_steps, first);
    }
}

/* ---- the end ---- */

/* The tree of the lanes, for eight rows. */
ALWAYS_INLINE __m256 fold8(const float *sums, size_t lane_stride)
{
    __m256 lanes[GEMM_LANES];

    UNROLL
    for (size_t l = 0; l < GEMM_LANES; l++)
        lanes[l] = _mm256_load_ps(sums + l * lane_stride);
    UNROLL
    for (size_t half = GEMM_LANES / 2; half > 0; half /= 2) {
        UNROLL
        for (size_t l = 0; l < half; l++)
            lanes[l] = _mm256_add_ps(lanes[l], lanes[l + half]);
    }
    return lanes[0];
}

/* A tile and a strip. */
static void fold_tile(float *y, size_t y_stride, const float *sums, size_t lane_stride, size_t rows, size_t tokens,
                      bool add)
{
    const __m256i order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r += 8) {
            __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(rows - r)), order);
            float *to = y + t * y_stride + r;
            __m256 product = fold8(sums + t * GEMM_STRIP_ROWS + r, lane_stride);
            if (add)
                product = _mm256_add_ps(_mm256_maskload_ps(to, lanes), product);
            _mm256_maskstore_ps(to, lanes, product);
        }
}

static void fold(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add)
{
    size_t lane = tokens * ((rows + GEMM_STRIP_ROWS - 1) / GEMM_STRIP_ROWS) * GEMM_STRIP_ROWS;

    for (size_t t = 0, count; t < tokens; t += count) {
        count = gemm_tile_tokens(tokens, t);
        for (size_t r = 0; r < rows; r += GEMM_STRIP_ROWS, sums += count * GEMM_STRIP_ROWS)
            fold_tile(y + t * y_stride + r, y_stride, sums, lane,
                      rows - r < GEMM_STRIP_ROWS ? rows - r : GEMM_STRIP_ROWS, count, add);
    }
}

const struct gemm_strips gemm_strips_avx2 = {.fill = gemm_fill_avx2, .pack = pack, .sum = sum, .fold = fold};
#endif
