/* Panels: some rows by some columns of W are decoded to float32, used for all
 * tokens at hand, and forgotten. The sixteen sums of a row and a token wait in
 * memory between two panels of the same rows, so that their order is that of
 * the columns however the matrix is cut.
 *
 * Where a variant can decode in registers (quant/gemm_codes.h), few tokens need
 * no panel, and of many the first ones fill it while they are worked. Where it
 * has strips (quant/gemm_strips.h), these are its panels. */
#include "quant/gemm.h"

#include <assert.h>
#include <string.h>

#include "quant/decode.h"
#include "quant/gemm_codes.h"
#include "quant/gemm_kernel.h"
#include "quant/gemm_strips.h"
#include "quant/gemm_tiles.h"

struct product {
    const struct gemm_kernel *kernel;
    const struct coded *w;
    struct decoder decoder;
    struct gemm_coder coder;
    float *panel; /* [GEMM_ROWS][GEMM_STRIDE] */
    float *sums;  /* [tokens][GEMM_ROWS][GEMM_LANES] */
    /* In the same memory: */
    float *decoded;    /* [GEMM_STRIP_ROWS][GEMM_STRIP_COLS] */
    float *strips;     /* [GEMM_STRIPS][GEMM_STRIP_FLOATS] */
    float *packed;     /* x of a block, panel after panel of columns */
    float *strip_sums; /* of a block */
    const float *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    bool add;
};

/* Blocks of one size, for a short last one would decode all weights for little; in whole tiles. */
static size_t block_tokens(size_t tokens, size_t limit)
{
    size_t blocks = (tokens + limit - 1) / limit, each = blocks ? (tokens + blocks - 1) / blocks : 0;

    return blocks > 1 ? (each + GEMM_TILE_TOKENS - 1) / GEMM_TILE_TOKENS * GEMM_TILE_TOKENS : each;
}

static size_t at_most(size_t n, size_t limit)
{
    return n < limit ? n : limit;
}

static size_t packed_floats(size_t tokens, uint64_t cols)
{
    return GEMM_LANES * (cols / GEMM_STRIP_COLS * gemm_x_lane(tokens, GEMM_STRIP_COLS) +
                         gemm_x_lane(tokens, cols % GEMM_STRIP_COLS));
}

/* As many as may be packed at once, in whole tiles. */
static size_t strip_tokens(uint64_t cols)
{
    size_t tokens = at_most(GEMM_STRIP_X_BYTES / (cols * sizeof(float)), GEMM_STRIP_TOKENS);

    return tokens < GEMM_TILE_TOKENS ? GEMM_TILE_TOKENS : tokens / GEMM_TILE_TOKENS * GEMM_TILE_TOKENS;
}

/* No fewer than the packed x of any block of so many tokens takes, for these columns or any fewer: narrow rows let more
 * tokens in. */
static size_t packed_room(size_t tokens, uint64_t cols)
{
    size_t padded = (cols + GEMM_LANES - 1) / GEMM_LANES * GEMM_LANES;
    size_t most = GEMM_STRIP_X_BYTES / sizeof(float) + (size_t)GEMM_STRIP_TOKENS * GEMM_LANES;
    size_t least = GEMM_TILE_TOKENS * padded; /* what strip_tokens lets in, however wide */

    return at_most(at_most(tokens, GEMM_STRIP_TOKENS) * padded, most > least ? most : least) + packed_floats(0, cols);
}

/* Tokens up to the limit, not block_tokens, which falls where blocks split. */
static void product_place(struct product *p, const struct coded *w, size_t tokens, struct scratch *s)
{
    p->w = w;
    decoder_place(&p->decoder, &w->scheme, w->cols, s);
    gemm_coder_place(&p->coder, w->cols, s);

    struct scratch panels = *s, strips = *s;
    p->panel = scratch_take(&panels, GEMM_ROWS * GEMM_STRIDE * sizeof *p->panel);
    p->sums = scratch_take(&panels, at_most(tokens, GEMM_TOKENS) * GEMM_ROWS * GEMM_LANES * sizeof *p->sums);
    p->decoded = scratch_take(&strips, GEMM_STRIP_ROWS * GEMM_STRIP_COLS * sizeof *p->decoded);
    p->strips = scratch_take(&strips, GEMM_STRIPS * GEMM_STRIP_FLOATS * sizeof *p->strips);
    p->packed = scratch_take(&strips, packed_room(tokens, w->cols) * sizeof *p->packed);
    p->strip_sums = scratch_take(&strips, at_most(tokens, GEMM_STRIP_TOKENS) * GEMM_STRIPS * GEMM_STRIP_SUMS *
                                              sizeof *p->strip_sums);
    s->used_bytes = panels.used_bytes > strips.used_bytes ? panels.used_bytes : strips.used_bytes;
}

