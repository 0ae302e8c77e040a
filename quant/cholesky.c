/* Blocks of BLOCK rows from the last: first the block's own rows, a panel of TILE_COLS columns at a time, each of which
 * stays in the first-level cache; then all rows above are updated by the finished ones, as tiles. */
#include "quant/cholesky.h"

#include <math.h>
#include <string.h>

#include "formats/base/pool.h"

#define BLOCK TILE_STEPS
/* Panels whose columns are one side of a group of tiles: see quant/moments.c. */
#define GROUP_PANELS 16u

struct block {
    const struct kernel *kernel;
    float *t;
    size_t cols;
    size_t begin, end; /* rows of the block */
    /* Finished rows, last first, as panels [panel][row][TILE_COLS]: as they are, and negative. */
    float *plus, *minus;
    struct pivot *pivot;
};

size_t cholesky_scratch_bytes(size_t cols)
{
    return 2 * tile_padded(cols) * BLOCK * sizeof(float);
}

static float *panel_row(float *panels, const struct block *b, size_t panel, size_t row)
{
    return panels + (panel * BLOCK + (b->end - 1 - row)) * TILE_COLS;
}

/* The last step of a row in one panel: divide by the pivot, and keep it for those that follow. */
static bool finish_row(const struct block *b, size_t panel, size_t row)
{
    float *at = triangle_row(b->t, row) + panel * TILE_COLS;
    float *plus = panel_row(b->plus, b, panel, row), *minus = panel_row(b->minus, b, panel, row);
    float *diagonal = triangle_row(b->t, row) + row;

    if (row / TILE_COLS == panel) {
        if (!(*diagonal > CHOLESKY_PIVOT_MIN)) {
            *b->pivot = (struct pivot){.row = row, .value = *diagonal};
            return false;
        }
        float root = sqrtf(*diagonal);

        for (size_t v = 0; v < row % TILE_COLS; v++)
            at[v] /= root;
        memset(at + row % TILE_COLS, 0, (TILE_COLS - row % TILE_COLS) * sizeof *at);
        *diagonal = root;
    } else {
        for (size_t v = 0; v < TILE_COLS; v++)
            at[v] /= *diagonal;
    }
    for (size_t v = 0; v < TILE_COLS; v++) {
        plus[v] = at[v];
        minus[v] = -at[v];
    }
    return true;
}

/* TILE_ROWS rows in one panel, by all rows of the block behind them. */
static bool solve_rows(const struct block *b, size_t panel, size_t rows)
{
    float *c = triangle_row(b->t, rows) + panel * TILE_COLS;
    size_t stride = triangle_stride(rows), own = rows / TILE_COLS, behind = b->end - rows - TILE_ROWS;
    const float *a = b->minus + own * BLOCK * TILE_COLS + rows % TILE_COLS;
    const float *panel_b = b->plus + panel * BLOCK * TILE_COLS;

    b->kernel->tile_fma(c, stride, a, 1, TILE_COLS, panel_b, behind);
    for (size_t r = TILE_ROWS; r-- > 0;) {
        for (size_t k = TILE_ROWS - 1; k > r; k--)
            b->kernel->tile_row_fma(c + r * stride, panel_row(b->minus, b, own, rows + k) + (rows + r) % TILE_COLS,
                                    panel_row(b->plus, b, panel, rows + k), 1);
        if (!finish_row(b, panel, rows + r))
            return false;
    }
    return true;
}

static bool solve_panel(const struct block *b, size_t panel)
{
    size_t least = panel * TILE_COLS > b->begin ? panel * TILE_COLS : b->begin;

    for (size_t rows = b->end; rows > least; rows -= TILE_ROWS)
        if (!solve_rows(b, panel, rows - TILE_ROWS))
            return false;
    return true;
}

static bool solve_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    (void)worker, (void)e;
    return solve_panel(ctx, job);
}

/* The rows of one group of panels, by the whole block. */
static bool update_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct block *b = ctx;
    size_t first = job * GROUP_PANELS, last = first + GROUP_PANELS, all = b->begin / TILE_COLS;

    (void)worker, (void)e;
    last = last < all ? last : all;
    for (size_t p = 0; p < last; p++)
        for (size_t q = p > first ? p : first; q < last; q++)
            for (size_t r = 0; r < TILE_COLS; r += TILE_ROWS) {
                size_t row = q * TILE_COLS + r;
                b->kernel->tile_fma(triangle_row(b->t, row) + p * TILE_COLS, triangle_stride(row),
                                    b->minus + q * BLOCK * TILE_COLS + r, 1, TILE_COLS, b->plus + p * BLOCK * TILE_COLS,
                                    b->end - b->begin);
            }
    return true;
}

/* Jobs that cannot fail. */
static void run(unsigned threads, size_t count, pool_job *job, const struct block *b)
{
    void *ctx = (void *)(uintptr_t)b;

    if (threads != 1 && count > 1) {
        (void)!pool_run(threads, count, job, ctx, NULL);
        return;
    }
    for (size_t i = count; i-- > 0;)
        (void)job(ctx, i, 0, NULL);
}

/* The diagonal of what pads the last strip, which is 1, so that padding is a matrix of its own. */
static void pad(float *t, size_t cols)
{
    for (size_t row = cols; row < tile_padded(cols); row++) {
        memset(triangle_row(t, row), 0, triangle_stride(row) * sizeof *t);
        triangle_row(t, row)[row] = 1;
    }
}

bool cholesky_reverse(const struct kernel *k, float *t, size_t cols, unsigned threads, void *scratch,
                      struct pivot *pivot)
{
    size_t padded = tile_padded(cols);
    struct block b = {.kernel = k, .t = t, .cols = padded, .plus = scratch, .pivot = pivot};

    b.minus = b.plus + padded * BLOCK;
    pad(t, cols);
    for (b.end = padded; b.end > 0; b.end = b.begin) {
        b.begin = (b.end - 1) / BLOCK * BLOCK;
        for (size_t p = b.end / TILE_COLS; p > b.begin / TILE_COLS; p--)
            if (!solve_panel(&b, p - 1))
                return false;
        run(threads, b.begin / TILE_COLS, solve_job, &b);
        run(threads, (b.begin / TILE_COLS + GROUP_PANELS - 1) / GROUP_PANELS, update_job, &b);
    }
    return true;
}
