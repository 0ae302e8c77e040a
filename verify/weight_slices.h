/* Some rows of a weight, read from its checkpoint part by part. */
#ifndef VERIFY_WEIGHT_SLICES_H
#define VERIFY_WEIGHT_SLICES_H

#include <stddef.h>
#include <stdint.h>

#include "formats/weight.h"
#include "quant/transform.h"

/* The least number of rows that is whole blocks of both. */
uint64_t weight_slices_multiple(const struct scheme *a, const struct scheme *b);
/* Rows that a walk takes at a time: a multiple of `multiple` and near `elems` elements, or all of them. */
uint64_t weight_slices_rows(uint64_t rows, uint64_t cols, uint64_t multiple, uint64_t elems);
/* Memory for rows [row, row + count) of all parts but the shape, each aligned. */
size_t weight_slices_bytes(const struct scheme *s, uint64_t rows, uint64_t cols, uint64_t row, uint64_t count);
/* Into memory, MEM_ALIGN aligned. Thread-safe. Adds what was read to *read_bytes. */
bool weight_slices_read(const struct checkpoint *c, const struct weight *w, uint64_t row, uint64_t count, void *memory,
                        struct slices *out, uint64_t *read_bytes, struct err *e) CHECKED;

#endif
