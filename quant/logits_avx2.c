#include "quant/logits.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/exp64.h"

#define PARTS 4 /* sixteen lanes are four registers */

static inline __m256d exp4(__m256d x)
{
    static const double terms[EXP64_TERM_COUNT] = EXP64_TERMS;
    const __m256d round = _mm256_set1_pd(EXP64_ROUND);
    __m256d rounded = _mm256_add_pd(_mm256_mul_pd(x, _mm256_set1_pd(EXP64_LOG2E)), round);
    __m256d k = _mm256_sub_pd(rounded, round);
    __m256d r = _mm256_sub_pd(x, _mm256_mul_pd(k, _mm256_set1_pd(EXP64_LN2_HIGH)));
    r = _mm256_sub_pd(r, _mm256_mul_pd(k, _mm256_set1_pd(EXP64_LN2_LOW)));
    __m256d y = _mm256_set1_pd(terms[0]);
    for (size_t i = 1; i < EXP64_TERM_COUNT; i++)
        y = _mm256_add_pd(_mm256_mul_pd(y, r), _mm256_set1_pd(terms[i]));
    __m256i power = _mm256_slli_epi64(_mm256_add_epi64(_mm256_castpd_si256(rounded), _mm256_set1_epi64x(1023)), 52);
    y = _mm256_mul_pd(y, _mm256_castsi256_pd(power));
    __m256d zero = _mm256_cmp_pd(x, _mm256_set1_pd(EXP64_LEAST), _CMP_LT_OQ);
    __m256d past = _mm256_cmp_pd(x, _mm256_set1_pd(709), _CMP_GT_OQ);
    return _mm256_andnot_pd(zero, _mm256_blendv_pd(y, _mm256_set1_pd(__builtin_inf()), past));
}

static double fold(const __m256d lanes[PARTS])
{
    __m256d four = _mm256_add_pd(_mm256_add_pd(lanes[0], lanes[2]), _mm256_add_pd(lanes[1], lanes[3]));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

/* What the masked lanes of a tail add is +0, which changes no sum that began at +0. */
struct logits_sums logits_pair_avx2(const float *a, double m, const float *b, double n, size_t count)
{
    __m256d a_sum[PARTS], b_sum[PARTS], product[PARTS];
    const __m256d most_a = _mm256_set1_pd(m), most_b = _mm256_set1_pd(n);

    for (size_t h = 0; h < PARTS; h++)
        a_sum[h] = b_sum[h] = product[h] = _mm256_setzero_pd();
    for (size_t i = 0; i < count; i += 16)
        for (size_t h = 0; h < PARTS && i + 4 * h < count; h++) {
            size_t left = count - i - 4 * h;
            __m128i lanes = _mm_cmpgt_epi32(_mm_set1_epi32(left < 4 ? (int)left : 4), _mm_setr_epi32(0, 1, 2, 3));
            __m256d keep = _mm256_castsi256_pd(_mm256_cvtepi32_epi64(lanes));
            __m256d x = _mm256_sub_pd(_mm256_cvtps_pd(_mm_maskload_ps(a + i + 4 * h, lanes)), most_a);
            __m256d y = _mm256_sub_pd(_mm256_cvtps_pd(_mm_maskload_ps(b + i + 4 * h, lanes)), most_b);
            __m256d p = exp4(x), term = _mm256_mul_pd(p, _mm256_sub_pd(x, y));
            a_sum[h] = _mm256_add_pd(a_sum[h], _mm256_and_pd(keep, p));
            b_sum[h] = _mm256_add_pd(b_sum[h], _mm256_and_pd(keep, exp4(y)));
            product[h] = _mm256_add_pd(product[h], _mm256_and_pd(keep, term));
        }
    return (struct logits_sums){fold(a_sum), fold(b_sum), fold(product)};
}
#endif
