/* FP8 e4m3fn: bias 7, largest 448, no infinity, NaN is 0x7F and 0xFF.
 * Contracts are in quant/kernel.h; the _ref functions are the specification. */
#ifndef QUANT_E4M3_H
#define QUANT_E4M3_H

#include "quant/kernel.h"

/* 448 times it is finite, and still is when rounded to BF16. The vector variants leave other blocks to the reference.
 */
#define E4M3_SAFE_SCALE 0x1p118f

float e4m3_value(uint8_t code); /* exact; NaN for 0x7F and 0xFF */

bool e4m3_decode_ref(float *x, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);
bool e4m3_decode_avx2(float *x, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);
bool e4m3_decode_avx512(float *x, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);

void e4m3_encode_ref(uint8_t *codes, const float *x, size_t n, const float *scales, size_t block_cols);
void e4m3_encode_avx2(uint8_t *codes, const float *x, size_t n, const float *scales, size_t block_cols);
void e4m3_encode_avx512(uint8_t *codes, const float *x, size_t n, const float *scales, size_t block_cols);

bool e4m3_to_bf16_ref(uint16_t *out, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);
bool e4m3_to_bf16_avx2(uint16_t *out, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);
bool e4m3_to_bf16_avx512(uint16_t *out, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);

#endif
