/* The rows of a plan by the layer they belong to: a model has 92,000 weights, and a walk over all of them for each of
 * its layers is a walk too many. */
#ifndef CONVERT_LAYER_ROWS_H
#define CONVERT_LAYER_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "convert/plan.h"

struct layer_rows {
    uint32_t *rows; /* numbers of the plan's rows, by layer, ascending in each; owned */
    size_t *begin;  /* [layers + 1]: layer l has rows[begin[l]] to rows[begin[l + 1] - 1] */
    uint64_t layers;
};

/* Rows of no layer, and of layers from `layers` on, are left out. */
void layer_rows_make(struct layer_rows *l, const struct plan *p, uint64_t layers);
void layer_rows_release(struct layer_rows *l); /* idempotent */

#endif
