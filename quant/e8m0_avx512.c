#include "quant/e8m0.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/lanes_avx512.h"

bool e8m0_decode_avx512(float *x, const uint8_t *codes, size_t n)
{
    __mmask16 bad = 0;

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m128i c = _mm_maskz_loadu_epi8(lanes, codes + i);
        __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(c), 23);
        bad = (__mmask16)(bad | _mm_cmpeq_epi8_mask(c, _mm_set1_epi8(-1)));
        _mm512_mask_storeu_epi32(x + i, lanes, _mm512_max_epi32(bits, _mm512_set1_epi32(0x00400000)));
    }
    return bad == 0;
}
#endif
