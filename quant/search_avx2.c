/* The scale search for eight rows at a time. */
#if defined(__x86_64__)
#include <immintrin.h>

#define LANES       8
#define V           __m256
#define M           __m256
#define SEARCH_NAME int4_search_avx2
#define ABSMAX_ROWS int4_absmax_avx2
#define ROUND_ROWS  int4_round_avx2

#define v_load(p)            _mm256_load_ps(p)
#define v_store(p, x)        _mm256_store_ps(p, x)
#define v_set1(x)            _mm256_set1_ps(x)
#define v_add(a, b)          _mm256_add_ps(a, b)
#define v_sub(a, b)          _mm256_sub_ps(a, b)
#define v_mul(a, b)          _mm256_mul_ps(a, b)
#define v_div(a, b)          _mm256_div_ps(a, b)
#define v_min(a, b)          _mm256_min_ps(a, b)
#define v_max(a, b)          _mm256_max_ps(a, b)
#define v_bits(a)            _mm256_castps_si256(a)
#define v_min_signed(a, b)   _mm256_castsi256_ps(_mm256_min_epi32(v_bits(a), v_bits(b)))
#define v_min_unsigned(a, b) _mm256_castsi256_ps(_mm256_min_epu32(v_bits(a), v_bits(b)))
#define v_abs(a)             _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define v_round(a)           _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_square_add(z, sum) _mm256_fmadd_ps(z, z, sum)
#define m_less(a, b)         _mm256_cmp_ps(a, b, _CMP_LT_OQ)
#define m_differ(a, b)       _mm256_cmp_ps(a, b, _CMP_NEQ_UQ)
#define m_not_above(a, b)    _mm256_cmp_ps(a, b, _CMP_LE_OQ)
#define m_and(a, b)          _mm256_and_ps(a, b)
#define v_select(m, yes, no) _mm256_blendv_ps(no, yes, m)

/* Pairs of rows, then pairs of pairs, inside each half; then the halves themselves. */
static void transpose(float *to, const float *const rows[LANES])
{
    __m256 b[LANES];

    for (int i = 0; i < LANES; i += 4) {
        __m256 r0 = _mm256_loadu_ps(rows[i]), r1 = _mm256_loadu_ps(rows[i + 1]);
        __m256 r2 = _mm256_loadu_ps(rows[i + 2]), r3 = _mm256_loadu_ps(rows[i + 3]);
        __m256 ab_lo = _mm256_unpacklo_ps(r0, r1), ab_hi = _mm256_unpackhi_ps(r0, r1);
        __m256 cd_lo = _mm256_unpacklo_ps(r2, r3), cd_hi = _mm256_unpackhi_ps(r2, r3);

        b[i] = _mm256_shuffle_ps(ab_lo, cd_lo, 0x44);
        b[i + 1] = _mm256_shuffle_ps(ab_lo, cd_lo, 0xee);
        b[i + 2] = _mm256_shuffle_ps(ab_hi, cd_hi, 0x44);
        b[i + 3] = _mm256_shuffle_ps(ab_hi, cd_hi, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_store_ps(to + i * LANES, _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
        _mm256_store_ps(to + (i + 4) * LANES, _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
    }
}

#include "quant/search_lanes.h"
#endif
