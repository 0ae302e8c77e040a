/* What the parts of transform_run share: a slice of rows at work. */
#ifndef QUANT_TRANSFORM_PRIVATE_H
#define QUANT_TRANSFORM_PRIVATE_H

#include "quant/decode.h"
#include "quant/transform.h"

struct work {
    const struct transform *t;
    struct decoder decoder;
    const struct slices *in, *out;
    uint64_t row, count; /* the slice */
    uint64_t blocks;     /* scales per row of the target */
    uint64_t x_stride;
    float *x;      /* [tile rows][x_stride] */
    float *y;      /* a row of what the codes stand for */
    float *scales; /* [blocks], of the target */
    float *most;   /* [blocks], largest magnitudes */
    bool *kept;    /* [blocks] */
    int8_t *zeros; /* [tile rows][blocks] */
    struct weight_error error;
};

/* A row of what was written is added up. */
void transform_add_error(struct work *w, struct row_error row);

/* All rows of the slice. One scale for each row, or for block_rows of them. */
bool transform_fp8(struct work *w, struct err *e) CHECKED;
/* Rows of a matrix that has one scale. */
bool transform_fp8_tensor(struct work *w, struct err *e) CHECKED;

#endif
