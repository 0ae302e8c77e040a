/* Sixteen lanes: masks for the tails of rows, and their sum; only for files named _avx512.c. */
#ifndef QUANT_LANES_AVX512_H
#define QUANT_LANES_AVX512_H

#include <immintrin.h>
#include <stddef.h>

/* The first `left` of sixteen lanes, or all. */
static inline __mmask16 lanes16(size_t left)
{
    return (__mmask16)(left < 16 ? (1u << left) - 1 : 0xFFFFu);
}

/* As a tree: 8, 4, 2, 1. */
static inline float lanes_fold(__m512 lanes)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
