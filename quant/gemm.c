/* Panels: some rows by some columns of W are decoded to float32, used for all
 * tokens at hand, and forgotten. The sixteen sums of a row and a token wait in
 * memory between two panels of the same rows, so that their order is that of
 * the columns however the matrix is cut.
 *
 * Where a variant can decode in registers (quant/gemm_codes.h), few tokens need
 * no panel, and of many the first ones fill it while they are worked. */
#include "quant/gemm.h"

#include <assert.h>
#include <string.h>

#include "quant/decode.h"
#include "quant/gemm_codes.h"
#include "quant/gemm_kernel.h"

/* Up to so many tokens decoding again costs less than a panel does. */
#define FEW_TOKENS 24u

struct product {
    const struct gemm_kernel *kernel;
    const struct coded *w;
    struct decoder decoder;
    struct gemm_coder coder;
    float *panel; /* [GEMM_ROWS][GEMM_STRIDE] */
    float *sums;  /* [tokens][GEMM_ROWS][GEMM_LANES] */
    const float *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    bool add;
};

/* Blocks of one size, for a short last one would decode all weights for little; in whole tiles. */
static size_t block_tokens(size_t tokens)
{
    size_t blocks = (tokens + GEMM_TOKENS - 1) / GEMM_TOKENS, each = blocks ? (tokens + blocks - 1) / blocks : 0;

    return blocks > 1 ? (each + GEMM_TILE_TOKENS - 1) / GEMM_TILE_TOKENS * GEMM_TILE_TOKENS : each;
}

static void product_place(struct product *p, const struct coded *w, size_t tokens, struct scratch *s)
{
    size_t kept = tokens < GEMM_TOKENS ? tokens : GEMM_TOKENS; /* not block_tokens, which falls where blocks split */

    p->w = w;
    decoder_place(&p->decoder, &w->scheme, w->cols, s);
    gemm_coder_place(&p->coder, w->cols, s);
    p->panel = scratch_take(s, GEMM_ROWS * GEMM_STRIDE * sizeof *p->panel);
    p->sums = scratch_take(s, kept * GEMM_ROWS * GEMM_LANES * sizeof *p->sums);
}

size_t gemm_scratch_bytes(const struct coded *w, size_t tokens)
{
    struct product p = {0};
    struct scratch s = {0};

    product_place(&p, w, tokens, &s);
    return s.used_bytes;
}

/* Columns [col, col + cols) of `rows` rows into the panel, and zeros below them up to a whole tile. */
static bool fill_panel(struct product *p, uint64_t row, size_t rows, uint64_t col, size_t cols, struct err *e)
{
    for (size_t r = 0; r < rows; r++)
        if (!decode_cols(&p->decoder, row + r, col, cols, p->panel + r * GEMM_STRIDE, e))
            return false;
    for (size_t r = rows; r % GEMM_TILE_ROWS != 0; r++)
        memset(p->panel + r * GEMM_STRIDE, 0, cols * sizeof *p->panel);
    return true;
}

/* Where the codes of the panel after this one lie: the next columns, or the next rows' first ones. */
static struct gemm_later codes_later(const struct product *p, uint64_t row, size_t rows, uint64_t col, size_t cols)
{
    uint64_t next = col + cols < p->w->cols ? col + cols : 0;
    uint64_t next_row = next > 0 ? row : row + rows, left = p->w->cols - next, rows_left = p->w->rows - next_row;
    struct gemm_codes codes;

    if (rows_left == 0 || !gemm_coder_locate(&p->decoder, next_row, next, &codes))
        return (struct gemm_later){0};
    return (struct gemm_later){.codes = codes.codes,
                               .row_bytes = codes.row_bytes,
                               .bytes = codes.row_bytes * (left < GEMM_COLS ? left : GEMM_COLS) / p->w->cols,
                               .rows = rows_left < GEMM_ROWS ? rows_left : GEMM_ROWS};
}

/* Columns [col, col + cols) of some rows for some tokens, by way of the panel. */
static bool add_panel(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens, uint64_t col,
                      size_t cols, struct err *e)
{
    const float *x = p->x + token * p->x_stride + col;
    size_t first = tokens < GEMM_TILE_TOKENS ? tokens : GEMM_TILE_TOKENS;
    float *kept = first < tokens ? p->panel : NULL;
    struct gemm_codes codes;

    if (!gemm_coder_describe(&p->coder, &p->decoder, row, rows, col, cols, &codes) ||
        !p->kernel->sum_coded(p->sums, kept, &codes, rows, x, p->x_stride, first, cols, col == 0)) {
        if (!fill_panel(p, row, rows, col, cols, e))
            return false;
        first = 0;
    }
    if (first < tokens) {
        struct gemm_later later = codes_later(p, row, rows, col, cols);
        p->kernel->sum(p->sums + first * GEMM_ROWS * GEMM_LANES, p->panel, rows, x + first * p->x_stride, p->x_stride,
                       tokens - first, cols, col == 0, &later);
    }
    return true;
}

/* Few tokens: whole rows, as they lie in memory, decoded again for every tile of tokens. False when the panel must do.
 */
static bool add_rows(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens)
{
    struct gemm_codes codes;

    if (tokens > FEW_TOKENS)
        return false;
    for (size_t r = 0; r < rows; r += GEMM_CODER_ROWS) {
        size_t some = rows - r < GEMM_CODER_ROWS ? rows - r : GEMM_CODER_ROWS;
        if (!gemm_coder_describe(&p->coder, &p->decoder, row + r, some, 0, p->w->cols, &codes))
            return false;
        for (size_t t = 0; t < tokens; t += GEMM_TILE_TOKENS) {
            size_t tile = tokens - t < GEMM_TILE_TOKENS ? tokens - t : GEMM_TILE_TOKENS;
            if (!p->kernel->sum_coded(p->sums + (t * GEMM_ROWS + r) * GEMM_LANES, NULL, &codes, some,
                                      p->x + (token + t) * p->x_stride, p->x_stride, tile, p->w->cols, true))
                return false;
        }
    }
    return true;
}

static bool multiply_rows(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens, struct err *e)
{
    if (!add_rows(p, row, rows, token, tokens))
        for (uint64_t c = 0; c < p->w->cols; c += GEMM_COLS) {
            size_t cols = p->w->cols - c < GEMM_COLS ? p->w->cols - c : GEMM_COLS;
            if (!add_panel(p, row, rows, token, tokens, c, cols, e))
                return false;
        }
    p->kernel->fold(p->y + token * p->y_stride + row, p->y_stride, p->sums, rows, tokens, p->add);
    return true;
}

bool gemm(const struct kernel *k, const struct coded *w, uint64_t row, uint64_t count, const float *x, size_t x_stride,
          size_t tokens, float *y, size_t y_stride, bool add, void *scratch, struct err *e)
{
    struct product p = {.kernel = k->gemm, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .add = add};
    struct scratch s = {.base = scratch};

    assert(w->cols > 0 && row + count <= w->rows && row % scheme_row_multiple(&w->scheme) == 0);
    product_place(&p, w, tokens, &s);
    decoder_init(&p.decoder, k, 0, &w->parts);
    size_t block = block_tokens(tokens);
    for (size_t t = 0; t < tokens; t += block) {
        size_t some = tokens - t < block ? tokens - t : block;
        for (uint64_t r = 0; r < count; r += GEMM_ROWS) {
            size_t rows = count - r < GEMM_ROWS ? count - r : GEMM_ROWS;
            if (!multiply_rows(&p, row + r, rows, t, some, e))
                return false;
        }
    }
    return true;
}
