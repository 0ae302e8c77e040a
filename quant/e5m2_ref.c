#include "quant/e5m2.h"

#include "quant/bits.h"
#include "quant/f16.h"
#include "quant/minifloat.h"

/* A code is the upper half of an f16. */
bool e5m2_decode_ref(float *x, const uint8_t *codes, size_t n, float scale)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        uint16_t half = (uint16_t)(codes[i] << 8);
        float value;
        finite &= f16_decode_ref(&value, &half, 1);
        x[i] = value * scale;
        finite &= (float_bits(x[i]) & 0x7F800000u) != 0x7F800000u;
    }
    return finite;
}

void e5m2_encode_ref(uint8_t *codes, const float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) {
        float q = x[i] / scale;
        codes[i] = (uint8_t)((float_bits(q) >> 24 & 0x80u) | minifloat_encode(q, MINIFLOAT_E5M2));
    }
}