size_t gemm_scratch_bytes(const struct coded *w, size_t tokens)
{
    struct product p = {0};
    struct scratch s = {0};

    product_place(&p, w, tokens, &s);
    size_t tiles_bytes = gemm_tiles_scratch_bytes(w, tokens);
    return s.used_bytes > tiles_bytes ? s.used_bytes : tiles_bytes;
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
static struct gemm_later codes_later(const struct product *p, uint64_t row, size_t rows, uint64_t col, size_t cols,
                                     size_t panel_rows, size_t panel_cols)
{
    uint64_t next = col + cols < p->w->cols ? col + cols : 0;
    uint64_t next_row = next > 0 ? row : row + rows, left = p->w->cols - next, rows_left = p->w->rows - next_row;
    struct gemm_codes codes;

    if (rows_left == 0 || !gemm_coder_locate(&p->decoder, next_row, next, &codes))
        return (struct gemm_later){0};
    return (struct gemm_later){.codes = codes.codes,
                               .row_bytes = codes.row_bytes,
                               .bytes = codes.row_bytes * at_most(left, panel_cols) / p->w->cols,
                               .rows = at_most(rows_left, panel_rows)};
}

/* Columns [col, col + cols) of some rows for some tokens, by way of the panel. */
static bool add_panel(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens, uint64_t col,
                      size_t cols, struct err *e)
{
    const float *x = p->x + token * p->x_stride + col;
    size_t first = tokens < GEMM_TILE_TOKENS ? tokens : GEMM_TILE_TOKENS;
    float *kept = first < tokens ? p->panel : NULL;
    struct gemm_codes codes;

    if (!p->kernel->sum_coded || rows % GEMM_TILE_ROWS != 0 ||
        !gemm_coder_describe(&p->coder, &p->decoder, row, rows, col, cols, &codes) ||
        !p->kernel->sum_coded(p->sums, kept, &codes, rows, x, p->x_stride, first, cols, col == 0)) {
        if (!fill_panel(p, row, rows, col, cols, e))
            return false;
        first = 0;
    }
    if (first < tokens) {
        struct gemm_later later = codes_later(p, row, rows, col, cols, GEMM_ROWS, GEMM_COLS);
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

    if (tokens > p->kernel->few_tokens || rows % GEMM_TILE_ROWS != 0)
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

/* ---- strips ---- */

static bool fill_strip(struct product *p, float *strip, uint64_t row, size_t rows, uint64_t col, size_t cols,
                       struct err *e)
{
    const struct gemm_strips *kernel = p->kernel->strips;
    struct gemm_codes codes;

    if (gemm_coder_describe(&p->coder, &p->decoder, row, rows, col, cols, &codes) &&
        kernel->fill(strip, &codes, rows, cols))
        return true;
    for (size_t r = 0; r < rows; r++)
        if (!decode_cols(&p->decoder, row + r, col, cols, p->decoded + r * GEMM_STRIP_COLS, e))
            return false;
    codes = (struct gemm_codes){
        .coding = GEMM_F32, .codes = (const uint8_t *)p->decoded, .row_bytes = GEMM_STRIP_COLS * sizeof *p->decoded};
    bool finite = kernel->fill(strip, &codes, rows, cols);
    assert(finite); /* decode_cols has seen to it */
    return finite;
}

static void pack_block(struct product *p, size_t token, size_t tokens)
{
    float *to = p->packed;

    for (uint64_t c = 0; c < p->w->cols; c += GEMM_STRIP_COLS) {
        size_t cols = at_most(p->w->cols - c, GEMM_STRIP_COLS);
        p->kernel->strips->pack(to, p->x + token * p->x_stride + c, p->x_stride, tokens, cols);
        to += GEMM_LANES * gemm_x_lane(tokens, cols);
    }
}

static bool multiply_strips(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens, struct err *e)
{
    const struct gemm_strips *kernel = p->kernel->strips;
    struct gemm_strip_panel panel = {.strips = p->strips,
                                     .packed = p->packed,
                                     .strip_count = (rows + GEMM_STRIP_ROWS - 1) / GEMM_STRIP_ROWS,
                                     .tokens = tokens,
                                     .y_stride = p->y_stride,
                                     .rows = rows,
                                     .add = p->add};

    for (uint64_t c = 0; c < p->w->cols; c += GEMM_STRIP_COLS) {
        size_t cols = at_most(p->w->cols - c, GEMM_STRIP_COLS);
        for (size_t s = 0, r = 0; r < rows; s++, r += GEMM_STRIP_ROWS)
            if (!fill_strip(p, p->strips + s * GEMM_STRIP_FLOATS, row + r, at_most(rows - r, GEMM_STRIP_ROWS), c, cols,
                            e))
                return false;
        panel.cols = cols;
        panel.first = c == 0;
        panel.y = c + cols == p->w->cols ? p->y + token * p->y_stride + row : NULL;
        panel.later = codes_later(p, row, rows, c, cols, GEMM_STRIPS_ROWS, GEMM_STRIP_COLS);
        kernel->sum(p->strip_sums, &panel);
        panel.packed += GEMM_LANES * gemm_x_lane(tokens, cols);
    }
    return true;
}

/* ---- all of it ---- */

static bool multiply_panels(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens, struct err *e)
{
    for (uint64_t c = 0; c < p->w->cols; c += GEMM_COLS)
        if (!add_panel(p, row, rows, token, tokens, c, at_most(p->w->cols - c, GEMM_COLS), e))
            return false;
    p->kernel->fold(p->y + token * p->y_stride + row, p->y_stride, p->sums, rows, tokens, p->add);
    return true;
}

/* Few tokens: false when there are more, or when the weights are not as sum_coded wants them. */
static bool multiply_few(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens)
{
    if (!add_rows(p, row, rows, token, tokens))
        return false;
    p->kernel->fold(p->y + token * p->y_stride + row, p->y_stride, p->sums, rows, tokens, p->add);
    return true;
}

static bool multiply_block(struct product *p, uint64_t row, uint64_t count, size_t token, size_t tokens, struct err *e)
{
    size_t step = p->kernel->strips ? GEMM_STRIPS_ROWS : GEMM_ROWS;
    bool packed = false, few = tokens <= p->kernel->few_tokens; /* whose sums lie where x is packed */

    for (uint64_t r = row, rows; r < row + count; r += rows) {
        rows = at_most(row + count - r, step);
        if (multiply_few(p, r, rows, token, tokens))
            continue;
        if (p->kernel->strips && (few || !packed))
            pack_block(p, token, tokens);
        packed = true;
        if (!(p->kernel->strips ? multiply_strips : multiply_panels)(p, r, rows, token, tokens, e))
            return false;
    }
    return true;
}

bool gemm(const struct kernel *k, const struct coded *w, uint64_t row, uint64_t count, const float *x, size_t x_stride,
          size_t tokens, float *y, size_t y_stride, bool add, void *scratch, struct err *e)
{
    struct product p = {.kernel = k->gemm, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .add = add};
    struct scratch s = {.base = scratch};

    assert(w->cols > 0 && row + count <= w->rows && row % scheme_row_multiple(&w->scheme) == 0);
    if (k->gemm->tiles) {
        if (gemm_tiles_takes(w))
            return gemm_tiles(k, w, row, count, x, x_stride, tokens, y, y_stride, add, scratch, e);
        p.kernel = k->gemm->others;
    }
    product_place(&p, w, tokens, &s);
    decoder_init(&p.decoder, k, 0, &w->parts);
    size_t block = block_tokens(tokens, p.kernel->strips ? strip_tokens(w->cols) : GEMM_TOKENS);
    for (size_t t = 0; t < tokens; t += block)
        if (!multiply_block(&p, row, count, t, at_most(tokens - t, block), e))
            return false;
    return true;
}
