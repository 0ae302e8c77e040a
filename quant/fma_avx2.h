/* A fused multiply-add in place; only for files named _avx2.c. */
#ifndef QUANT_FMA_AVX2_H
#define QUANT_FMA_AVX2_H

#include <immintrin.h>

/* c += a b, rounded once. Not as the intrinsic: gcc 12 makes of it forms that overwrite a factor, and moves sums about
 * between registers, at 8% of a kernel's rate. */
static inline __attribute__((always_inline)) void fma_add(__m256 *c, __m256 a, __m256 b)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(*c) : "x"(a), "x"(b));
}

#endif
