/* Block int4 kernels, one set per instruction set; the kernel table names them,
 * quant/kernel.h holds the contract and quant/search.h the rule of the search.
 * The _ref functions are the specification; the others give their bytes.
 *
 * None of them allocates or keeps state, so any number of threads may call them
 * on rows that do not overlap. The _avx2 ones need AVX2; the _avx512 ones F, BW,
 * VL and DQ. On other machines the files compile to calls of the reference. */
#ifndef QUANT_INT4_H
#define QUANT_INT4_H

#include <stdbool.h>
#include <stddef.h>

#include "quant/kernel.h"

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

#endif
