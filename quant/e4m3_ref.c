#include "quant/e4m3.h"

#include <math.h>

#include "quant/bf16.h"
#include "quant/bits.h"
#include "quant/minifloat.h"

float e4m3_value(uint8_t code)
{
    uint32_t sign = (uint32_t)(code & 0x80u) << 24, exponent = code >> 3 & 15, fraction = code & 7u;

    if ((code & 0x7Fu) == 0x7Fu)
        return bits_float(sign | 0x7FC00000u);
    if (exponent == 0)
        return bits_float(sign | float_bits((float)fraction * 0x1p-9f));
    return bits_float(sign | (exponent + 120) << 23 | fraction << 20);
}

bool e4m3_decode_ref(float *x, const uint8_t *codes, size_t n, const float *scales, size_t block_cols)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        x[i] = e4m3_value(codes[i]) * scales[i / block_cols];
        finite &= (float_bits(x[i]) & 0x7F800000u) != 0x7F800000u;
    }
    return finite;
}

void e4m3_encode_ref(uint8_t *codes, const float *x, size_t n, const float *scales, size_t block_cols)
{
    for (size_t i = 0; i < n; i++) {
        float q = x[i] / scales[i / block_cols];
        codes[i] = (uint8_t)((float_bits(q) >> 24 & 0x80u) | minifloat_encode(q, MINIFLOAT_E4M3));
    }
}

bool e4m3_to_bf16_ref(uint16_t *out, const uint8_t *codes, size_t n, const float *scales, size_t block_cols)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        float x = e4m3_value(codes[i]) * scales[i / block_cols];
        finite &= bf16_encode_ref(&out[i], &x, 1);
    }
    return finite;
}
