/* What one linear's input says to the rounding of its weights: an order of the
 * columns, and how the errors of those rounded before weigh on each. Gate and up
 * of an expert share one.
 *
 * Columns are taken in order o: by descending D (act order, ties by index), or as they stand. With
 * H'[o][o] = R R^T (quant/cholesky.h, on C2, whose diagonal is 1; then rows times sqrt(D)):
 *
 *   a[j][i] = R[i][j] / R[j][j]      i < j, in a triangle (quant/triangle.h)
 *           = (Rc[i][j] sqrt(D[o[i]])) g[j],   g[j] = 1 / (sqrt(D[o[j]]) Rc[j][j])
 *   r2[j]   = (sqrt(D[o[j]]) Rc[j][j])^2: the variance of input o[j] given those rounded after it
 *
 * A pivot that is too small is answered with more of the diagonal (shrink_more), FACTOR_RETRIES times. */
#ifndef QUANT_FACTOR_H
#define QUANT_FACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/cholesky.h"
#include "quant/shrink.h"

#define FACTOR_RETRIES 4u

struct factor {
    size_t cols;
    uint32_t *order;     /* [cols] o: the column that is j-th */
    float *a;            /* triangle */
    float *r2;           /* [stride] by j */
    float *weights;      /* [stride] r2 by column, for the scale search */
    unsigned retries;    /* how often the diagonal was raised */
    struct pivot failed; /* the last pivot that was too small, when there were retries */
};

size_t factor_bytes(size_t cols);         /* 2 cols^2 and a little: 103 MB for 7168 */
size_t factor_scratch_bytes(size_t cols); /* 2 KB for each column */
/* memory: factor_bytes; scratch: factor_scratch_bytes; both MEM_ALIGN aligned. False: even the last retry failed.
 * s is left with the damping that was used. */
bool factor_make(struct factor *f, const struct kernel *k, struct shrunk *s, bool act_order, unsigned threads,
                 void *memory, void *scratch) CHECKED;

#endif
