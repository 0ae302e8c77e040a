#include "quant/logits.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/exp64.h"

static inline __m512d exp8(__m512d x)
{
    static const double terms[EXP64_TERM_COUNT] = EXP64_TERMS;
    const __m512d round = _mm512_set1_pd(EXP64_ROUND);
    __m512d rounded = _mm512_add_pd(_mm512_mul_pd(x, _mm512_set1_pd(EXP64_LOG2E)), round);
    __m512d k = _mm512_sub_pd(rounded, round);
    __m512d r = _mm512_sub_pd(x, _mm512_mul_pd(k, _mm512_set1_pd(EXP64_LN2_HIGH)));
    r = _mm512_sub_pd(r, _mm512_mul_pd(k, _mm512_set1_pd(EXP64_LN2_LOW)));
    __m512d y = _mm512_set1_pd(terms[0]);
    for (size_t i = 1; i < EXP64_TERM_COUNT; i++)
        y = _mm512_add_pd(_mm512_mul_pd(y, r), _mm512_set1_pd(terms[i]));
    __m512i power = _mm512_slli_epi64(_mm512_add_epi64(_mm512_castpd_si512(rounded), _mm512_set1_epi64(1023)), 52);
    y = _mm512_mul_pd(y, _mm512_castsi512_pd(power));
    __mmask8 zero = _mm512_cmp_pd_mask(x, _mm512_set1_pd(EXP64_LEAST), _CMP_LT_OQ);
    __mmask8 past = _mm512_cmp_pd_mask(x, _mm512_set1_pd(709), _CMP_GT_OQ);
    y = _mm512_mask_mov_pd(y, past, _mm512_set1_pd(__builtin_inf()));
    return _mm512_maskz_mov_pd((__mmask8)~zero, y);
}

static double fold(__m512d low, __m512d high)
{
    __m512d eight = _mm512_add_pd(low, high);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

struct logits_sums logits_pair_avx512(const float *a, double m, const float *b, double n, size_t count)
{
    __m512d a_sum[2], b_sum[2], product[2];
    const __m512d most_a = _mm512_set1_pd(m), most_b = _mm512_set1_pd(n);

    for (size_t h = 0; h < 2; h++)
        a_sum[h] = b_sum[h] = product[h] = _mm512_setzero_pd();
    for (size_t i = 0; i < count; i += 16)
        for (size_t h = 0; h < 2; h++) {
            size_t at = i + 8 * h, left = at < count ? count - at : 0;
            __mmask8 lanes = (__mmask8)(left < 8 ? (1u << left) - 1 : 0xFFu);
            __m512d x = _mm512_sub_pd(_mm512_cvtps_pd(_mm256_maskz_loadu_ps(lanes, a + at)), most_a);
            __m512d y = _mm512_sub_pd(_mm512_cvtps_pd(_mm256_maskz_loadu_ps(lanes, b + at)), most_b);
            __m512d p = exp8(x);
            a_sum[h] = _mm512_mask_add_pd(a_sum[h], lanes, a_sum[h], p);
            b_sum[h] = _mm512_mask_add_pd(b_sum[h], lanes, b_sum[h], exp8(y));
            product[h] = _mm512_mask_add_pd(product[h], lanes, product[h], _mm512_mul_pd(p, _mm512_sub_pd(x, y)));
        }
    return (struct logits_sums){fold(a_sum[0], a_sum[1]), fold(b_sum[0], b_sum[1]), fold(product[0], product[1])};
}
#endif
