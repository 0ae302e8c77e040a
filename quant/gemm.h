/* Products with coded weights: y = x W^T, with W as it is stored (FP8 in
 * blocks, by channel or whole, int4 groups, BF16, F16, F32).
 *
 * The order of every sum, whatever the tile, the number of tokens, the slice of
 * rows, the thread or the CPU:
 *
 *   w'[r][c]  the float32 that decode_rows gives: one product of code and scale
 *   lane      l = c % 16;  acc[l] = fma(x[t][c], w'[r][c], acc[l]), c ascending,
 *             from +0; columns that are not there add nothing
 *   fold      acc[l] += acc[l + 8] for l < 8, then 4, 2, 1
 *   y[t][r]   acc[0], or with `add` y[t][r] + acc[0]
 *
 * so that every exact variant of quant/kernel.h gives the same bits, one token
 * gives the bits it has among a thousand, and what a forward pass decides does
 * not depend on the CPU. Variants of the class "amx" have the order of
 * quant/gemm_tiles.h. x is finite; a NaN in it comes out in its token's row. */
#ifndef QUANT_GEMM_H
#define QUANT_GEMM_H

#include "quant/transform.h"

/* A whole matrix in memory, borrowed: parts as scheme_slice(0, rows) cuts them. Codes are aligned as their dtype. */
struct coded {
    struct scheme scheme;
    uint64_t rows, cols;
    struct slices parts;
};

/* Of one worker, MEM_ALIGN aligned, for any rows of w and up to `tokens` tokens; at most about 6 MiB. Enough for any
 * matrix of no more columns in the same scheme, too. */
size_t gemm_scratch_bytes(const struct coded *w, size_t tokens);

/* y[t * y_stride + r] for the rows r in [row, row + count), which count from the matrix's first, and t < tokens.
 * Strides are in floats, at least cols and rows. row obeys scheme_row_multiple; slices of whole multiples of 128 rows
 * are best. Refused: weights that are not finite, naming row and column, and bad scales, as decode_rows does; y is
 * then unspecified. Any number of threads may work on rows that do not overlap, each with its own scratch. */
bool gemm(const struct kernel *k, const struct coded *w, uint64_t row, uint64_t count, const float *x, size_t x_stride,
          size_t tokens, float *y, size_t y_stride, bool add, void *scratch, struct err *e) CHECKED;

#endif
