/* A code is the upper half of an f16. */
#include "quant/e5m2.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/minifloat_avx2.h"

/* 57344 times it is finite. Other scales, and NaN, go to the reference. */
#define SAFE_SCALE 0x1p111f

bool e5m2_decode_avx2(float *x, const uint8_t *codes, size_t n, float scale)
{
    const __m128i exponent = _mm_set1_epi8(0x7C);
    const __m256 s = _mm256_set1_ps(scale);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;

    if (!(fabsf(scale) <= SAFE_SCALE))
        return e5m2_decode_ref(x, codes, n, scale);
    for (; i + 16 <= n; i += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(codes + i));
        __m256i halves = _mm256_slli_epi16(_mm256_cvtepu8_epi16(c), 8);
        bad = _mm_or_si128(bad, _mm_cmpeq_epi8(_mm_and_si128(c, exponent), exponent));
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), s));
        _mm256_storeu_ps(x + i + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), s));
    }
    bool tail = e5m2_decode_ref(x + i, codes + i, n - i, scale);
    return tail && _mm_testz_si128(bad, bad);
}

static __m256i encode8(const float *x, __m256 scale)
{
    __m256 q = _mm256_div_ps(_mm256_loadu_ps(x), scale);
    return minifloat_sign8(minifloat_encode8(q, MINIFLOAT_E5M2), q, 0x80);
}

void e5m2_encode_avx2(uint8_t *codes, const float *x, size_t n, float scale)
{
    const __m256 s = _mm256_set1_ps(scale);
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m256i c =
            pack_bytes32(encode8(x + i, s), encode8(x + i + 8, s), encode8(x + i + 16, s), encode8(x + i + 24, s));
        _mm256_storeu_si256((__m256i *)(codes + i), c);
    }
    e5m2_encode_ref(codes + i, x + i, n - i, scale);
}
#endif
