#include "quant/f16.h"

#if defined(__x86_64__)
#include <immintrin.h>

bool f16_decode_avx2(float *x, const uint16_t *codes, size_t n)
{
    const __m128i exponent = _mm_set1_epi16(0x7C00);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m128i c = _mm_loadu_si128((const __m128i *)(codes + i));
        bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(c, exponent), exponent));
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(c));
    }
    bool tail = f16_decode_ref(x + i, codes + i, n - i);
    return tail && _mm_testz_si128(bad, bad);
}

bool f16_encode_avx2(uint16_t *codes, const float *x, size_t n)
{
    const __m128i exponent = _mm_set1_epi16(0x7C00);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m128i c = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(c, exponent), exponent));
        _mm_storeu_si128((__m128i *)(codes + i), c);
    }
    bool tail = f16_encode_ref(codes + i, x + i, n - i);
    return tail && _mm_testz_si128(bad, bad);
}
#endif
