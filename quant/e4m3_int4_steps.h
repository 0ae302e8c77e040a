/* What e4m3_int4_avx2.c and e4m3_int4_avx512.c share: of four groups at once, the scales, and whether codes may be made
 * with a product. */
#ifndef QUANT_E4M3_INT4_STEPS_H
#define QUANT_E4M3_INT4_STEPS_H

#include "quant/e4m3.h"
#include "quant/e4m3_int4.h"
#include "quant/int4_scale4.h"
#include "quant/unroll.h"

/* Added to a float of -8..7 it rounds that to an integer, ties to even, and leaves code + 8 in the low bits. */
#define ROUNDER 0x1.80001p23f

/* What the codes of a batch's groups are made from. */
struct fp8_steps {
    struct steps int4;
    float decode[BATCH_GROUPS]; /* 2^8 times the scale of the FP8 block */
    unsigned divide;            /* a bit for each group: a product could round to another code than the quotient */
};

/* The scales of groups [first, first + groups); others get 1. */
ALWAYS_INLINE __m128 block_scales(const float *scales, size_t first, size_t groups, size_t groups_per_block)
{
    size_t block = first / groups_per_block, left = groups_per_block - first % groups_per_block;
    float s[BATCH_GROUPS] = {1, 1, 1, 1};

    if (groups == BATCH_GROUPS && groups_per_block == 1)
        return _mm_loadu_ps(scales + first);
    if (groups <= left)
        return _mm_set1_ps(scales[block]);
    for (size_t i = 0; i < groups; i++)
        s[i] = scales[(first + i) / groups_per_block];
    return _mm_setr_ps(s[0], s[1], s[2], s[3]);
}

/* A code is the quotient of x = e * block scale and the group's scale, rounded; x * (1 / scale) is at most 2^-22 of it
 * away. Only where the quotient is that near to a half may the two round apart, and the halves, as FP8 values, are
 * eight numbers for the whole group: (j - 1/2) * scale / block scale. FP8 values have four significant bits, so that a
 * half is far from all of them unless its bits behind these four are nearly all zeros or ones. The numbers here are
 * within 2 units of their last place; 16 are allowed for. */
ALWAYS_INLINE __m256i behind(float ratio)
{
    __m256 halves = _mm256_setr_ps(0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f);
    __m256i bits = _mm256_castps_si256(_mm256_mul_ps(halves, _mm256_set1_ps(ratio)));

    return _mm256_and_si256(_mm256_add_epi32(bits, _mm256_set1_epi32(16)), _mm256_set1_epi32(0xfffff));
}

ALWAYS_INLINE bool any_near(__m256i behind_bits)
{
    return _mm256_movemask_epi8(_mm256_cmpgt_epi32(_mm256_set1_epi32(33), behind_bits)) != 0;
}

/* A bit for each group. */
ALWAYS_INLINE unsigned near_halves(const float ratios[BATCH_GROUPS])
{
    __m256i bits[BATCH_GROUPS];
    unsigned near = 0;

    UNROLL for (size_t i = 0; i < BATCH_GROUPS; i++) bits[i] = behind(ratios[i]);
    if (!any_near(_mm256_min_epi32(_mm256_min_epi32(bits[0], bits[1]), _mm256_min_epi32(bits[2], bits[3]))))
        return 0;
    for (size_t i = 0; i < BATCH_GROUPS; i++)
        near |= (unsigned)any_near(bits[i]) << i;
    return near;
}

/* largest: the largest magnitude code of each group. */
ALWAYS_INLINE void fp8_steps_make(struct fp8_steps *s, uint16_t *scales, __m128i largest, __m128 blocks, size_t groups)
{
    __m128 decode = _mm_mul_ps(blocks, _mm_set1_ps(256));
    __m128i halves = _mm_slli_epi16(_mm_packus_epi32(largest, largest), 7); /* see e4m3_avx512.c */
    float ratios[BATCH_GROUPS];

    scale4_symmetric(&s->int4, scales, _mm_mul_ps(_mm_cvtph_ps(halves), decode), groups);
    _mm_storeu_ps(s->decode, decode);
    _mm_storeu_ps(ratios, _mm_div_ps(_mm_loadu_ps(s->int4.scale), blocks));
    s->divide = near_halves(ratios);
}

static inline bool all_safe(const float *scales, size_t count)
{
    bool safe = true;

    for (size_t i = 0; i < count; i++)
        safe &= scales[i] <= E4M3_SAFE_SCALE;
    return safe;
}

#endif
