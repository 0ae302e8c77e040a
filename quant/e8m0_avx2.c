#include "quant/e8m0.h"

#if defined(__x86_64__)
#include <immintrin.h>

bool e8m0_decode_avx2(float *x, const uint8_t *codes, size_t n)
{
    __m256i bad = _mm256_setzero_si256();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256i c = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + i)));
        __m256i bits = _mm256_slli_epi32(c, 23);
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(c, _mm256_set1_epi32(255)));
        _mm256_storeu_si256((__m256i *)(x + i), _mm256_max_epi32(bits, _mm256_set1_epi32(0x00400000)));
    }
    bool tail = e8m0_decode_ref(x + i, codes + i, n - i);
    return tail && _mm256_testz_si256(bad, bad);
}
#endif
