#include "quant/e2m1.h"

#include "quant/bits.h"
#include "quant/minifloat.h"

void e2m1_decode_ref(float *x, const uint8_t *packed, size_t n, float scale)
{
    static const float values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                     -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    for (size_t i = 0; i < n; i++)
        x[i] = values[packed[i / 2] >> (i % 2 * 4) & 15] * scale;
}

/* The upper nibble behind an odd last element is 0. */
void e2m1_encode_ref(uint8_t *packed, const float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) {
        float q = x[i] / scale;
        uint32_t code = (float_bits(q) >> 28 & 8u) | minifloat_encode(q, MINIFLOAT_E2M1);
        packed[i / 2] = (uint8_t)(i % 2 ? packed[i / 2] | code << 4 : code);
    }
}
