#if defined(__x86_64__)
#include "quant/nearest.h"

#include <immintrin.h>

#include "quant/tile.h"

#define WIDE 8

void int4_nearest_avx2(uint8_t *codes, float *q, const float *t, const float *s, const float *zero)
{
    const __m256 lo = _mm256_set1_ps(-8), hi = _mm256_set1_ps(7);
    __m256i n[TILE_COLS / WIDE];

    for (size_t i = 0; i < TILE_COLS / WIDE; i++) {
        __m256 scale = _mm256_load_ps(s + i * WIDE), from = _mm256_load_ps(zero + i * WIDE);
        __m256 z = _mm256_add_ps(_mm256_div_ps(_mm256_load_ps(t + i * WIDE), scale), from);

        z = _mm256_round_ps(_mm256_min_ps(_mm256_max_ps(z, lo), hi), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_store_ps(q + i * WIDE, _mm256_mul_ps(_mm256_sub_ps(z, from), scale));
        n[i] = _mm256_cvtps_epi32(_mm256_sub_ps(z, lo));
    }
    /* Packs work in halves of a register, so dwords come out interleaved. */
    __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(n[0], n[1]), _mm256_packus_epi32(n[2], n[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);

    _mm256_storeu_si256((__m256i *)(void *)codes, _mm256_permutevar8x32_epi32(bytes, order));
}

static void add_product(float *sum, __m256 x, __m256 y)
{
    _mm256_store_ps(sum, _mm256_add_ps(_mm256_load_ps(sum), _mm256_mul_ps(x, y)));
}

void feedback_step_avx2(float *e, float *sums, const float *t, const float *q, const float *w, float r2)
{
    for (size_t i = 0; i < TILE_COLS; i += WIDE) {
        __m256 value = _mm256_load_ps(q + i), from = _mm256_load_ps(w + i);
        __m256 d = _mm256_sub_ps(_mm256_load_ps(t + i), value), off = _mm256_sub_ps(from, value);

        _mm256_store_ps(e + i, off);
        add_product(sums + i, _mm256_set1_ps(r2), _mm256_mul_ps(d, d));
        add_product(sums + TILE_COLS + i, off, off);
        add_product(sums + 2 * TILE_COLS + i, from, from);
    }
}
#endif
