/* The nearest int4 code of TILE_COLS values, each with a scale and a zero point of its own: the rounding step of
 * quant/ldlq.h, whose lanes run across rows.
 *
 *   z = rint(clamp(t / s + zero, -8, 7))   true division, ties to even; clamp as quant/search.h has it
 *   code = z + 8, q = (z - zero) s
 *
 * Exact: every variant gives the reference's bytes. All arrays are MEM_ALIGN aligned; codes 16. */
#ifndef QUANT_NEAREST_H
#define QUANT_NEAREST_H

#include <stdint.h>

void int4_nearest_ref(uint8_t *codes, float *q, const float *t, const float *s, const float *zero);
void int4_nearest_avx2(uint8_t *codes, float *q, const float *t, const float *s, const float *zero);
void int4_nearest_avx512(uint8_t *codes, float *q, const float *t, const float *s, const float *zero);

#endif
