#include "quant/logits.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/exp64.h"
#include "quant/unroll.h"

#define PARTS 4 /* sixteen lanes are four registers */

ALWAYS_INLINE __m256d exp4(__m256d x)
{
    static const double terms[EXP64_TERM_COUNT] = EXP64_TERMS;
    const __m256d round = _mm256_set1_pd(EXP64_ROUND);
    __m256d rounded = _mm256_add_pd(_mm256_mul_pd(x, _mm256_set1_pd(EXP64_LOG2E)), round);
    __m256d k = _mm256_sub_pd(rounded, round);
    __m256d r = _mm256_sub_pd(x, _mm256_mul_pd(k, _mm256_set1_pd(EXP64_LN2_HIGH)));
    r = _mm256_sub_pd(r, _mm256_mul_pd(k, _mm256_set1_pd(EXP64_LN2_LOW)));
    __m256d y = _mm256_set1_pd(terms[0]);
    UNROLL
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

struct sums {
    __m256d a[PARTS], b[PARTS], product[PARTS];
};

/* Four lanes' terms; those that are not kept add +0, which changes no sum that began at +0. */
ALWAYS_INLINE void add4(struct sums *s, size_t part, __m256d x, __m256d y, __m256d keep)
{
    __m256d p = exp4(x), term = _mm256_mul_pd(p, _mm256_sub_pd(x, y));

    s->a[part] = _mm256_add_pd(s->a[part], _mm256_and_pd(keep, p));
    s->b[part] = _mm256_add_pd(s->b[part], _mm256_and_pd(keep, exp4(y)));
    s->product[part] = _mm256_add_pd(s->product[part], _mm256_and_pd(keep, term));
}

struct logits_sums logits_pair_avx2(const float *a, double m, const float *b, double n, size_t count)
{
    const __m256d most_a = _mm256_set1_pd(m), most_b = _mm256_set1_pd(n);
    const __m256d all = _mm256_castsi256_pd(_mm256_set1_epi64x(-1));
    struct sums s;
    size_t i = 0;

    UNROLL
    for (size_t h = 0; h < PARTS; h++)
        s.a[h] = s.b[h] = s.product[h] = _mm256_setzero_pd();
    for (; i + 16 <= count; i += 16) {
        UNROLL
        for (size_t h = 0; h < PARTS; h++)
            add4(&s, h, _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(a + i + 4 * h)), most_a),
                 _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(b + i + 4 * h)), most_b), all);
    }
    UNROLL
    for (size_t h = 0; h < PARTS; h++) {
        size_t at = i + 4 * h, left = at < count ? count - at : 0;
        __m128i lanes = _mm_cmpgt_epi32(_mm_set1_epi32(left < 4 ? (int)left : 4), _mm_setr_epi32(0, 1, 2, 3));
        if (left > 0)
            add4(&s, h, _mm256_sub_pd(_mm256_cvtps_pd(_mm_maskload_ps(a + at, lanes)), most_a),
                 _mm256_sub_pd(_mm256_cvtps_pd(_mm_maskload_ps(b + at, lanes)), most_b),
                 _mm256_castsi256_pd(_mm256_cvtepi32_epi64(lanes)));
    }
    return (struct logits_sums){fold(s.a), fold(s.b), fold(s.product)};
}
#endif
