#include "quant/bf16.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/lanes_avx512.h"

bool bf16_decode_avx512(float *x, const uint16_t *codes, size_t n)
{
    const __m256i exponent = _mm256_set1_epi16(0x7F80);
    __mmask16 bad = 0;

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m256i c = _mm256_maskz_loadu_epi16(lanes, codes + i);
        bad = (__mmask16)(bad | _mm256_cmpeq_epi16_mask(_mm256_and_si256(c, exponent), exponent));
        _mm512_mask_storeu_epi32(x + i, lanes, _mm512_slli_epi32(_mm512_cvtepu16_epi32(c), 16));
    }
    return bad == 0;
}

bool bf16_encode_avx512(uint16_t *codes, const float *x, size_t n)
{
    const __m256i exponent = _mm256_set1_epi16(0x7F80);
    __mmask16 bad = 0;

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m512i bits = _mm512_maskz_loadu_epi32(lanes, x + i);
        __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
        __m512i sum = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
        sum = _mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1));
        __m256i c = _mm512_cvtepi32_epi16(_mm512_srli_epi32(sum, 16));
        bad = (__mmask16)(bad | _mm256_cmpeq_epi16_mask(_mm256_and_si256(c, exponent), exponent));
        _mm256_mask_storeu_epi16(codes + i, lanes, c);
    }
    return bad == 0;
}
#endif
