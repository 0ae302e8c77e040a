/* Sixteen lanes are two vectors, and the sums wait in memory anyway: a tile of
 * 4 rows and 3 tokens fills the registers with one half of its lanes, then
 * with the other. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/gemm_kernel.h"
#include "quant/unroll.h"

#define TILE_ROWS   GEMM_TILE_ROWS
#define TILE_TOKENS 3u
#define TOKEN_SUMS  (GEMM_ROWS * GEMM_LANES)

/* The first n of eight lanes. */
ALWAYS_INLINE __m256i first8(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 8 ? n : 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Lanes 0..7 or 8..15: all pointers stand at the first of them. cols counts whole groups of sixteen; left: how many
 * of this half's eight the last group has. */
ALWAYS_INLINE void half_tile(float *sums, const float *w, const float *x, size_t x_stride, const size_t tokens,
                             size_t cols, size_t left, bool first)
{
    __m256 sum[TILE_TOKENS][TILE_ROWS];

    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            sum[t][r] = first ? _mm256_setzero_ps() : _mm256_load_ps(sums + t * TOKEN_SUMS + r * GEMM_LANES);
    }
    for (size_t c = 0; c < cols; c += GEMM_LANES) {
        __m256 b[TILE_TOKENS];
        UNROLL
        for (size_t t = 0; t < tokens; t++)
            b[t] = _mm256_loadu_ps(x + t * x_stride + c);
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++) {
            __m256 a = _mm256_load_ps(w + r * GEMM_STRIDE + c);
            UNROLL
            for (size_t t = 0; t < tokens; t++)
                sum[t][r] = _mm256_fmadd_ps(a, b[t], sum[t][r]);
        }
    }
    if (left) {
        __m256i lanes = first8(left);
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            UNROLL
            for (size_t r = 0; r < TILE_ROWS; r++) {
                __m256 a = _mm256_maskload_ps(w + r * GEMM_STRIDE + cols, lanes);
                __m256 b = _mm256_maskload_ps(x + t * x_stride + cols, lanes);
                sum[t][r] = _mm256_blendv_ps(sum[t][r], _mm256_fmadd_ps(a, b, sum[t][r]), _mm256_castsi256_ps(lanes));
            }
        }
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            _mm256_store_ps(sums + t * TOKEN_SUMS + r * GEMM_LANES, sum[t][r]);
    }
}

ALWAYS_INLINE void all_rows(float *sums, const float *w, size_t rows, const float *x, size_t x_stride,
                            const size_t tokens, size_t cols, bool first)
{
    size_t whole = cols / GEMM_LANES * GEMM_LANES, left = cols - whole;

    for (size_t r = 0; r < rows; r += TILE_ROWS) {
        float *s = sums + r * GEMM_LANES;
        const float *a = w + r * GEMM_STRIDE;
        half_tile(s, a, x, x_stride, tokens, whole, left, first);
        half_tile(s + 8, a + 8, x + 8, x_stride, tokens, whole, left < 8 ? 0 : left - 8, first);
    }
}

static void sum(float *sums, const float *w, size_t rows, const float *x, size_t x_stride, size_t tokens, size_t cols,
                bool first, const struct gemm_later *later)
{
    (void)later;
    size_t t = 0;

    for (; t + 3 <= tokens; t += 3)
        all_rows(sums + t * TOKEN_SUMS, w, rows, x + t * x_stride, x_stride, 3, cols, first);
    if (tokens - t == 2)
        all_rows(sums + t * TOKEN_SUMS, w, rows, x + t * x_stride, x_stride, 2, cols, first);
    else if (tokens - t == 1)
        all_rows(sums + t * TOKEN_SUMS, w, rows, x + t * x_stride, x_stride, 1, cols, first);
}

/* Pieces of four lanes: the folds of four rows, in their order. */
ALWAYS_INLINE __m128 fold_four(const float *sums)
{
    __m128 f[4];

    UNROLL
    for (size_t i = 0; i < 4; i++) {
        const float *s = sums + i * GEMM_LANES;
        __m256 eight = _mm256_add_ps(_mm256_load_ps(s), _mm256_load_ps(s + 8));
        f[i] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    }
    __m128 ab = _mm_add_ps(_mm_movelh_ps(f[0], f[1]), _mm_movehl_ps(f[1], f[0]));
    __m128 cd = _mm_add_ps(_mm_movelh_ps(f[2], f[3]), _mm_movehl_ps(f[3], f[2]));
    return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xDD));
}

static void fold(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r += TILE_ROWS) {
            __m128i lanes = _mm256_castsi256_si128(first8(rows - r));
            float *to = y + t * y_stride + r;
            __m128 product = fold_four(sums + t * TOKEN_SUMS + r * GEMM_LANES);
            if (add)
                product = _mm_add_ps(_mm_maskload_ps(to, lanes), product);
            _mm_maskstore_ps(to, lanes, product);
        }
}

const struct gemm_kernel gemm_avx2 = {.sum = sum, .fold = fold};
#endif
