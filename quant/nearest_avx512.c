#if defined(__x86_64__)
#include "quant/nearest.h"

#include <immintrin.h>

#include "quant/tile.h"

#define WIDE 16

void int4_nearest_avx512(uint8_t *codes, float *q, const float *t, const float *s, const float *zero)
{
    const __m512 lo = _mm512_set1_ps(-8), hi = _mm512_set1_ps(7);

    for (size_t i = 0; i < TILE_COLS; i += WIDE) {
        __m512 scale = _mm512_load_ps(s + i), from = _mm512_load_ps(zero + i);
        __m512 z = _mm512_add_ps(_mm512_div_ps(_mm512_load_ps(t + i), scale), from);

        z = _mm512_roundscale_ps(_mm512_min_ps(_mm512_max_ps(z, lo), hi),
                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm512_store_ps(q + i, _mm512_mul_ps(_mm512_sub_ps(z, from), scale));
        _mm_store_si128((__m128i *)(void *)(codes + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_sub_ps(z, lo))));
    }
}

static void add_product(float *sum, __m512 x, __m512 y)
{
    _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), _mm512_mul_ps(x, y)));
}

void feedback_step_avx512(float *e, float *sums, const float *t, const float *q, const float *w, float r2)
{
    for (size_t i = 0; i < TILE_COLS; i += WIDE) {
        __m512 value = _mm512_load_ps(q + i), from = _mm512_load_ps(w + i);
        __m512 d = _mm512_sub_ps(_mm512_load_ps(t + i), value), off = _mm512_sub_ps(from, value);

        _mm512_store_ps(e + i, off);
        add_product(sums + i, _mm512_set1_ps(r2), _mm512_mul_ps(d, d));
        add_product(sums + TILE_COLS + i, off, off);
        add_product(sums + 2 * TILE_COLS + i, from, from);
    }
}
#endif
