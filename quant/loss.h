/* What rounding did to a linear's output, from the bytes that were stored: with
 * E = W - Q,
 *
 *   error  = tr(E H' E^T)      energy = tr(W H' W^T)
 *
 * H' of quant/shrink.h, so error / energy is the expected square error of the output relative to its size. The rows are
 * decoded anew, source and result, so that a solve's own running loss (quant/ldlq.h) is checked by something that
 * shares nothing with it. Products in float32 with the sums of quant/tile.h, columns ascending; then float64.
 *
 * All rows cost as much as the solve; evenly spaced ones (moments_takes) a share of that. */
#ifndef QUANT_LOSS_H
#define QUANT_LOSS_H

#include "quant/shrink.h"
#include "quant/transform.h"

#define LOSS_ROWS 32u /* rows that are measured together */

struct loss {
    double error, energy; /* over the rows measured */
    uint64_t rows;
};
double loss_relative(const struct loss *l); /* error / energy; 0 for 0 / 0 */

/* A whole matrix, in and out as transform_run takes them for all its rows. */
struct loss_matrix {
    struct scheme from, to;
    uint64_t rows, cols;
    struct slices in, out;
};

size_t loss_scratch_bytes(const struct loss_matrix *m); /* 600 bytes for each column */
/* `sample`: how many rows; 0 for all. Adds to *l. */
bool loss_measure(const struct kernel *k, const struct shrunk *s, const struct loss_matrix *m, uint64_t sample,
                  void *scratch, struct loss *l, struct err *e) CHECKED;

#endif
