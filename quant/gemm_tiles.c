/* Blocks of tokens are packed for all columns; then rows, 128 of them, are
 * decoded by panels of columns, and each panel is worked with all tokens at
 * hand, 32 rows and 32 tokens at a time.
 *
 * Estimates, not measurements, of a core with 48 KiB of L1 and 2 MiB of L2,
 * where TDPBF16PS takes 16 cycles and a tile comes from L1 in 8: a block's step
 * has 8 products, 128 cycles, and needs 2 tiles of weights and 4 of x, 6 KiB.
 * 256 columns of 32 tokens, 32 KiB, stay in L1 while the panel's rows, 64 KiB,
 * pass by from L2: 16 bytes a cycle. The x of 256 tokens for these columns and
 * their sums, 384 KiB, are in L2; fetching x takes 8 bytes a cycle from L3.
 * Decoding a weight, some 7 in a cycle, is an eighth of the products with 256
 * tokens; packing a number of x, one cycle, is as much as 256 rows: a call
 * should have many. */
#include "quant/gemm_tiles.h"

#include <assert.h>
#include <string.h>

#include "quant/decode.h"
#include "quant/gemm_codes.h"

#define TOKENS_MAX   256u              /* of a block, for narrow matrices */
#define X_BYTES      ((size_t)5 << 20) /* packed x of a block */
#define PANEL_BLOCKS (TILES_PANEL_ROWS / TILES_BLOCK)
#define X_TOKEN      (2 * sizeof(uint16_t)) /* bytes a number */

struct product {
    const struct gemm_tiles *tiles;
    const struct coded *w;
    struct decoder decoder;
    struct gemm_coder coder;
    uint16_t *packed; /* [panel][block of tokens][step][4][TILES_CODES] */
    uint16_t *panel;  /* [PANEL_BLOCKS][step][2][TILES_CODES] */
    float *scales;    /* [PANEL_BLOCKS][TILES_SPANS][TILES_BLOCK] */
    float *sums;      /* [block of tokens][PANEL_BLOCKS][TILES_SUMS] */
    float *decoded;   /* [TILES_SPAN]: for a refusal */
    const float *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    bool add;
    /* Of the tokens at hand. */
    size_t blocks;
    bool terms2;
};

static size_t at_most(size_t n, size_t limit)
{
    return n < limit ? n : limit;
}

static size_t blocks_of(size_t n)
{
    return (n + TILES_BLOCK - 1) / TILES_BLOCK;
}

/* ---- memory ---- */

/* Tokens that may be packed at once, in whole blocks. */
static size_t tokens_limit(uint64_t cols)
{
    size_t tokens = at_most(X_BYTES / (cols * X_TOKEN), TOKENS_MAX) / TILES_BLOCK * TILES_BLOCK;

    return tokens > 0 ? tokens : TILES_BLOCK;
}

/* No fewer than the packed x takes of any block of so many tokens, for these columns or any fewer: narrow rows let more
 * tokens in. */
static size_t packed_room(size_t tokens, uint64_t cols)
{
    size_t least = TILES_BLOCK * cols * X_TOKEN, most = X_BYTES > least ? X_BYTES : least;

    return at_most(at_most(blocks_of(tokens) * TILES_BLOCK, TOKENS_MAX) * cols * X_TOKEN, most);
}

static void product_place(struct product *p, const struct coded *w, size_t tokens, struct scratch *s)
{
    size_t blocks = at_most(blocks_of(tokens), TOKENS_MAX / TILES_BLOCK);

    p->w = w;
    decoder_place(&p->decoder, &w->scheme, w->cols, s);
    gemm_coder_place(&p->coder, w->cols, s);
    p->panel = scratch_take(s, TILES_PANEL_ROWS * TILES_SPAN * sizeof *p->panel);
    p->scales = scratch_take(s, PANEL_BLOCKS * TILES_SPANS * TILES_BLOCK * sizeof *p->scales);
    p->decoded = scratch_take(s, TILES_SPAN * sizeof *p->decoded);
    p->sums = scratch_take(s, blocks * PANEL_BLOCKS * TILES_SUMS * sizeof *p->sums);
    p->packed = scratch_take(s, packed_room(tokens, w->cols));
}

