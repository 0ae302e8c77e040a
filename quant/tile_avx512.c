#if defined(__x86_64__)
#include "quant/tile.h"

#include <immintrin.h>

#define VECS 2
#define WIDE 16

/* Sixteen sums; a step loads ten times for sixteen multiply-adds, which two load ports keep up with. */
void tile_fma_avx512(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b,
                     size_t steps)
{
    __m512 sum[TILE_ROWS][VECS];

    for (size_t r = 0; r < TILE_ROWS; r++) {
        sum[r][0] = _mm512_load_ps(c + r * c_stride);
        sum[r][1] = _mm512_load_ps(c + r * c_stride + WIDE);
    }
    for (size_t t = 0; t < steps; t++, a += a_step, b += TILE_COLS) {
        __m512 b0 = _mm512_load_ps(b), b1 = _mm512_load_ps(b + WIDE);

#pragma GCC unroll 8
        for (size_t r = 0; r < TILE_ROWS; r++) {
            __m512 x = _mm512_set1_ps(a[r * a_row]);
            sum[r][0] = _mm512_fmadd_ps(x, b0, sum[r][0]);
            sum[r][1] = _mm512_fmadd_ps(x, b1, sum[r][1]);
        }
    }
    for (size_t r = 0; r < TILE_ROWS; r++) {
        _mm512_store_ps(c + r * c_stride, sum[r][0]);
        _mm512_store_ps(c + r * c_stride + WIDE, sum[r][1]);
    }
}

void tile_row_fma_avx512(float *c, const float *a, const float *b, size_t steps)
{
    __m512 s0 = _mm512_load_ps(c), s1 = _mm512_load_ps(c + WIDE);

    for (size_t t = 0; t < steps; t++, b += TILE_COLS) {
        __m512 x = _mm512_set1_ps(a[t]);
        s0 = _mm512_fmadd_ps(x, _mm512_load_ps(b), s0);
        s1 = _mm512_fmadd_ps(x, _mm512_load_ps(b + WIDE), s1);
    }
    _mm512_store_ps(c, s0);
    _mm512_store_ps(c + WIDE, s1);
}
#endif
