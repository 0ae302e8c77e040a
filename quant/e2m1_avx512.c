#include "quant/e2m1.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/minifloat_avx512.h"

void e2m1_decode_avx512(float *x, const uint8_t *packed, size_t n, float scale)
{
    const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f,
                                         -2.0f, -3.0f, -4.0f, -6.0f);
    const __m512 products = _mm512_mul_ps(values, _mm512_set1_ps(scale));
    const __m128i nibble = _mm_set1_epi8(15);
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m128i c = _mm_loadu_si128((const __m128i *)(packed + i / 2));
        __m128i even = _mm_and_si128(c, nibble), odd = _mm_and_si128(_mm_srli_epi16(c, 4), nibble);
        __m512i lower = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(even, odd));
        __m512i upper = _mm512_cvtepu8_epi32(_mm_unpackhi_epi8(even, odd));
        _mm512_storeu_ps(x + i, _mm512_permutexvar_ps(lower, products));
        _mm512_storeu_ps(x + i + 16, _mm512_permutexvar_ps(upper, products));
    }
    e2m1_decode_ref(x + i, packed + i / 2, n - i, scale);
}

/* Sixteen codes in bytes, made pairs in words. */
static __m128i encode16(const float *x, __m512 scale)
{
    __m512 q = _mm512_div_ps(_mm512_loadu_ps(x), scale);
    __m512i codes = minifloat_sign16(minifloat_encode16(q, MINIFLOAT_E2M1), q, 8);
    return _mm_maddubs_epi16(_mm512_cvtepi32_epi8(codes), _mm_set1_epi16(0x1001));
}

void e2m1_encode_avx512(uint8_t *packed, const float *x, size_t n, float scale)
{
    const __m512 s = _mm512_set1_ps(scale);
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        _mm_storeu_si128((__m128i *)(packed + i / 2), _mm_packus_epi16(encode16(x + i, s), encode16(x + i + 16, s)));
    e2m1_encode_ref(packed + i / 2, x + i, n - i, scale);
}
#endif
