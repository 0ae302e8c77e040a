/* What a row is asked for as a whole: is it finite, its largest magnitude, its error.
 * Contracts are in quant/kernel.h; the _ref functions are the specification. */
#ifndef QUANT_REDUCE_H
#define QUANT_REDUCE_H

#include "quant/kernel.h"

bool f32_check_ref(const float *x, size_t n);
bool f32_check_avx2(const float *x, size_t n);
bool f32_check_avx512(const float *x, size_t n);

float absmax_ref(const float *x, size_t n);
float absmax_avx2(const float *x, size_t n);
float absmax_avx512(const float *x, size_t n);

struct row_error row_error_ref(const float *x, const float *y, size_t n);
struct row_error row_error_avx2(const float *x, const float *y, size_t n);
struct row_error row_error_avx512(const float *x, const float *y, size_t n);

#endif
