#include "quant/bf16.h"

#include "quant/bits.h"

bool bf16_decode_ref(float *x, const uint16_t *codes, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite &= (codes[i] & 0x7F80u) != 0x7F80u;
        x[i] = bits_float((uint32_t)codes[i] << 16);
    }
    return finite;
}

bool bf16_encode_ref(uint16_t *codes, const float *x, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = float_bits(x[i]);
        codes[i] = (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
        finite &= (codes[i] & 0x7F80u) != 0x7F80u;
    }
    return finite;
}
