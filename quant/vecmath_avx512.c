#if defined(__x86_64__)
#include <immintrin.h>
#include <stddef.h>

#include "quant/lanes_avx512.h"
#include "quant/unroll.h"

typedef __m512 v16;
typedef struct {
    __m512d low, high; /* lanes 0..7, 8..15 */
} v16d;

ALWAYS_INLINE v16 v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

ALWAYS_INLINE v16 v_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(lanes16(n), p);
}

ALWAYS_INLINE void v_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}

ALWAYS_INLINE void v_store_n(float *p, v16 a, size_t n)
{
    _mm512_mask_storeu_ps(p, lanes16(n), a);
}

ALWAYS_INLINE v16 v_set1(float a)
{
    return _mm512_set1_ps(a);
}

ALWAYS_INLINE v16 v_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

ALWAYS_INLINE v16 v_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

ALWAYS_INLINE v16 v_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

ALWAYS_INLINE v16 v_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

ALWAYS_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

ALWAYS_INLINE v16 v_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

ALWAYS_INLINE v16 v_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

ALWAYS_INLINE v16 v_first(size_t n, v16 a, v16 b)
{
    return _mm512_mask_mov_ps(b, lanes16(n), a);
}

ALWAYS_INLINE float v_fold(v16 a)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The upper half first: what the reference does when both are zeros. */
ALWAYS_INLINE float v_fold_max(v16 a)
{
    __m256 eight = _mm256_max_ps(_mm512_extractf32x8_ps(a, 1), _mm512_castps512_ps256(a));
    __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    __m128 two = _mm_max_ps(_mm_movehl_ps(four, four), four);
    return _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(two), two));
}

ALWAYS_INLINE __m512 pow2(__m512i n)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}

ALWAYS_INLINE v16 v_times_pow2(v16 p, v16 shifted)
{
    __m512i n = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4B400000));
    __m512i half = _mm512_srai_epi32(n, 1);
    return _mm512_mul_ps(_mm512_mul_ps(p, pow2(half)), pow2(_mm512_sub_epi32(n, half)));
}

ALWAYS_INLINE v16 v_round_bf16(v16 a)
{
    __m512i bits = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    __m512i all = _mm512_mask_mov_epi32(rounded, nan, quiet);
    return _mm512_castsi512_ps(_mm512_and_si512(all, _mm512_set1_epi32((int)0xFFFF0000u)));
}

ALWAYS_INLINE v16d d_zero(void)
{
    return (v16d){_mm512_setzero_pd(), _mm512_setzero_pd()};
}

ALWAYS_INLINE v16d d_of(v16 a)
{
    return (v16d){_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1))};
}

ALWAYS_INLINE v16d d_add(v16d a, v16d b)
{
    return (v16d){_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
}

ALWAYS_INLINE v16d d_mul(v16d a, v16d b)
{
    return (v16d){_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)};
}

ALWAYS_INLINE double d_fold(v16d a)
{
    __m512d eight = _mm512_add_pd(a.low, a.high);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#define VECMATH vecmath_avx512
#include "quant/vecmath_lanes.h"
#endif
