#include "quant/e2m1.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/minifloat_avx2.h"

/* Magnitudes come from a table of products, the sign of the code is laid over. */
static __m256 value8(__m128i codes, __m256 products)
{
    __m256i c = _mm256_cvtepu8_epi32(codes);
    __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(c, 3), 31);
    return _mm256_xor_ps(_mm256_permutevar8x32_ps(products, c), _mm256_castsi256_ps(sign));
}

void e2m1_decode_avx2(float *x, const uint8_t *packed, size_t n, float scale)
{
    const __m256 values = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    const __m256 products = _mm256_mul_ps(values, _mm256_set1_ps(scale));
    const __m128i nibble = _mm_set1_epi8(15);
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m128i c = _mm_loadu_si128((const __m128i *)(packed + i / 2));
        __m128i even = _mm_and_si128(c, nibble), odd = _mm_and_si128(_mm_srli_epi16(c, 4), nibble);
        __m128i lower = _mm_unpacklo_epi8(even, odd), upper = _mm_unpackhi_epi8(even, odd);
        _mm256_storeu_ps(x + i, value8(lower, products));
        _mm256_storeu_ps(x + i + 8, value8(_mm_srli_si128(lower, 8), products));
        _mm256_storeu_ps(x + i + 16, value8(upper, products));
        _mm256_storeu_ps(x + i + 24, value8(_mm_srli_si128(upper, 8), products));
    }
    e2m1_decode_ref(x + i, packed + i / 2, n - i, scale);
}

static __m256i encode8(const float *x, __m256 scale)
{
    __m256 q = _mm256_div_ps(_mm256_loadu_ps(x), scale);
    return minifloat_sign8(minifloat_encode8(q, MINIFLOAT_E2M1), q, 8);
}

void e2m1_encode_avx2(uint8_t *packed, const float *x, size_t n, float scale)
{
    const __m256 s = _mm256_set1_ps(scale);
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m256i codes =
            pack_bytes32(encode8(x + i, s), encode8(x + i + 8, s), encode8(x + i + 16, s), encode8(x + i + 24, s));
        __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001));
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
        _mm_storeu_si128((__m128i *)(packed + i / 2), bytes);
    }
    e2m1_encode_ref(packed + i / 2, x + i, n - i, scale);
}
#endif
