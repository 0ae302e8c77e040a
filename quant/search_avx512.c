/* The scale search for sixteen rows at a time. */
#if defined(__x86_64__)
#include <immintrin.h>

#define LANES       16
#define V           __m512
#define M           __mmask16
#define SEARCH_NAME int4_search_avx512
#define ABSMAX_ROWS int4_absmax_avx512
#define ROUND_ROWS  int4_round_avx512

#define v_load(p)            _mm512_load_ps(p)
#define v_store(p, x)        _mm512_store_ps(p, x)
#define v_set1(x)            _mm512_set1_ps(x)
#define v_add(a, b)          _mm512_add_ps(a, b)
#define v_sub(a, b)          _mm512_sub_ps(a, b)
#define v_mul(a, b)          _mm512_mul_ps(a, b)
#define v_div(a, b)          _mm512_div_ps(a, b)
#define v_min(a, b)          _mm512_min_ps(a, b)
#define v_max(a, b)          _mm512_max_ps(a, b)
#define v_bits(a)            _mm512_castps_si512(a)
#define v_min_signed(a, b)   _mm512_castsi512_ps(_mm512_min_epi32(v_bits(a), v_bits(b)))
#define v_min_unsigned(a, b) _mm512_castsi512_ps(_mm512_min_epu32(v_bits(a), v_bits(b)))
#define v_abs(a)             _mm512_abs_ps(a)
#define v_round(a)           _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_square_add(z, sum) _mm512_fmadd_ps(z, z, sum)
#define m_less(a, b)         _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define m_differ(a, b)       _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ)
#define m_not_above(a, b)    _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ)
#define m_and(a, b)          ((__mmask16)((a) & (b)))
#define v_select(m, yes, no) _mm512_mask_blend_ps(m, no, yes)

/* Pairs of rows, then pairs of pairs, inside each 128-bit quarter; then the quarters themselves. */
static void transpose(float *to, const float *const rows[LANES])
{
    __m512 a[LANES], b[LANES];

    for (int i = 0; i < LANES; i++)
        a[i] = _mm512_loadu_ps(rows[i]);
    for (int i = 0; i < LANES; i += 4) {
        __m512 ab_lo = _mm512_unpacklo_ps(a[i], a[i + 1]), ab_hi = _mm512_unpackhi_ps(a[i], a[i + 1]);
        __m512 cd_lo = _mm512_unpacklo_ps(a[i + 2], a[i + 3]), cd_hi = _mm512_unpackhi_ps(a[i + 2], a[i + 3]);

        b[i] = _mm512_shuffle_ps(ab_lo, cd_lo, 0x44);
        b[i + 1] = _mm512_shuffle_ps(ab_lo, cd_lo, 0xee);
        b[i + 2] = _mm512_shuffle_ps(ab_hi, cd_hi, 0x44);
        b[i + 3] = _mm512_shuffle_ps(ab_hi, cd_hi, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        __m512 even_lo = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88),
               odd_lo = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        __m512 even_hi = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        __m512 odd_hi = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);

        _mm512_store_ps(to + i * LANES, _mm512_shuffle_f32x4(even_lo, even_hi, 0x88));
        _mm512_store_ps(to + (i + 4) * LANES, _mm512_shuffle_f32x4(odd_lo, odd_hi, 0x88));
        _mm512_store_ps(to + (i + 8) * LANES, _mm512_shuffle_f32x4(even_lo, even_hi, 0xdd));
        _mm512_store_ps(to + (i + 12) * LANES, _mm512_shuffle_f32x4(odd_lo, odd_hi, 0xdd));
    }
}

#include "quant/search_lanes.h"
#endif
