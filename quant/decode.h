/* Rows of any scheme as float32, one at a time: what transforms and
 * decode_rows share. Callers outside quant/ want decode_rows in transform.h. */
#ifndef QUANT_DECODE_H
#define QUANT_DECODE_H

#include "quant/transform.h"

/* Memory cut into MEM_ALIGN aligned pieces. Without a base it only measures, and pieces are NULL. */
struct scratch {
    uint8_t *base;
    size_t used_bytes;
};
void *scratch_take(struct scratch *s, size_t bytes);

/* A slice of rows, and what decoding one of them needs; the memory is the caller's scratch.
 * Row arguments are of the whole matrix. */
struct decoder {
    const struct kernel *kernel;
    const struct scheme *from;
    const struct slices *in;
    uint64_t row, cols;  /* the slice's first row; columns of the matrix */
    float *scales;       /* of the row that was loaded: one per block or group of columns */
    uint64_t scales_row; /* row of scales that `scales` holds; UINT64_MAX: none */
    uint64_t block_cols; /* columns a scale is for; cols when one is for all */
    int8_t *zeros;       /* int4: zero points of one row */
    uint16_t *ones;      /* int4 with scales that are not BF16: BF16 1.0, one per group */
};

/* Columns that share a scale in a row: cols when all do. */
uint64_t scheme_scale_cols(const struct scheme *s, uint64_t cols);
/* Scales per row: 0 for plain floats. */
uint64_t decoder_scales(const struct scheme *from, uint64_t cols);
/* Takes the decoder's memory: before decoder_init, or to measure. */
void decoder_place(struct decoder *d, const struct scheme *from, uint64_t cols, struct scratch *s);
void decoder_init(struct decoder *d, const struct kernel *k, uint64_t row, const struct slices *in);
/* Reads and checks the scales of a row, if they are not there already. */
bool decoder_load_scales(struct decoder *d, uint64_t row, struct err *e) CHECKED;
/* Only those of blocks or groups [first, end), into the same places; always read. */
bool decoder_load_scale_range(struct decoder *d, uint64_t row, uint64_t first, uint64_t end, struct err *e) CHECKED;
/* Zero points of a row of asymmetric int4, into `zeros`. */
void decoder_load_zeros(struct decoder *d, uint64_t row);
/* The codes of a row of a float scheme. */
const void *decoder_codes(const struct decoder *d, uint64_t row);
/* Columns [col, col + cols) of a row; col is a multiple of DECODE_COLS_MULTIPLE. */
#define DECODE_COLS_MULTIPLE 8u
bool decode_cols(struct decoder *d, uint64_t row, uint64_t col, uint64_t cols, float *x, struct err *e) CHECKED;
bool decode_row(struct decoder *d, uint64_t row, float *x, struct err *e) CHECKED;
bool decode_row_to_bf16(struct decoder *d, uint64_t row, uint16_t *out, struct err *e) CHECKED; /* FP8 only */

bool scheme_is_fp8(const struct scheme *s);

#endif
