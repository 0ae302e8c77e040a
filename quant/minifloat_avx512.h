/* minifloat.h for sixteen lanes; only for files named _avx512.c. */
#ifndef QUANT_MINIFLOAT_AVX512_H
#define QUANT_MINIFLOAT_AVX512_H

#include <immintrin.h>

#include "quant/minifloat.h"

static inline __m512i minifloat_encode16(__m512 x, struct minifloat f)
{
    unsigned shift = 23 - f.fraction;
    __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF));
    __m512 a = _mm512_min_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(f.max));

    __m512i bits = _mm512_castps_si512(a);
    __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(1 << shift));
    __m512i even = _mm512_add_epi32(bits, _mm512_set1_epi32((int)((1u << (shift - 1)) - 1 - (f.rebias << 23))));
    __m512i normal = _mm512_srli_epi32(_mm512_mask_add_epi32(even, odd, even, _mm512_set1_epi32(1)), shift);

    __m512 sum = _mm512_add_ps(a, _mm512_set1_ps(f.magic));
    __m512i small = _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(_mm512_set1_ps(f.magic)));
    return _mm512_mask_mov_epi32(normal, _mm512_cmplt_epi32_mask(bits, _mm512_set1_epi32((int)f.min_normal)), small);
}

/* code | sign of x, moved down to where `sign` is the only bit. */
static inline __m512i minifloat_sign16(__m512i code, __m512 x, int sign)
{
    __m512i moved = _mm512_srli_epi32(_mm512_castps_si512(x), sign == 8 ? 28 : 24);
    return _mm512_ternarylogic_epi32(code, moved, _mm512_set1_epi32(sign), 0xF8); /* code | (moved & sign) */
}

#endif
