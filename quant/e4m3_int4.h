/* From FP8 codes to symmetric int4 in one pass: no float row between them.
 * Contract in quant/kernel.h; the _ref function is the specification, which is
 * e4m3_decode and then int4_absmax, group by group. */
#ifndef QUANT_E4M3_INT4_H
#define QUANT_E4M3_INT4_H

#include "quant/kernel.h"

/* Groups this long, or shorter. */
#define E4M3_INT4_COLS_MAX 128u
/* Whether the kernels take such groups. */
static inline bool e4m3_int4_takes(size_t group_cols, size_t block_cols)
{
    return (group_cols == 32 || group_cols == 64 || group_cols == 128) && block_cols % group_cols == 0;
}

bool e4m3_to_int4_ref(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                      size_t block_cols, struct row_error *err);
bool e4m3_to_int4_avx2(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                       size_t block_cols, struct row_error *err);
bool e4m3_to_int4_avx512(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                         size_t block_cols, struct row_error *err);

#endif
