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

/* Rows of codes, at the first column in question. */
enum gemm_coding { GEMM_F32, GEMM_BF16, GEMM_E4M3, GEMM_INT4, GEMM_CODING_COUNT };
struct gemm_codes {
    enum gemm_coding coding;
    const uint8_t *codes;
    size_t row_bytes;
    /* E4M3, INT4: the scale of row r and column c is scales[r * scales_stride + c / group_cols], with group_cols a
     * multiple of GEMM_CODED_COLS. Their magnitudes are at most GEMM_SCALE_MAX. */
    const float *scales;
    size_t scales_stride, group_cols;
};
#define GEMM_CODED_COLS 32u
#define GEMM_SCALE_MAX  0x1p118f /* 448 of them, and 256, are finite */

/* What will be read after this, for a variant that can ask for it in time: rows of `row_bytes`, of each `bytes`. */
struct gemm_later {
    const uint8_t *codes; /* NULL: nothing */
    size_t row_bytes, bytes, rows;
};

struct gemm_strips; /* quant/gemm_strips.h */
struct gemm_tiles;  /* quant/gemm_tiles.h */

struct gemm_kernel {
    /* Up to so many tokens decoding again costs less than a panel does: sum_coded alone. */
    size_t few_tokens;
    /* sums[t][r][l] of [tokens][GEMM_ROWS][GEMM_LANES] = fma(x[t][c], w[r][c], sums[t][r][l]), l = c % 16, c ascending
     * below cols; from +0 when `first`. w is [rows][GEMM_STRIDE]. Sums of rows that pad the last four may be written.
     * NULL where strips do it. */
    void (*sum)(float *sums, const float *w, size_t rows, const float *x, size_t x_stride, size_t tokens, size_t cols,
                bool first, const struct gemm_later *later);
    /* The same for at most GEMM_TILE_TOKENS tokens with weights that are decoded on the way and, if panel is not NULL,
     * left there for other tokens; then it is that many tokens. rows is a multiple of GEMM_TILE_ROWS, cols of
     * GEMM_CODED_COLS, at most GEMM_COLS with a panel. False: a code is not finite. NULL where a variant has none:
     * panels are then filled by decode_cols. Beside strips it is for few tokens only, without a panel. */
    bool (*sum_coded)(float *sums, float *panel, const struct gemm_codes *w, size_t rows, const float *x,
                      size_t x_stride, size_t tokens, size_t cols, bool first);
    /* y[t * y_stride + r] = the fold of sums[t][r], or that added to it. */
    void (*fold)(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add);
    /* NULL, or what works more than few tokens instead of sum. */
    const struct gemm_strips *strips;
    /* NULL, or what works all matrices that it takes, in an order of its own. `others` then works the others, and
     * nothing above is there. */
    const struct gemm_tiles *tiles;
    const struct gemm_kernel *others;
};

extern const struct gemm_kernel gemm_ref, gemm_avx2, gemm_avx512, gemm_amx;

bool gemm_sum_coded_avx2(float *sums, float *panel, const struct gemm_codes *w, size_t rows, const float *x,
                         size_t x_stride, size_t tokens, size_t cols, bool first);
bool gemm_sum_coded_avx512(float *sums, float *panel, const struct gemm_codes *w, size_t rows, const float *x,
                           size_t x_stride, size_t tokens, size_t cols, bool first);

#endif
