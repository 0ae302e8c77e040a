/* From one scheme to another: rows of a weight as stored -> rows as wanted. No
 * files, no allocation while it runs. Every source value becomes one float32
 * (code x scale, one product) and is rounded once. */
#ifndef QUANT_TRANSFORM_H
#define QUANT_TRANSFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/scheme.h"
#include "quant/kernel.h"

/* Slices of the parts, as scheme_slice cuts them; NULL where a scheme has no such part. */
struct slices {
    void *part[PART_COUNT];
};

struct transform {
    const struct kernel *kernel;
    struct scheme from, to;
    uint64_t cols;
    const float *weights; /* [cols] of the scale search (h of quant/search.h); NULL: 1 */
    float tensor_scale;   /* FP8_TENSOR: the scale, as transform_tensor_scale gives it for all rows */
};

/* Sums of squares over the rows seen, float64, rows added in order. */
struct weight_error {
    double error2, energy2;
    uint64_t weights;
};
void weight_error_add(struct weight_error *sum, const struct weight_error *more);
double weight_error_relative(const struct weight_error *w); /* sqrt(error2 / energy2); 0 for 0 / 0 */

/* Whether the pair can be done at all; ERR_UNSUPPORTED with the reason. */
bool transform_check(const struct scheme *from, const struct scheme *to, struct err *e) CHECKED;
/* Scratch one worker needs for it, in bytes; at most a few MB for any matrix of this family. */
size_t transform_scratch_bytes(const struct transform *t);
/* Rows [row, row + count) of a matrix of `rows`. in and out are slices that begin at `row`, which obeys
 * both schemes' scheme_row_multiple. scratch is MEM_ALIGN aligned. Adds to *err2 (float targets from wider
 * floats and copies add nothing). Refused, naming row and column: values that are not finite, scales that are
 * not finite or not positive, values past F16's range. PART_SHAPE is the plan's, not written here. */
bool transform_run(const struct transform *t, uint64_t row, uint64_t count, uint64_t rows, const struct slices *in,
                   const struct slices *out, void *scratch, struct weight_error *err2, struct err *e) CHECKED;

/* The largest magnitude in rows [row, row + count), whose slices begin at `row`; scratch as for transform_run. */
bool transform_most(const struct transform *t, uint64_t row, uint64_t count, const struct slices *in, void *scratch,
                    float *most, struct err *e) CHECKED;
/* The scale of an FP8 matrix, or of what enters it, whose largest magnitude this is. */
float transform_tensor_scale(float most);

/* Decode only: rows to float32 [count][cols], for diff and the forward pass. */
size_t decode_scratch_bytes(const struct scheme *from, uint64_t cols);
bool decode_rows(const struct kernel *k, const struct scheme *from, uint64_t row, uint64_t count, uint64_t rows,
                 uint64_t cols, const struct slices *in, float *x, void *scratch, struct err *e) CHECKED;

#endif
