#include "quant/reduce.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/bits.h"
#include "quant/lanes_avx512.h"

/* The greatest magnitude, as bits; infinity and NaN are above all numbers. Two maxima hide the latency of one. */
static uint32_t most_bits(const float *x, size_t n)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i most = _mm512_setzero_si512(), other = _mm512_setzero_si512();
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
        other = _mm512_max_epu32(other, _mm512_and_si512(_mm512_loadu_si512(x + i + 16), magnitude));
    }
    for (; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes, x + i), magnitude));
    }
    return (uint32_t)_mm512_reduce_max_epu32(_mm512_max_epu32(most, other));
}

bool f32_check_avx512(const float *x, size_t n)
{
    return most_bits(x, n) < 0x7F800000u;
}

float absmax_avx512(const float *x, size_t n)
{
    return bits_float(most_bits(x, n));
}

struct row_error row_error_avx512(const float *x, const float *y, size_t n)
{
    __m512 error2 = _mm512_setzero_ps(), energy2 = _mm512_setzero_ps();

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m512 a = _mm512_maskz_loadu_ps(lanes, x + i), d = _mm512_sub_ps(a, _mm512_maskz_loadu_ps(lanes, y + i));
        error2 = _mm512_add_ps(error2, _mm512_mul_ps(d, d));
        energy2 = _mm512_add_ps(energy2, _mm512_mul_ps(a, a));
    }
    return (struct row_error){.error2 = lanes_fold(error2), .energy2 = lanes_fold(energy2)};
}
#endif
