/* LDLQ: the codes of a matrix, a column at a time, each correcting for the
 * errors of those before it as far as the inputs' correlations let it.
 *
 * Per row, with the order o, a and r2 of a factor (quant/factor.h), w the row and columns j = 0, 1, .. in that order:
 *
 *   t[j] = w[o[j]];  t[j] = fma(a[j][i], e[i], t[j]) for i = 0 .. j-1
 *   q[j] = nearest value of the grid to t[j], with the scale that is stored
 *   e[j] = w[o[j]] - q[j]
 *   loss += r2[j] ((t[j] - q[j]) (t[j] - q[j]))
 *
 * float32. The loss is exactly tr(e H' e^T), since H'[o][o] = R R^T; each step takes the least term the past allows.
 * This is what GPTQ computes by an inverse, without one, and e never accumulates rounding.
 *
 * Grids: int4 (quant/nearest.h), symmetric or not, any group; FP8 E4M3, q = e4m3(t / s) s. Scales stand before the
 * first code is made:
 *
 *   int4, LDLQ_SEARCHED   quant/search.h with weights r2, the variance of an input given those rounded later
 *   int4, LDLQ_ABSMAX     2 amax / 15 (or min-max) of the row's own weights
 *   int4, LDLQ_DYNAMIC    the same of the t of a group, when the group is reached; wants columns as they stand and
 * groups of at most LDLQ_BLOCK columns, else it is LDLQ_ABSMAX FP8                   as transform_run chooses them.
 * Blocks whose scale the target holds keep their codes: q = w */
#ifndef QUANT_LDLQ_H
#define QUANT_LDLQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/factor.h"
#include "quant/transform.h"

#define LDLQ_BLOCK 128u  /* columns between products with all earlier errors */
#define LDLQ_ROWS  1024u /* rows that share the reading of a; more are done in turn */

enum ldlq_scales { LDLQ_SEARCHED, LDLQ_ABSMAX, LDLQ_DYNAMIC };

struct ldlq {
    const struct kernel *kernel;
    struct scheme from, to; /* to: INT4, FP8_BLOCK or FP8_CHANNEL, whatever its method */
    uint64_t cols;
    const struct factor *factor; /* of as many columns */
    enum ldlq_scales scales;
};

/* Whether the pair can be done at all; ERR_UNSUPPORTED with the reason. */
bool ldlq_check(const struct scheme *from, const struct scheme *to, struct err *e) CHECKED;
/* One worker's, for calls of at most `count` rows; 75 MB for 1,024 rows or more of 7168 columns. */
size_t ldlq_scratch_bytes(const struct ldlq *l, uint64_t count);
/* Rows [row, row + count) of `rows`; in, out and scratch as for transform_run, and what is refused too. Adds to *err2
 * the weights' own error. row_loss: [count], the loss of each row, or NULL. Any number of threads on rows that do not
 * overlap; which rows go together changes no bit. */
bool ldlq_run(const struct ldlq *l, uint64_t row, uint64_t count, uint64_t rows, const struct slices *in,
              const struct slices *out, void *scratch, struct weight_error *err2, float *row_loss,
              struct err *e) CHECKED;

#endif
