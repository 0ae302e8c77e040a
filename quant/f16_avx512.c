#include "quant/f16.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/lanes_avx512.h"

bool f16_decode_avx512(float *x, const uint16_t *codes, size_t n)
{
    const __m256i exponent = _mm256_set1_epi16(0x7C00);
    __mmask16 bad = 0;

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m256i c = _mm256_maskz_loadu_epi16(lanes, codes + i);
        bad = (__mmask16)(bad | _mm256_cmpeq_epi16_mask(_mm256_and_si256(c, exponent), exponent));
        _mm512_mask_storeu_ps(x + i, lanes, _mm512_cvtph_ps(c));
    }
    return bad == 0;
}

bool f16_encode_avx512(uint16_t *codes, const float *x, size_t n)
{
    const __m256i exponent = _mm256_set1_epi16(0x7C00);
    __mmask16 bad = 0;

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m256i c = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(lanes, x + i), _MM_FROUND_TO_NEAREST_INT);
        bad = (__mmask16)(bad | _mm256_cmpeq_epi16_mask(_mm256_and_si256(c, exponent), exponent));
        _mm256_mask_storeu_epi16(codes + i, lanes, c);
    }
    return bad == 0;
}
#endif