size_t gemm_tiles_scratch_bytes(const struct coded *w, size_t tokens)
{
    struct product p = {0};
    struct scratch s = {0};

    product_place(&p, w, tokens, &s);
    return s.used_bytes;
}

/* ---- what tiles take ---- */

bool gemm_tiles_takes(const struct coded *w)
{
    const struct scheme *s = &w->scheme;
    enum gemm_coding coding;

    return gemm_coding_find(s, &coding) && coding != GEMM_F32 && w->cols % TILES_COLS == 0 &&
           scheme_scale_cols(s, w->cols) % TILES_COLS == 0 &&
           (s->kind != SCHEME_FP8_BLOCK || s->block_rows % TILES_SIDE == 0);
}

/* Columns of the panel that begins at col: whole groups, or a part of one that ends where a span does. */
static size_t panel_cols(const struct product *p, uint64_t col)
{
    uint64_t group = p->decoder.block_cols, left = p->w->cols - col;
    uint64_t cols = group > TILES_SPAN ? at_most(group - col % group, TILES_SPAN) : TILES_SPAN / group * group;

    return at_most(cols, left);
}

/* ---- a panel ---- */

/* Values that are not finite have their words there. */
static bool check_rows(struct product *p, uint64_t row, size_t rows, uint64_t col, size_t cols, struct err *e)
{
    for (size_t r = 0; r < rows; r++)
        if (!decode_cols(&p->decoder, row + r, col, cols, p->decoded, e))
            return false;
    return true;
}

/* Those of at most sixteen rows, [span][row]; no scale is 1, and a row that is not there 0. */
static void take_scales(float *to, const struct gemm_codes *codes, size_t rows, size_t spans)
{
    for (size_t s = 0; s < spans; s++)
        for (size_t r = 0; r < TILES_SIDE; r++)
            to[s * TILES_BLOCK + r] = r >= rows       ? 0.0f
                                      : codes->scales ? codes->scales[r * codes->scales_stride + s]
                                                      : 1.0f;
}

/* Where the i-th sixteen rows of the panel stand. */
static uint16_t *tile_row(const struct product *p, size_t i, size_t cols)
{
    return p->panel + (i / 2 * cols / TILES_COLS * 2 + i % 2) * TILES_CODES;
}

static float *tile_scales(const struct product *p, size_t i)
{
    return p->scales + i / 2 * TILES_SPANS * TILES_BLOCK + i % 2 * TILES_SIDE;
}

static bool fill_tile_row(struct product *p, size_t i, uint64_t row, size_t rows, uint64_t col, size_t cols,
                          struct err *e)
{
    struct gemm_codes codes;
    bool past = false, known = gemm_coder_read(&p->coder, &p->decoder, row, rows, col, cols, &codes, &past);

    if (known)
        take_scales(tile_scales(p, i), &codes, rows, (cols + codes.group_cols - 1) / codes.group_cols);
    if (known && p->tiles->decode(tile_row(p, i, cols), &codes, rows, cols))
        return !past || check_rows(p, row, rows, col, cols, e);
    bool finite = check_rows(p, row, rows, col, cols, e);
    assert(!finite);
    return finite;
}

/* The second half of a block whose rows end with the first. */
static void clear_tile_row(struct product *p, size_t i, size_t cols)
{
    for (size_t step = 0; step < cols / TILES_COLS; step++)
        memset(tile_row(p, i, cols) + step * 2 * TILES_CODES, 0, TILES_CODES * sizeof *p->panel);
    for (size_t span = 0; span < TILES_SPANS; span++)
        memset(tile_scales(p, i) + span * TILES_BLOCK, 0, TILES_SIDE * sizeof *p->scales);
}

static bool fill_panel(struct product *p, uint64_t row, size_t rows, uint64_t col, size_t cols, struct err *e)
{
    for (size_t i = 0; i < 2 * blocks_of(rows); i++) {
        size_t first = i * TILES_SIDE;
        if (first >= rows)
            clear_tile_row(p, i, cols);
        else if (!fill_tile_row(p, i, row + first, at_most(rows - first, TILES_SIDE), col, cols, e))
            return false;
    }
    return true;
}

/* ---- all of it ---- */

/* Numbers of packed x of some columns and all blocks. */
static size_t packed_numbers(const struct product *p, uint64_t cols)
{
    return p->blocks * (cols / TILES_COLS) * 4 * TILES_CODES;
}

