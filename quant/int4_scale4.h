/* Scales of four groups at once, in 128-bit vectors: the part of int4_absmax that int4_avx2.c and int4_avx512.c share.
 * Both work a row in batches of four groups, so that the divisions here are paid once for four. Flags of these
 * functions are constants of their callers, and are folded into them. */
#ifndef QUANT_INT4_SCALE4_H
#define QUANT_INT4_SCALE4_H

#include <float.h>
#include <immintrin.h>
#include <string.h>

#include "quant/int4.h"
#include "quant/unroll.h"

#define BATCH_GROUPS 4

/* What the codes of a group are made from. */
struct steps {
    float scale[BATCH_GROUPS], inverse[BATCH_GROUPS], zero[BATCH_GROUPS];
};

/* int4_scale_code, as values; scale is not negative. */
ALWAYS_INLINE __m128 scale_round(__m128 scale, float limit)
{
    __m128 clamped = _mm_min_ps(_mm_max_ps(scale, _mm_set1_ps(INT4_SCALE_MIN)), _mm_set1_ps(limit));
    __m128i bits = _mm_castps_si128(clamped);
    __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));

    bits = _mm_add_epi32(bits, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
    return _mm_castsi128_ps(_mm_and_si128(bits, _mm_set1_epi32((int)0xffff0000u)));
}

ALWAYS_INLINE void scale_store(uint16_t *scales, __m128 scale, size_t groups)
{
    __m128i codes = _mm_srli_epi32(_mm_castps_si128(scale), 16);
    uint16_t out[8];

    _mm_storeu_si128((__m128i *)out, _mm_packus_epi32(codes, codes));
    memcpy(scales, out, groups * sizeof *scales);
}

ALWAYS_INLINE void steps_store(struct steps *s, __m128 scale, __m128 zero)
{
    _mm_storeu_ps(s->scale, scale);
    _mm_storeu_ps(s->inverse, _mm_div_ps(_mm_set1_ps(1), scale));
    _mm_storeu_ps(s->zero, zero);
}

ALWAYS_INLINE void scale4_symmetric(struct steps *s, uint16_t *scales, __m128 amax, size_t groups)
{
    __m128 empty = _mm_cmpeq_ps(amax, _mm_setzero_ps());
    __m128 scale = scale_round(_mm_div_ps(amax, _mm_set1_ps(7.5f)), INT4_SCALE_MAX);

    scale = _mm_blendv_ps(scale, _mm_set1_ps(1), empty);
    scale_store(scales, scale, groups);
    steps_store(s, scale, _mm_setzero_ps());
}

ALWAYS_INLINE void scale4_asymmetric(struct steps *s, uint16_t *scales, int8_t *zeros, __m128 min, __m128 max,
                                     size_t groups)
{
    __m128 range = _mm_min_ps(_mm_sub_ps(max, min), _mm_set1_ps(FLT_MAX));
    __m128 empty = _mm_cmpeq_ps(range, _mm_setzero_ps());
    __m128 scale = scale_round(_mm_div_ps(range, _mm_set1_ps(15)), INT4_SCALE_MAX_ASYM);

    scale = _mm_blendv_ps(scale, _mm_set1_ps(1), empty);

    __m128 zero = _mm_sub_ps(_mm_set1_ps(-8), _mm_div_ps(min, scale));

    zero = _mm_min_ps(_mm_max_ps(zero, _mm_set1_ps(-8)), _mm_set1_ps(7));
    zero = _mm_andnot_ps(empty, _mm_round_ps(zero, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    scale_store(scales, scale, groups);
    steps_store(s, scale, zero);
    for (size_t i = 0; i < groups; i++)
        zeros[i] = (int8_t)s->zero[i];
}

/* The steps of stored groups, for int4_round. */
ALWAYS_INLINE void scale4_load(struct steps *s, const uint16_t *scales, const int8_t *zeros, size_t groups)
{
    float scale[BATCH_GROUPS] = {1, 1, 1, 1}, zero[BATCH_GROUPS] = {0};

    for (size_t i = 0; i < groups; i++) {
        uint32_t bits = (uint32_t)scales[i] << 16;

        memcpy(&scale[i], &bits, sizeof bits);
        zero[i] = zeros ? (float)zeros[i] : 0.0f;
    }
    steps_store(s, _mm_loadu_ps(scale), _mm_loadu_ps(zero));
}

/* Codes are made with w * (1 / s), and made again with w / s where that could round to another integer: where the
 * product is this near to a half. Both quotients are within 2^-19.4 of each other inside the code range (three
 * roundings of 2^-24 relative of at most 16) and adding the zero point rounds each by at most 2^-22. */
#define NEAR_HALF (0.5f - 0x1p-17f)

#endif
