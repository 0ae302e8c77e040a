/* The reverse Cholesky factor: M = R R^T with R upper triangular, from the last
 * column to the first. LDLQ feeds errors forward through it, and no inverse is
 * ever made.
 *
 * In place in a triangle whose row j first holds M[j][0..j] and then column j of
 * R: t[j][i] = R[i][j], i <= j. Every element in this order, whatever the block,
 * the thread or the CPU:
 *
 *   s = M[j][i];  s = fma(-t[k][j], t[k][i], s) for k = cols-1 down to j+1
 *   t[j][j] = sqrt(s) for i = j;  t[j][i] = s / t[j][j] for i < j
 *
 * float32, for matrices with a diagonal of about 1 (correlations). */
#ifndef QUANT_CHOLESKY_H
#define QUANT_CHOLESKY_H

#include <stdbool.h>
#include <stddef.h>

#include "quant/kernel.h"
#include "quant/triangle.h"

/* A pivot must be greater: below, it is the rounding of what was subtracted. */
#define CHOLESKY_PIVOT_MIN 0x1p-17f

struct pivot {
    size_t row;  /* in the triangle */
    float value; /* what was to have its root taken; may be NaN */
};

size_t cholesky_scratch_bytes(size_t cols); /* 2 KB for each column */
/* t: [cols] rows, MEM_ALIGN aligned, every float of it written. False: a pivot was too small, and t is spoilt. */
bool cholesky_reverse(const struct kernel *k, float *t, size_t cols, unsigned threads, void *scratch,
                      struct pivot *pivot) CHECKED;

#endif
