#include "quant/f16.h"

#include "quant/bits.h"

static float value(uint16_t code)
{
    uint32_t sign = (uint32_t)(code & 0x8000u) << 16, exponent = code >> 10 & 31, fraction = code & 1023u;

    if (exponent == 0)
        return bits_float(sign | float_bits((float)fraction * 0x1p-24f));
    if (exponent == 31)
        return bits_float(sign | 0x7F800000u | fraction << 13);
    return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

/* The same steps as minifloat_encode, but rounding may run on into infinity. */
static uint16_t code(float x)
{
    uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000u;

    bits &= 0x7FFFFFFFu;
    if (bits >= 0x47800000u) /* 2^16 */
        return (uint16_t)(sign | 0x7C00u);
    if (bits < 0x38800000u) /* 2^-14; 0.5 has the last place 2^-24, f16's smallest step */
        return (uint16_t)(sign | (float_bits(bits_float(bits) + 0.5f) - float_bits(0.5f)));
    return (uint16_t)(sign | (bits + 0xFFFu + (bits >> 13 & 1) - (112u << 23)) >> 13);
}

bool f16_decode_ref(float *x, const uint16_t *codes, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite &= (codes[i] & 0x7C00u) != 0x7C00u;
        x[i] = value(codes[i]);
    }
    return finite;
}

bool f16_encode_ref(uint16_t *codes, const float *x, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        codes[i] = code(x[i]);
        finite &= (codes[i] & 0x7C00u) != 0x7C00u;
    }
    return finite;
}
