/* Which rows and columns of a coded matrix a variant can multiply as they are
 * stored, and how they are described to it. What cannot, and what is not
 * finite, goes through decode_cols, which also has the words for a refusal. */
#ifndef QUANT_GEMM_CODES_H
#define QUANT_GEMM_CODES_H

#include "quant/decode.h"
#include "quant/gemm_kernel.h"

/* Rows that any number of columns is described for at once. */
#define GEMM_CODER_ROWS 16u

struct gemm_coder {
    float *scales; /* of rows that do not share theirs; one worker's */
};

/* Takes its memory, or measures. */
void gemm_coder_place(struct gemm_coder *c, uint64_t cols, struct scratch *s);
/* False for a scheme that no variant takes as it is. */
bool gemm_coding_find(const struct scheme *s, enum gemm_coding *coding);
/* Coding, place and row_bytes alone; false for a scheme that no variant takes as it is. */
bool gemm_coder_locate(const struct decoder *d, uint64_t row, uint64_t col, struct gemm_codes *codes);
/* Columns [col, col + cols) of `rows` rows: at most GEMM_ROWS with at most GEMM_COLS columns and a col that is a
 * multiple of these, else GEMM_CODER_ROWS with any columns. False: not as they are. Valid until the next call. */
bool gemm_coder_describe(struct gemm_coder *c, struct decoder *d, uint64_t row, size_t rows, uint64_t col, size_t cols,
                         struct gemm_codes *codes);
/* The same with scales of any magnitude, and whether they are past GEMM_SCALE_MAX. */
bool gemm_coder_read(struct gemm_coder *c, struct decoder *d, uint64_t row, size_t rows, uint64_t col, size_t cols,
                     struct gemm_codes *codes, bool *past);

#endif
