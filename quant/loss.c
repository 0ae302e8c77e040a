#include "quant/loss.h"

#include <math.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/decode.h"
#include "quant/tile.h"

_Static_assert(LOSS_ROWS == TILE_COLS, "rows are the lanes of a tile");

struct measure {
    const struct kernel *kernel;
    const struct shrunk *shrunk;
    const struct loss_matrix *matrix;
    struct decoder in, out;
    size_t stride;
    float *w, *e; /* [stride][LOSS_ROWS], times the root of the column's variance */
    float *x, *y; /* [LOSS_ROWS][stride], rows of the source, and of the result */
    float *c2;    /* [TILE_ROWS][stride] */
    float *root;  /* [stride] */
};

double loss_relative(const struct loss *l)
{
    return l->error == 0.0 ? 0.0 : l->error / l->energy;
}

static void place(struct measure *m, const struct loss_matrix *matrix, struct scratch *s)
{
    size_t stride = tile_padded(matrix->cols);

    *m = (struct measure){.matrix = matrix, .stride = stride};
    decoder_place(&m->in, &matrix->from, matrix->cols, s);
    decoder_place(&m->out, &matrix->to, matrix->cols, s);
    m->w = scratch_take(s, stride * LOSS_ROWS * sizeof *m->w);
    m->e = scratch_take(s, stride * LOSS_ROWS * sizeof *m->e);
    m->x = scratch_take(s, LOSS_ROWS * stride * sizeof *m->x);
    m->y = scratch_take(s, LOSS_ROWS * stride * sizeof *m->y);
    m->c2 = scratch_take(s, TILE_ROWS * stride * sizeof *m->c2);
    m->root = scratch_take(s, stride * sizeof *m->root);
}

size_t loss_scratch_bytes(const struct loss_matrix *m)
{
    struct measure unused;
    struct scratch s = {0};

    place(&unused, m, &s);
    return s.used_bytes;
}

static bool load_lane(struct measure *m, uint64_t row, size_t lane, struct err *e)
{
    return decode_row(&m->in, row, m->x + lane * m->stride, e) && decode_row(&m->out, row, m->y + lane * m->stride, e);
}

/* Columns of rows, and of their errors, as lanes; absent rows are 0. */
static void turn(struct measure *m, size_t lanes)
{
    size_t cols = m->matrix->cols;

    memset(m->w, 0, m->stride * LOSS_ROWS * sizeof *m->w);
    memset(m->e, 0, m->stride * LOSS_ROWS * sizeof *m->e);
    for (size_t begin = 0; begin < cols; begin += TILE_COLS)
        for (size_t lane = 0; lane < lanes; lane++)
            for (size_t j = begin; j < begin + TILE_COLS && j < cols; j++) {
                float w = m->x[lane * m->stride + j], q = m->y[lane * m->stride + j];

                m->w[j * LOSS_ROWS + lane] = w * m->root[j];
                m->e[j * LOSS_ROWS + lane] = (w - q) * m->root[j];
            }
}

/* The share of rows i .. i + TILE_ROWS of C2 in v^T C2 v, all lanes together. */
static double form(const struct measure *m, size_t i, const float *v)
{
    _Alignas(MEM_ALIGN) float c[TILE_ROWS * TILE_COLS] = {0};
    double sum = 0;

    m->kernel->tile_fma(c, TILE_COLS, m->c2, m->stride, 1, v, m->stride);
    for (size_t r = 0; r < TILE_ROWS; r++)
        for (size_t lane = 0; lane < LOSS_ROWS; lane++)
            sum += (double)c[r * TILE_COLS + lane] * (double)v[(i + r) * LOSS_ROWS + lane];
    return sum;
}

static void measure_lanes(struct measure *m, size_t lanes, struct loss *l)
{
    size_t cols = m->matrix->cols;

    turn(m, lanes);
    for (size_t i = 0; i < cols; i += TILE_ROWS) {
        for (size_t r = 0; r < TILE_ROWS; r++) {
            if (i + r < cols)
                shrink_row(m->shrunk, i + r, m->c2 + r * m->stride);
            else
                memset(m->c2 + r * m->stride, 0, m->stride * sizeof *m->c2);
        }
        l->error += form(m, i, m->e);
        l->energy += form(m, i, m->w);
    }
}

bool loss_measure(const struct kernel *k, const struct shrunk *s, const struct loss_matrix *matrix, uint64_t sample,
                  void *scratch, struct loss *l, struct err *e)
{
    struct scratch memory = {.base = scratch};
    struct measure m;
    size_t lanes = 0;

    place(&m, matrix, &memory);
    m.kernel = k;
    m.shrunk = s;
    decoder_init(&m.in, k, 0, &matrix->in);
    decoder_init(&m.out, k, 0, &matrix->out);
    for (size_t j = 0; j < matrix->cols; j++)
        m.root[j] = sqrtf(s->variance[j]);
    for (uint64_t row = 0; row < matrix->rows; row++) {
        if (!moments_takes(row, matrix->rows, sample))
            continue;
        if (!load_lane(&m, row, lanes++, e))
            return false;
        l->rows++;
        if (lanes == LOSS_ROWS) {
            measure_lanes(&m, lanes, l);
            lanes = 0;
        }
    }
    if (lanes > 0)
        measure_lanes(&m, lanes, l);
    return true;
}
