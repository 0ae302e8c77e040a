/* Sixteen lanes in two vectors; only for files named _avx2.c. */
#ifndef QUANT_LANES_AVX2_H
#define QUANT_LANES_AVX2_H

#include <immintrin.h>

/* Their sum, as a tree: 8, 4, 2, 1. */
static inline float lanes_fold(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
