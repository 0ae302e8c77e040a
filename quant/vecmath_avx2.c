#if defined(__x86_64__)
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/unroll.h"

typedef struct {
    __m256 low, high; /* lanes 0..7, 8..15 */
} v16;
typedef struct {
    __m256d quarter[4];
} v16d;

/* Both halves of a vector. */
#define EACH(expr_low, expr_high)                                                                                      \
    (v16)                                                                                                              \
    {                                                                                                                  \
        (expr_low), (expr_high)                                                                                        \
    }

/* A window over these gives a mask of the first n of eight lanes. */
static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

ALWAYS_INLINE __m256i first8(size_t n)
{
    return _mm256_loadu_si256((const __m256i *)(window + 8 - (n < 8 ? n : 8)));
}

ALWAYS_INLINE size_t past8(size_t n)
{
    return n < 8 ? 0 : n - 8;
}

ALWAYS_INLINE v16 v_load(const float *p)
{
    return EACH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

ALWAYS_INLINE v16 v_load_n(const float *p, size_t n)
{
    return EACH(_mm256_maskload_ps(p, first8(n)), _mm256_maskload_ps(p + 8, first8(past8(n))));
}

ALWAYS_INLINE void v_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}

ALWAYS_INLINE void v_store_n(float *p, v16 a, size_t n)
{
    _mm256_maskstore_ps(p, first8(n), a.low);
    _mm256_maskstore_ps(p + 8, first8(past8(n)), a.high);
}

ALWAYS_INLINE v16 v_set1(float a)
{
    return EACH(_mm256_set1_ps(a), _mm256_set1_ps(a));
}

ALWAYS_INLINE v16 v_add(v16 a, v16 b)
{
    return EACH(_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high));
}

ALWAYS_INLINE v16 v_sub(v16 a, v16 b)
{
    return EACH(_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high));
}

ALWAYS_INLINE v16 v_mul(v16 a, v16 b)
{
    return EACH(_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high));
}

ALWAYS_INLINE v16 v_div(v16 a, v16 b)
{
    return EACH(_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high));
}

ALWAYS_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return EACH(_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high));
}

ALWAYS_INLINE v16 v_max(v16 a, v16 b)
{
    return EACH(_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high));
}

ALWAYS_INLINE v16 v_min(v16 a, v16 b)
{
    return EACH(_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high));
}

ALWAYS_INLINE v16 v_first(size_t n, v16 a, v16 b)
{
    return EACH(_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(first8(n))),
                _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(first8(past8(n)))));
}

ALWAYS_INLINE float v_fold(v16 a)
{
    __m256 eight = _mm256_add_ps(a.low, a.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The upper half first: what the reference does when both are zeros. */
ALWAYS_INLINE float v_fold_max(v16 a)
{
    __m256 eight = _mm256_max_ps(a.high, a.low);
    __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    __m128 two = _mm_max_ps(_mm_movehl_ps(four, four), four);
    return _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(two), two));
}

ALWAYS_INLINE __m256 pow2(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

ALWAYS_INLINE __m256 times_pow2(__m256 p, __m256 shifted)
{
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4B400000));
    __m256i half = _mm256_srai_epi32(n, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, pow2(half)), pow2(_mm256_sub_epi32(n, half)));
}

ALWAYS_INLINE v16 v_times_pow2(v16 p, v16 shifted)
{
    return EACH(times_pow2(p.low, shifted.low), times_pow2(p.high, shifted.high));
}

ALWAYS_INLINE __m256 round_bf16(__m256 a)
{
    __m256i bits = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256 all =
        _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_and_ps(all, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xFFFF0000u)));
}

ALWAYS_INLINE v16 v_round_bf16(v16 a)
{
    return EACH(round_bf16(a.low), round_bf16(a.high));
}

ALWAYS_INLINE v16d d_zero(void)
{
    return (v16d){{_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}};
}

ALWAYS_INLINE v16d d_of(v16 a)
{
    return (v16d){{_mm256_cvtps_pd(_mm256_castps256_ps128(a.low)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.low, 1)),
                   _mm256_cvtps_pd(_mm256_castps256_ps128(a.high)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.high, 1))}};
}

ALWAYS_INLINE v16d d_add(v16d a, v16d b)
{
    UNROLL
    for (int q = 0; q < 4; q++)
        a.quarter[q] = _mm256_add_pd(a.quarter[q], b.quarter[q]);
    return a;
}

ALWAYS_INLINE v16d d_mul(v16d a, v16d b)
{
    UNROLL
    for (int q = 0; q < 4; q++)
        a.quarter[q] = _mm256_mul_pd(a.quarter[q], b.quarter[q]);
    return a;
}

ALWAYS_INLINE double d_fold(v16d a)
{
    __m256d low = _mm256_add_pd(a.quarter[0], a.quarter[2]), high = _mm256_add_pd(a.quarter[1], a.quarter[3]);
    __m256d four = _mm256_add_pd(low, high);
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#define VECMATH vecmath_avx2
#include "quant/vecmath_lanes.h"
#endif
