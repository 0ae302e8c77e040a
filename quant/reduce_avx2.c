#include "quant/reduce.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/bits.h"
#include "quant/lanes_avx2.h"

/* The greatest magnitude, as bits; infinity and NaN are above all numbers. Two maxima hide the latency of one. */
static uint32_t most_bits(const float *x, size_t n)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i most = _mm256_setzero_si256(), other = _mm256_setzero_si256();
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(x + i)), b = _mm256_loadu_si256((const __m256i *)(x + i + 8));
        most = _mm256_max_epu32(most, _mm256_and_si256(a, magnitude));
        other = _mm256_max_epu32(other, _mm256_and_si256(b, magnitude));
    }
    uint32_t lanes[8], bits = float_bits(absmax_ref(x + i, n - i));
    _mm256_storeu_si256((__m256i *)lanes, _mm256_max_epu32(most, other));
    for (size_t lane = 0; lane < 8; lane++)
        bits = lanes[lane] > bits ? lanes[lane] : bits;
    return bits;
}

bool f32_check_avx2(const float *x, size_t n)
{
    return most_bits(x, n) < 0x7F800000u;
}

bool codes8_check_avx2(const uint8_t *x, size_t n, uint8_t mask)
{
    const __m256i all = _mm256_set1_epi8((char)mask);
    __m256i bad = _mm256_setzero_si256(), other = bad;
    size_t i = 0;

    for (; i + 64 <= n; i += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(x + i)), b = _mm256_loadu_si256((const __m256i *)(x + i + 32));
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi8(_mm256_and_si256(a, all), all));
        other = _mm256_or_si256(other, _mm256_cmpeq_epi8(_mm256_and_si256(b, all), all));
    }
    bad = _mm256_or_si256(bad, other);
    return _mm256_testz_si256(bad, bad) && codes8_check_ref(x + i, n - i, mask);
}

bool codes16_check_avx2(const uint16_t *x, size_t n, uint16_t mask)
{
    const __m256i all = _mm256_set1_epi16((short)mask);
    __m256i bad = _mm256_setzero_si256(), other = bad;
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(x + i)), b = _mm256_loadu_si256((const __m256i *)(x + i + 16));
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi16(_mm256_and_si256(a, all), all));
        other = _mm256_or_si256(other, _mm256_cmpeq_epi16(_mm256_and_si256(b, all), all));
    }
    bad = _mm256_or_si256(bad, other);
    return _mm256_testz_si256(bad, bad) && codes16_check_ref(x + i, n - i, mask);
}

float absmax_avx2(const float *x, size_t n)
{
    return bits_float(most_bits(x, n));
}

struct row_error row_error_avx2(const float *x, const float *y, size_t n)
{
    __m256 error_low = _mm256_setzero_ps(), error_high = error_low, energy_low = error_low, energy_high = error_low;
    float error2[16], energy2[16];
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        __m256 d = _mm256_sub_ps(a, _mm256_loadu_ps(y + i)), f = _mm256_sub_ps(b, _mm256_loadu_ps(y + i + 8));
        error_low = _mm256_add_ps(error_low, _mm256_mul_ps(d, d));
        error_high = _mm256_add_ps(error_high, _mm256_mul_ps(f, f));
        energy_low = _mm256_add_ps(energy_low, _mm256_mul_ps(a, a));
        energy_high = _mm256_add_ps(energy_high, _mm256_mul_ps(b, b));
    }
    _mm256_storeu_ps(error2, error_low);
    _mm256_storeu_ps(error2 + 8, error_high);
    _mm256_storeu_ps(energy2, energy_low);
    _mm256_storeu_ps(energy2 + 8, energy_high);
    for (; i < n; i++) {
        float d = x[i] - y[i];
        error2[i % 16] += d * d;
        energy2[i % 16] += x[i] * x[i];
    }
    return (struct row_error){.error2 = lanes_fold(_mm256_loadu_ps(error2), _mm256_loadu_ps(error2 + 8)),
                              .energy2 = lanes_fold(_mm256_loadu_ps(energy2), _mm256_loadu_ps(energy2 + 8))};
}
#endif