static float *block_sums(const struct product *p, size_t block, size_t row_block)
{
    return p->sums + (block * PANEL_BLOCKS + row_block) * TILES_SUMS;
}

static void pack_tokens(struct product *p, size_t token, size_t tokens)
{
    p->blocks = blocks_of(tokens);
    p->terms2 = false;
    for (uint64_t c = 0, cols; c < p->w->cols; c += cols) {
        cols = panel_cols(p, c);
        uint16_t *to = p->packed + packed_numbers(p, c);
        for (size_t t = 0; t < tokens; t += TILES_BLOCK) {
            const float *x = p->x + (token + t) * p->x_stride + c;
            p->terms2 |= p->tiles->pack(to, x, p->x_stride, at_most(tokens - t, TILES_BLOCK), cols);
            to += cols / TILES_COLS * 4 * TILES_CODES;
        }
    }
}

static void multiply_panel(struct product *p, size_t rows, size_t tokens, uint64_t col, size_t cols)
{
    size_t steps = cols / TILES_COLS;

    for (size_t b = 0; b < p->blocks; b++)
        for (size_t r = 0; r < blocks_of(rows); r++) {
            struct tiles_product product = {.weights = tile_row(p, 2 * r, cols),
                                            .x = p->packed + packed_numbers(p, col) + b * steps * 4 * TILES_CODES,
                                            .scales = tile_scales(p, 2 * r),
                                            .steps = steps,
                                            .span_steps = at_most(p->decoder.block_cols, TILES_SPAN) / TILES_COLS,
                                            .token_tiles = tokens - b * TILES_BLOCK > TILES_SIDE ? 2 : 1,
                                            .terms2 = p->terms2,
                                            .first = col == 0};
            p->tiles->multiply(block_sums(p, b, r), &product);
        }
}

static bool multiply_rows(struct product *p, uint64_t row, size_t rows, size_t token, size_t tokens, struct err *e)
{
    for (uint64_t c = 0, cols; c < p->w->cols; c += cols) {
        cols = panel_cols(p, c);
        if (!fill_panel(p, row, rows, c, cols, e))
            return false;
        multiply_panel(p, rows, tokens, c, cols);
    }
    for (size_t t = 0; t < tokens; t += TILES_BLOCK)
        for (size_t r = 0; r < rows; r += TILES_BLOCK)
            p->tiles->store(p->y + (token + t) * p->y_stride + row + r, p->y_stride,
                            block_sums(p, t / TILES_BLOCK, r / TILES_BLOCK), at_most(rows - r, TILES_BLOCK),
                            at_most(tokens - t, TILES_BLOCK), p->add);
    return true;
}

static bool multiply_tokens(struct product *p, uint64_t row, uint64_t count, size_t token, size_t tokens, struct err *e)
{
    pack_tokens(p, token, tokens);
    for (uint64_t r = 0; r < count; r += TILES_PANEL_ROWS)
        if (!multiply_rows(p, row + r, at_most(count - r, TILES_PANEL_ROWS), token, tokens, e))
            return false;
    return true;
}

/* As equal as whole blocks can be, for a short last part would decode all weights for little. */
static size_t tokens_at_once(size_t tokens, uint64_t cols)
{
    size_t limit = tokens_limit(cols), parts = (tokens + limit - 1) / limit;

    return parts > 1 ? blocks_of((tokens + parts - 1) / parts) * TILES_BLOCK : tokens;
}

bool gemm_tiles(const struct kernel *k, const struct coded *w, uint64_t row, uint64_t count, const float *x,
                size_t x_stride, size_t tokens, float *y, size_t y_stride, bool add, void *scratch, struct err *e)
{
    struct product p = {
        .tiles = k->gemm->tiles, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .add = add};
    struct scratch s = {.base = scratch};
    bool ok = true;

    product_place(&p, w, tokens, &s);
    decoder_init(&p.decoder, k, 0, &w->parts);
    p.tiles->begin();
    for (size_t t = 0, some; ok && t < tokens; t += some) {
        some = at_most(tokens - t, tokens_at_once(tokens, w->cols));
        ok = multiply_tokens(&p, row, count, t, some, e);
    }
    p.tiles->end();
    return ok;
}
