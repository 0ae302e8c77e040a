/* The nearest int4 code of TILE_COLS values, each with a scale and a zero point of its own: the rounding step of
 * quant/ldlq.h, whose lanes run across rows.
 *
 *   z = rint(clamp(t / s + zero, -8, 7))   true division, ties to even; clamp as quant/search.h has it
 *   code = z + 8, q = (z - zero) s
 *
 * and what follows from it, for sums [3][TILE_COLS] of loss, error and energy, each product rounded, no FMA:
 *
 *   d = t - q, e = w - q;  sums[0] += r2 (d d), sums[1] += e e, sums[2] += w w
 *
 * Exact: every variant gives the reference's bytes. All arrays are MEM_ALIGN aligned; codes 16. */
#ifndef QUANT_NEAREST_H
#define QUANT_NEAREST_H

#include <stdint.h>

void int4_nearest_ref(uint8_t *codes, float *q, const float *t, const float *s, const float *zero);
void int4_nearest_avx2(uint8_t *codes, float *q, const float *t, const float *s, const float *zero);
void int4_nearest_avx512(uint8_t *codes, float *q, const float *t, const float *s, const float *zero);

void feedback_step_ref(float *e, float *sums, const float *t, const float *q, const float *w, float r2);
void feedback_step_avx2(float *e, float *sums, const float *t, const float *q, const float *w, float r2);
void feedback_step_avx512(float *e, float *sums, const float *t, const float *q, const float *w, float r2);

#endif
