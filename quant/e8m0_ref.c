#include "quant/e8m0.h"

#include "quant/bits.h"

bool e8m0_decode_ref(float *x, const uint8_t *codes, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite &= codes[i] != 255;
        x[i] = bits_float(codes[i] == 0 ? 0x00400000u : (uint32_t)codes[i] << 23);
    }
    return finite;
}
