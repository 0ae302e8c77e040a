/* What a row is asked for as a whole: is it finite, its largest magnitude, its error.
 * Contracts are in quant/kernel.h; the _ref functions are the specification. */
#ifndef QUANT_REDUCE_H
#define QUANT_REDUCE_H

#include "quant/kernel.h"

bool f32_check_ref(const float *x, size_t n);
bool f32_check_avx2(const float *x, size_t n);
bool f32_check_avx512(const float *x, size_t n);

/* AVX2's are as fast as memory is. */
bool codes8_check_ref(const uint8_t *x, size_t n, uint8_t mask);
bool codes8_check_avx2(const uint8_t *x, size_t n, uint8_t mask);
bool codes16_check_ref(const uint16_t *x, size_t n, uint16_t mask);
bool codes16_check_avx2(const uint16_t *x, size_t n, uint16_t mask);

float absmax_ref(const float *x, size_t n);
float absmax_avx2(const float *x, size_t n);
float absmax_avx512(const float *x, size_t n);

struct row_error row_error_ref(const float *x, const float *y, size_t n);
struct row_error row_error_avx2(const float *x, const float *y, size_t n);
struct row_error row_error_avx512(const float *x, const float *y, size_t n);

#endif
