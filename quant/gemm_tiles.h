/* Products with coded weights by matrix tiles: the kernel class "amx". Its sums
 * are not those of quant/gemm.h, but they are as well defined:
 *
 *   x        hi = bf16(x), held to the largest finite number; lo = bf16(x - hi). To nearest, ties to even; magnitudes
 *            below 2^-126 count as 0
 *   weights  their codes, which BF16 holds exactly: E4M3, int4, or BF16 itself
 *   step     32 columns, pairs p = 0..15 of them. even = fma(code[2p], x[2p], even) over p ascending, from +0, and
 *            odd likewise over 2p + 1; then C = C + (even + odd): TDPBF16PS. Each operation rounds to nearest even;
 *            magnitudes below 2^-126, taken or given, count as 0 of their sign
 *   span     the columns of a scale's group, or 256 of them at a time, counted from where the group begins (BF16: from
 *            the row's beginning). From C = +0, steps in order; in each, hi, then lo
 *   acc      from +0, spans in order: acc = fma(scale, C, acc), in float32 without flushing; BF16's scale is 1
 *   y        acc + 0, so that it is never -0; or with `add`, y + (acc + 0)
 *
 * A token's sums do not depend on other tokens, the slice of rows, or threads. Where lo is 0 its products may be left
 * out: they add +0 to C, which changes nothing but C = -0; the sign of a zero decides nothing that follows except that
 * of other zeros, and the last addition gives all of them the same.
 *
 * Two terms keep at least 17 bits of x: with normal-like numbers the relative error is below 3e-6.
 *
 * What tiles cannot take has the order of quant/gemm.h: float32 and F16, asymmetric int4, columns or groups that are
 * no multiple of 32, FP8 blocks whose rows are no multiple of 16. Which way a matrix goes is decided by its scheme and
 * its columns alone. */
#ifndef QUANT_GEMM_TILES_H
#define QUANT_GEMM_TILES_H

#include "quant/gemm.h"
#include "quant/gemm_kernel.h"

#define TILES_SIDE       16u                       /* rows of weights, or tokens, of a tile */
#define TILES_COLS       32u                       /* columns of a step */
#define TILES_BLOCK      32u                       /* rows and tokens that are worked at once: two tiles by two */
#define TILES_SPAN       256u                      /* columns that a tile sums, at most */
#define TILES_SPANS      (TILES_SPAN / TILES_COLS) /* of a panel, at most: whose columns are at most TILES_SPAN too */
#define TILES_PANEL_ROWS 128u                      /* rows that are decoded at once */
#define TILES_CODES      (TILES_SIDE * TILES_COLS) /* numbers in a tile of BF16 */
#define TILES_SUMS       (TILES_BLOCK * TILES_BLOCK)

/* Rows of a block by some columns, with tokens of a block:
 *   weights  [step][row / 16][row % 16][column % 32]
 *   x        [step][hi, lo][token / 16][column % 32 / 2][token % 16][column % 2]
 *   scales   [span][row]
 *   sums     [row / 16][token / 16][row % 16][token % 16] */
struct tiles_product {
    const uint16_t *weights, *x;
    const float *scales;
    size_t steps, span_steps; /* the last span may be shorter */
    size_t token_tiles;       /* 1: sums of the second sixteen tokens are not touched */
    bool terms2;              /* else lo is 0 */
    bool first;               /* acc is +0 */
};

/* Everything is MEM_ALIGN aligned but codes, x and y. */
struct gemm_tiles {
    /* Around the others, in their thread. */
    void (*begin)(void);
    void (*end)(void);
    /* x of at most TILES_BLOCK tokens; the others are 0. Whether a lo is not 0, or may not be. */
    bool (*pack)(uint16_t *packed, const float *x, size_t x_stride, size_t tokens, size_t cols);
    /* Sixteen rows of a block, `rows` of which are there; the others are 0. False: a code is not finite. */
    bool (*decode)(uint16_t *weights, const struct gemm_codes *w, size_t rows, size_t cols);
    void (*multiply)(float *sums, const struct tiles_product *p);
    void (*store)(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add);
};

/* The specification, in C, and the instructions. */
extern const struct gemm_tiles gemm_tiles_ref, gemm_tiles_amx;

/* One TDPBF16PS: c [row][token] += a [row][column] b [column / 2][token][column % 2], as above. */
void tiles_dot_ref(float *c, const uint16_t *a, const uint16_t *b);

bool gemm_tiles_takes(const struct coded *w);
/* As gemm_scratch_bytes; and gemm itself, of what tiles take. */
size_t gemm_tiles_scratch_bytes(const struct coded *w, size_t tokens);
bool gemm_tiles(const struct kernel *k, const struct coded *w, uint64_t row, uint64_t count, const float *x,
                size_t x_stride, size_t tokens, float *y, size_t y_stride, bool add, void *scratch,
                struct err *e) CHECKED;

#endif
