/* The other way to the written order of gemm.h: vectors across rows. The
 * columns of one lane, c = l, l + 16, l + 32 ..., are a product of their own,
 * whose sums are kept apart until the fold; in it a tile of 16 rows and some
 * tokens is the usual one of a matrix product, with a weight's vector loaded
 * once and each x broadcast. Fewer loads a fused multiply-add than with vectors
 * across lanes where a vector is shorter than sixteen lanes, for weights that
 * are transposed when they are decoded. */
#ifndef QUANT_GEMM_STRIPS_H
#define QUANT_GEMM_STRIPS_H

#include "quant/gemm_kernel.h"

/* A strip is 16 rows of a panel of columns: w[c][row] stands at [c % 16][c / 16][row]. What a lane has is padded by one
 * step, so that neighbours in the decoder's loop do not meet in the same cache sets. A panel's strips, 258 KiB, are in
 * L2 when they are used. */
#define GEMM_STRIP_ROWS   16u
#define GEMM_STRIP_COLS   2048u
#define GEMM_STRIPS       2u
#define GEMM_STRIPS_ROWS  (GEMM_STRIPS * GEMM_STRIP_ROWS)
#define GEMM_STRIP_STEPS  (GEMM_STRIP_COLS / GEMM_LANES)
#define GEMM_STRIP_LANE   ((GEMM_STRIP_STEPS + 1) * GEMM_STRIP_ROWS)
#define GEMM_STRIP_FLOATS (GEMM_LANES * GEMM_STRIP_LANE)
/* Sums of a token and a strip. */
#define GEMM_STRIP_SUMS (GEMM_LANES * GEMM_STRIP_ROWS)
/* Tokens of a block, whose x is packed once for all rows: decoding a weight takes as long as 6 to 8 of them. 1,024 are
 * four blocks of 2048 columns, and six of 7168. */
#define GEMM_STRIP_TOKENS  258u
#define GEMM_STRIP_X_BYTES ((size_t)5 << 20)

/* A panel of columns works its tiles of tokens lane by lane: a lane of the strips stays in L1, and what streams past
 * it, x and the sums, lies in that order.
 *
 *   packed x   [lane][tile][step][token]   a lane is padded for the writer's whole vectors
 *   sums       [lane][tile][strip][token][row] */
static inline size_t gemm_x_lane(size_t tokens, size_t cols)
{
    return (cols + GEMM_LANES - 1) / GEMM_LANES * tokens + 8;
}

/* Tokens of the tile that comes after `done` of them: tiles are as equal as can be, larger ones first. */
static inline size_t gemm_tile_tokens(size_t tokens, size_t done)
{
    size_t left = tokens - done, tiles = (left + GEMM_TILE_TOKENS - 1) / GEMM_TILE_TOKENS;

    return (left + tiles - 1) / tiles;
}

/* A panel of columns: strips of GEMM_STRIP_FLOATS one after another, and x as it is packed for them. */
struct gemm_strip_panel {
    const float *strips, *packed;
    size_t strip_count, tokens, cols;
    bool first; /* of its rows */
    /* Of the last one: where the folded sums of token t and row r go or, with `add`, are added: y[t * y_stride + r],
     * r < rows <= GEMM_STRIPS_ROWS. Else NULL. */
    float *y;
    size_t y_stride, rows;
    bool add;
    struct gemm_later later;
};

struct gemm_strips {
    /* Codes of `rows` rows, at most GEMM_STRIP_ROWS, into a strip; the rows past them are as the first one's. cols is
     * at most GEMM_STRIP_COLS, and a multiple of GEMM_CODED_COLS unless they are float32. False: a code is not finite.
     */
    bool (*fill)(float *strip, const struct gemm_codes *w, size_t rows, size_t cols);
    /* The x of a panel: GEMM_LANES * gemm_x_lane() floats. */
    void (*pack)(float *packed, const float *x, size_t x_stride, size_t tokens, size_t cols);
    /* Sums as gemm_kernel's sum has them, each over its lane's columns; those of the last panel are folded, and are then
     * nowhere but in y. */
    void (*sum)(float *sums, const struct gemm_strip_panel *panel);
};

extern const struct gemm_strips gemm_strips_avx2;

bool gemm_fill_avx2(float *strip, const struct gemm_codes *w, size_t rows, size_t cols);

#endif
