/* Masks for the tails of rows; only for files named _avx512.c. */
#ifndef QUANT_LANES_AVX512_H
#define QUANT_LANES_AVX512_H

#include <immintrin.h>
#include <stddef.h>

/* The first `left` of sixteen lanes, or all. */
static inline __mmask16 lanes16(size_t left)
{
    return (__mmask16)(left < 16 ? (1u << left) - 1 : 0xFFFFu);
}

#endif
