/* Rounding float32 to a float of few bits: sign, exponent, `fraction` bits.
 * All integer but for one addition, which lets the FPU round the subnormals:
 * `magic` is the power of two whose last place is the format's smallest step.
 * The vector forms in minifloat_avx2.h and minifloat_avx512.h do the same. */
#ifndef QUANT_MINIFLOAT_H
#define QUANT_MINIFLOAT_H

#include "quant/bits.h"

struct minifloat {
    uint32_t fraction;   /* bits of it */
    uint32_t rebias;     /* 127 - bias */
    uint32_t min_normal; /* float bits; = (rebias + 1) << 23 */
    float magic;         /* 2^23 x the smallest step */
    float max;
};

#define MINIFLOAT_E4M3 ((struct minifloat){3, 120, 0x3C800000u, 0x1p14f, 448.0f})
#define MINIFLOAT_E5M2 ((struct minifloat){2, 112, 0x38800000u, 0x1p7f, 57344.0f})
#define MINIFLOAT_E2M1 ((struct minifloat){1, 126, 0x3F800000u, 0x1p22f, 6.0f})

/* The code of |x| clamped to max, ties to the even code; the sign is the caller's. */
static inline uint32_t minifloat_encode(float x, struct minifloat f)
{
    float a = bits_float(float_bits(x) & 0x7FFFFFFFu);
    a = a < f.max ? a : f.max;

    uint32_t bits = float_bits(a), shift = 23 - f.fraction;
    if (bits < f.min_normal)
        return float_bits(a + f.magic) - float_bits(f.magic);
    return (bits + ((1u << (shift - 1)) - 1) + (bits >> shift & 1) - (f.rebias << 23)) >> shift;
}

#endif
