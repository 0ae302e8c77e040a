#include "quant/bf16.h"

#if defined(__x86_64__)
#include <immintrin.h>

bool bf16_decode_avx2(float *x, const uint16_t *codes, size_t n)
{
    const __m128i exponent = _mm_set1_epi16(0x7F80);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m128i c = _mm_loadu_si128((const __m128i *)(codes + i));
        bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(c, exponent), exponent));
        _mm256_storeu_si256((__m256i *)(x + i), _mm256_slli_epi32(_mm256_cvtepu16_epi32(c), 16));
    }
    bool tail = bf16_decode_ref(x + i, codes + i, n - i);
    return tail && _mm_testz_si128(bad, bad);
}

static __m256i round8(const float *x)
{
    __m256i bits = _mm256_loadu_si256((const __m256i *)x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
}

bool bf16_encode_avx2(uint16_t *codes, const float *x, size_t n)
{
    const __m256i exponent = _mm256_set1_epi16(0x7F80);
    __m256i bad = _mm256_setzero_si256();
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m256i c = _mm256_packus_epi32(round8(x + i), round8(x + i + 8));
        c = _mm256_permute4x64_epi64(c, 0xD8);
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi16(_mm256_and_si256(c, exponent), exponent));
        _mm256_storeu_si256((__m256i *)(codes + i), c);
    }
    bool tail = bf16_encode_ref(codes + i, x + i, n - i);
    return tail && _mm256_testz_si256(bad, bad);
}
#endif
