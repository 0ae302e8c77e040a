/* IEEE half precision.
 * Contracts are in quant/kernel.h; the _ref functions are the specification. */
#ifndef QUANT_F16_H
#define QUANT_F16_H

#include "quant/kernel.h"

bool f16_decode_ref(float *x, const uint16_t *codes, size_t n);
bool f16_decode_avx2(float *x, const uint16_t *codes, size_t n);
bool f16_decode_avx512(float *x, const uint16_t *codes, size_t n);

bool f16_encode_ref(uint16_t *codes, const float *x, size_t n);
bool f16_encode_avx2(uint16_t *codes, const float *x, size_t n);
bool f16_encode_avx512(uint16_t *codes, const float *x, size_t n);

#endif
