/* What a CPU variant does for quant/gemm.c: sixteen-lane sums of a panel of
 * decoded weights, and their folding. Every variant gives gemm_ref.c's bits. */
#ifndef QUANT_GEMM_KERNEL_H
#define QUANT_GEMM_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GEMM_LANES 16u
/* Rows and columns of a panel, and tokens whose sums are kept at once. A panel's 520 KiB stay in L2, from where a tile
 * takes its rows; its sums, 1 MiB, are touched once per panel and may come from L3. Fewer rows would fetch each x into
 * L1 more often (32: 8% slower), fewer tokens would decode a weight more often. */
#define GEMM_ROWS   128u
#define GEMM_COLS   1024u
#define GEMM_TOKENS 132u /* in whole tiles */
/* Floats from row to row of a panel: not a power of two, so that rows do not meet in the same cache sets. */
#define GEMM_STRIDE (GEMM_COLS + 16u)
/* Rows are worked in fours; a panel's last four are all there, zeros where the matrix has ended. */
#define GEMM_TILE_ROWS 4u
/* What a block of tokens is best a multiple of. */
#define GEMM_TILE_TOKENS 6u

struct gemm_kernel {
    /* sums[t][r][l] of [tokens][GEMM_ROWS][GEMM_LANES] = fma(x[t][c], w[r][c], sums[t][r][l]), l = c % 16, c ascending
     * below cols; from +0 when `first`. w is [rows][GEMM_STRIDE]. Sums of rows that pad the last four may be written.
     */
    void (*sum)(float *sums, const float *w, size_t rows, const float *x, size_t x_stride, size_t tokens, size_t cols,
                bool first);
    /* y[t * y_stride + r] = the fold of sums[t][r], or that added to it. */
    void (*fold)(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add);
};

extern const struct gemm_kernel gemm_ref, gemm_avx2, gemm_avx512;

#endif
