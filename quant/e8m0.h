/* F8_E8M0 scales: code b is 2^(b-127), 255 is NaN.
 * Contracts are in quant/kernel.h; the _ref functions are the specification. */
#ifndef QUANT_E8M0_H
#define QUANT_E8M0_H

#include "quant/kernel.h"

bool e8m0_decode_ref(float *x, const uint8_t *codes, size_t n);
bool e8m0_decode_avx2(float *x, const uint8_t *codes, size_t n);
bool e8m0_decode_avx512(float *x, const uint8_t *codes, size_t n);

#endif
