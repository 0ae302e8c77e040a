#if defined(__x86_64__)
#include "quant/tile.h"

#include <immintrin.h>

#include "quant/unroll.h"

/* Four rows by sixteen columns: eight sums, as many as two units of latency four can have on the way. Every loop over
 * them is unrolled: with one that is not, gcc keeps them in memory and stores them at each step. */
#define ROWS 4
#define VECS 2
#define WIDE 8

static void quarter(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b,
                    size_t steps)
{
    __m256 sum[ROWS][VECS];

    UNROLL
    for (size_t r = 0; r < ROWS; r++) {
        sum[r][0] = _mm256_load_ps(c + r * c_stride);
        sum[r][1] = _mm256_load_ps(c + r * c_stride + WIDE);
    }
    for (size_t t = 0; t < steps; t++, a += a_step, b += TILE_COLS) {
        __m256 b0 = _mm256_load_ps(b), b1 = _mm256_load_ps(b + WIDE);

        UNROLL
        for (size_t r = 0; r < ROWS; r++) {
            __m256 x = _mm256_broadcast_ss(a + r * a_row);
            sum[r][0] = _mm256_fmadd_ps(x, b0, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(x, b1, sum[r][1]);
        }
    }
    UNROLL
    for (size_t r = 0; r < ROWS; r++) {
        _mm256_store_ps(c + r * c_stride, sum[r][0]);
        _mm256_store_ps(c + r * c_stride + WIDE, sum[r][1]);
    }
}

void tile_fma_avx2(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b, size_t steps)
{
    for (size_t v = 0; v < TILE_COLS; v += VECS * WIDE)
        for (size_t r = 0; r < TILE_ROWS; r += ROWS)
            quarter(c + r * c_stride + v, c_stride, a + r * a_row, a_row, a_step, b + v, steps);
}

void tile_row_fma_avx2(float *c, const float *a, const float *b, size_t steps)
{
    __m256 s0 = _mm256_load_ps(c), s1 = _mm256_load_ps(c + 8), s2 = _mm256_load_ps(c + 16), s3 = _mm256_load_ps(c + 24);

    for (size_t t = 0; t < steps; t++, b += TILE_COLS) {
        __m256 x = _mm256_broadcast_ss(a + t);
        s0 = _mm256_fmadd_ps(x, _mm256_load_ps(b), s0);
        s1 = _mm256_fmadd_ps(x, _mm256_load_ps(b + 8), s1);
        s2 = _mm256_fmadd_ps(x, _mm256_load_ps(b + 16), s2);
        s3 = _mm256_fmadd_ps(x, _mm256_load_ps(b + 24), s3);
    }
    _mm256_store_ps(c, s0);
    _mm256_store_ps(c + 8, s1);
    _mm256_store_ps(c + 16, s2);
    _mm256_store_ps(c + 24, s3);
}
#endif
