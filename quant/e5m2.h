/* FP8 e5m2: bias 15, largest 57344, 0x7C is infinity, above it NaN.
 * Contracts are in quant/kernel.h; the _ref functions are the specification. */
#ifndef QUANT_E5M2_H
#define QUANT_E5M2_H

#include "quant/kernel.h"

bool e5m2_decode_ref(float *x, const uint8_t *codes, size_t n, float scale);
bool e5m2_decode_avx2(float *x, const uint8_t *codes, size_t n, float scale);
bool e5m2_decode_avx512(float *x, const uint8_t *codes, size_t n, float scale);

void e5m2_encode_ref(uint8_t *codes, const float *x, size_t n, float scale);
void e5m2_encode_avx2(uint8_t *codes, const float *x, size_t n, float scale);
void e5m2_encode_avx512(uint8_t *codes, const float *x, size_t n, float scale);

#endif
