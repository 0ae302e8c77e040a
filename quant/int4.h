/* Block int4 kernels, one set per instruction set; the kernel table names them,
 * quant/kernel.h holds the contract and quant/search.h the rule of the search.
 * The _ref functions are the specification; the others give their bytes.
 *
 * A scale is BF16 and always usable: its magnitude lies in INT4_SCALE_MIN ..
 * INT4_SCALE_MAX (INT4_SCALE_MAX_ASYM with zeros), so that no code decodes to
 * infinity, and a group of zeros has scale 1, zero point 0 and codes 0. Every
 * finite weight is legal; the sums in struct row_error become infinite where
 * squares pass FLT_MAX (|w| from 1e18 on), never NaN. Bits of the last word
 * past the last column are 0.
 *
 * None of them allocates or keeps state, so any number of threads may call them
 * on rows that do not overlap. The _avx2 ones need AVX2; the _avx512 ones F, BW,
 * VL and DQ. */
#ifndef QUANT_INT4_H
#define QUANT_INT4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/kernel.h"

#define INT4_SCALE_MIN 0x1p-20f
/* The largest BF16 values whose products with -8, and with 15, are finite in BF16. */
#define INT4_SCALE_MAX      0x1.fep124f
#define INT4_SCALE_MAX_ASYM 0x1.fep123f

/* The scale as it is stored: magnitude clamped to the limits above (asym: zeros are in use), then rounded to BF16,
 * ties to even. */
uint16_t int4_scale_code(float scale, bool asym);

void int4_decode_ref(float *x, size_t x_stride, const struct int4_rows *q);
void int4_decode_avx2(float *x, size_t x_stride, const struct int4_rows *q);
void int4_decode_avx512(float *x, size_t x_stride, const struct int4_rows *q);

void int4_absmax_ref(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);
void int4_absmax_avx2(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);
void int4_absmax_avx512(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);

void int4_search_ref(const struct int4_rows *q, const float *x, size_t x_stride, const float *h, bool positive,
                     struct row_error *err);
void int4_search_avx2(const struct int4_rows *q, const float *x, size_t x_stride, const float *h, bool positive,
                      struct row_error *err);
void int4_search_avx512(const struct int4_rows *q, const float *x, size_t x_stride, const float *h, bool positive,
                        struct row_error *err);

/* The second half of the two above: q->scales and q->zeros are given, words and err are made.
 * code = rint(clamp(w / scale + zero, -8, 7)), a true division, then an addition. */
void int4_round_ref(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);
void int4_round_avx2(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);
void int4_round_avx512(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);

/* A row made group by group: the sums of its error so far, lane = column % 16. */
#define INT4_LANES 16
struct int4_sums {
    float error2[INT4_LANES], energy2[INT4_LANES];
};
/* int4_absmax of group g alone; w: its columns. Groups of a row in order. */
void int4_group_ref(const struct int4_rows *q, size_t row, size_t g, const float *w, struct int4_sums *sums);
struct row_error int4_sums_fold(const struct int4_sums *sums);

#endif
