/* FP4 e2m1: 0 .5 1 1.5 2 3 4 6 and their negatives, two codes a byte, low nibble first.
 * Contracts are in quant/kernel.h; the _ref functions are the specification. */
#ifndef QUANT_E2M1_H
#define QUANT_E2M1_H

#include "quant/kernel.h"

void e2m1_decode_ref(float *x, const uint8_t *packed, size_t n, float scale);
void e2m1_decode_avx2(float *x, const uint8_t *packed, size_t n, float scale);
void e2m1_decode_avx512(float *x, const uint8_t *packed, size_t n, float scale);

void e2m1_encode_ref(uint8_t *packed, const float *x, size_t n, float scale);
void e2m1_encode_avx2(uint8_t *packed, const float *x, size_t n, float scale);
void e2m1_encode_avx512(uint8_t *packed, const float *x, size_t n, float scale);

#endif
