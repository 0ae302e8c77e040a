/* minifloat.h for eight lanes; only for files named _avx2.c. */
#ifndef QUANT_MINIFLOAT_AVX2_H
#define QUANT_MINIFLOAT_AVX2_H

#include <immintrin.h>

#include "quant/minifloat.h"

static inline __m256i minifloat_encode8(__m256 x, struct minifloat f)
{
    int shift = (int)(23 - f.fraction);
    __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF));
    __m256 a = _mm256_min_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(f.max));

    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, shift), _mm256_set1_epi32(1));
    __m256i half = _mm256_set1_epi32((int)((1u << (shift - 1)) - 1 - (f.rebias << 23)));
    __m256i normal = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, half), odd), shift);

    __m256 sum = _mm256_add_ps(a, _mm256_set1_ps(f.magic));
    __m256i small = _mm256_sub_epi32(_mm256_castps_si256(sum), _mm256_castps_si256(_mm256_set1_ps(f.magic)));
    return _mm256_blendv_epi8(normal, small, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)f.min_normal), bits));
}

/* code | sign of x, moved down to where `sign` is the only bit. */
static inline __m256i minifloat_sign8(__m256i code, __m256 x, int sign)
{
    __m256i moved = _mm256_srli_epi32(_mm256_castps_si256(x), sign == 8 ? 28 : 24);
    return _mm256_or_si256(code, _mm256_and_si256(moved, _mm256_set1_epi32(sign)));
}

/* The low bytes of 4 x 8 dwords (each below 256), in order. */
static inline __m256i pack_bytes32(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

#endif
