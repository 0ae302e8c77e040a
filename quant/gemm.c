/* Panels: some rows by some columns of W are decoded to float32, used for all
 * tokens at hand, and forgotten. The sixteen sums of a row and a token wait in
 * memory between two panels of the same rows, so that their order is that of
 * the columns however the matrix is cut. */
#include "quant/gemm.h"

#include <assert.h>
#include <string.h>

#include "quant/decode.h"
#include "quant/gemm_kernel.h"

struct product {
    const struct kernel *kernel;
    const struct coded *w;
    struct decoder decoder;
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

static bool multiply_rows(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens, float *y,
                          struct err *e)
{
    const struct gemm_kernel *g = p->kernel->gemm;

    for (uint64_t c = 0; c < p->w->cols; c += GEMM_COLS) {
        size_t cols = p->w->cols - c < GEMM_COLS ? p->w->cols - c : GEMM_COLS;
        if (!fill_panel(p, row, rows, c, cols, e))
            return false;
        g->sum(p->sums, p->panel, rows, p->x + token * p->x_stride + c, p->x_stride, tokens, cols, c == 0);
    }
    g->fold(y, p->y_stride, p->sums, rows, tokens, p->add);
    return true;
}

bool gemm(const struct kernel *k, const struct coded *w, uint64_t row, uint64_t count, const float *x, size_t x_stride,
          size_t tokens, float *y, size_t y_stride, bool add, void *scratch, struct err *e)
{
    struct product p = {.kernel = k, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .add = add};
    struct scratch s = {.base = scratch};

    assert(w->cols > 0 && row + count <= w->rows && row % scheme_row_multiple(&w->scheme) == 0);
    product_place(&p, w, tokens, &s);
    decoder_init(&p.decoder, k, 0, &w->parts);
    size_t block = block_tokens(tokens);
    for (size_t t = 0; t < tokens; t += block) {
        size_t some = tokens - t < block ? tokens - t : block;
        for (uint64_t r = 0; r < count; r += GEMM_ROWS) {
            size_t rows = count - r < GEMM_ROWS ? count - r : GEMM_ROWS;
            if (!multiply_rows(&p, row + r, rows, t, some, y + t * y_stride + row + r, e))
                return false;
        }
    }
    return true;
}
