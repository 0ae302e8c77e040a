/* A code is the upper half of an f16. */
#include "quant/e5m2.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/lanes_avx512.h"
#include "quant/minifloat_avx512.h"

/* 57344 times it is finite. Other scales, and NaN, go to the reference. */
#define SAFE_SCALE 0x1p111f

bool e5m2_decode_avx512(float *x, const uint8_t *codes, size_t n, float scale)
{
    const __m128i exponent = _mm_set1_epi8(0x7C);
    const __m512 s = _mm512_set1_ps(scale);
    __mmask16 bad = 0;

    if (!(fabsf(scale) <= SAFE_SCALE))
        return e5m2_decode_ref(x, codes, n, scale);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m128i c = _mm_maskz_loadu_epi8(lanes, codes + i);
        bad = (__mmask16)(bad | _mm_cmpeq_epi8_mask(_mm_and_si128(c, exponent), exponent));
        __m512 value = _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(c), 8));
        _mm512_mask_storeu_ps(x + i, lanes, _mm512_mul_ps(value, s));
    }
    return bad == 0;
}

void e5m2_encode_avx512(uint8_t *codes, const float *x, size_t n, float scale)
{
    const __m512 s = _mm512_set1_ps(scale);

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m512 q = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, x + i), s);
        __m512i c = minifloat_sign16(minifloat_encode16(q, MINIFLOAT_E5M2), q, 0x80);
        _mm_mask_storeu_epi8(codes + i, lanes, _mm512_cvtepi32_epi8(c));
    }
}
#endif
