/* The walk over rows that e4m3_int4_avx2.c and e4m3_int4_avx512.c share. Each defines, before it includes this,
 *
 *     struct sums, NO_SUMS   sixteen lanes of error and energy, and their beginning
 *     FOLD                   a lane vector's sum
 *     largest4               the largest magnitude codes of up to four groups, as dwords
 *     round_batch            the codes of up to four groups
 */
/* Groups [g, g + count) of a row: their scales, and what their codes are made from. Says whether all are numbers. */
ALWAYS_INLINE bool make_steps(struct fp8_steps *s, uint16_t *scales, const uint8_t *codes, size_t n, size_t g,
                              size_t count, const float *blocks, size_t groups_per_block)
{
    __m128i largest = largest4(codes + g * n, n, count);
    __m128i nan = _mm_cmpeq_epi32(largest, _mm_set1_epi32(0x7f));

    fp8_steps_make(s, scales + g, largest, block_scales(blocks, g, count, groups_per_block), count);
    return _mm_testz_si128(nan, nan);
}

/* A whole batch apart from the rest of a row, as its count is then a constant. */
ALWAYS_INLINE bool next_steps(struct fp8_steps *s, uint16_t *scales, const uint8_t *codes, size_t n, size_t g,
                              size_t groups, const float *blocks, size_t groups_per_block)
{
    if (g + BATCH_GROUPS <= groups)
        return make_steps(s, scales, codes, n, g, BATCH_GROUPS, blocks, groups_per_block);
    return g >= groups || make_steps(s, scales, codes, n, g, groups - g, blocks, groups_per_block);
}

ALWAYS_INLINE void make_codes(uint32_t *words, struct sums *sums, const uint8_t *codes, size_t n, size_t groups,
                              const struct fp8_steps *s)
{
    if (s->divide)
        round_batch(words, sums, codes, n, groups, s, true);
    else if (groups >= BATCH_GROUPS)
        round_batch(words, sums, codes, n, BATCH_GROUPS, s, false);
    else
        round_batch(words, sums, codes, n, groups, s, false);
}

ALWAYS_INLINE bool encode_row(uint32_t *words, uint16_t *scales, const uint8_t *codes, size_t cols, size_t n,
                              const float *blocks, size_t groups_per_block, struct row_error *err)
{
    struct sums sums = NO_SUMS;
    struct fp8_steps s[2];
    size_t groups = cols / n;
    bool finite = next_steps(&s[0], scales, codes, n, 0, groups, blocks, groups_per_block);

    for (size_t g = 0, turn = 0; g < groups; g += BATCH_GROUPS, turn ^= 1) {
        size_t batch = groups - g < BATCH_GROUPS ? groups - g : BATCH_GROUPS;

        finite &= next_steps(&s[turn ^ 1], scales, codes, n, g + BATCH_GROUPS, groups, blocks, groups_per_block);
        make_codes(words + g * n / 8, &sums, codes + g * n, n, batch, &s[turn]);
    }
    *err = (struct row_error){.error2 = FOLD(sums.error2), .energy2 = FOLD(sums.energy2)};
    return finite;
}

ALWAYS_INLINE bool encode_rows(const struct int4_rows *q, size_t n, const uint8_t *codes, size_t stride,
                               const float *blocks, size_t block_cols, struct row_error *err)
{
    bool finite = true;

    for (size_t row = 0; row < q->rows; row++)
        finite &= encode_row(q->words + row * q->words_stride, q->scales + row * (q->cols / n), codes + row * stride,
                             q->cols, n, blocks, block_cols / n, &err[row]);
    return finite;
}

static bool encode(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                   size_t block_cols, struct row_error *err)
{
    if (!all_safe(scales, (q->cols + block_cols - 1) / block_cols))
        return e4m3_to_int4_ref(q, codes, stride, scales, block_cols, err);
    switch (q->group_cols) { /* a constant, so that loops over a group are straight */
    case 32:
        return encode_rows(q, 32, codes, stride, scales, block_cols, err);
    case 64:
        return encode_rows(q, 64, codes, stride, scales, block_cols, err);
    default:
        return encode_rows(q, 128, codes, stride, scales, block_cols, err);
    }
}
