/* Left-looking: before a block of columns is rounded, one product adds what all earlier errors mean for it; inside the
 * block, tiles of SUB columns and then single columns do the same. All of them continue the sums that t holds. */
#include "quant/ldlq.h"

#include <assert.h>
#include <string.h>

#include "formats/base/mem.h" /* MEM_ALIGN */
#include "quant/ldlq_panel.h"
#include "quant/tile.h"

#define SUB 16u

bool ldlq_check(const struct scheme *from, const struct scheme *to, struct err *e)
{
    struct scheme plain = *to;
    char text[SCHEME_TEXT];

    if (to->kind != SCHEME_INT4 && to->kind != SCHEME_FP8_BLOCK && to->kind != SCHEME_FP8_CHANNEL)
        return err_set(e, ERR_UNSUPPORTED, "'%s' cannot be written by method '%s'", scheme_text(to, text),
                       scheme_method_name(to->method));
    plain.method = METHOD_ABSMAX;
    return transform_check(from, &plain, e);
}

size_t ldlq_scratch_bytes(const struct ldlq *l, uint64_t count)
{
    struct rows r;
    struct scratch s = {0};

    rows_place(&r, l, count, &s);
    return s.used_bytes;
}

/* ---- rounding ---- */

static void nearest_fp8(const struct rows *r, const struct panel *p, uint64_t col, uint64_t group, const float *t,
                        float *q)
{
    static const float one = 1;
    _Alignas(MEM_ALIGN) float u[TILE_COLS];
    const float *scale = p->scale + group * TILE_COLS, *w = p->w + col * TILE_COLS;
    const uint8_t *kept = p->kept + group * TILE_COLS;
    uint8_t *codes = p->codes + col * TILE_COLS;

    for (size_t lane = 0; lane < TILE_COLS; lane++)
        u[lane] = (kept[lane] ? w[lane] : t[lane]) / scale[lane];
    r->l->kernel->e4m3_encode(codes, u, TILE_COLS, &one, TILE_COLS);
    (void)r->l->kernel->e4m3_decode(q, codes, TILE_COLS, &one, TILE_COLS); /* encoded codes are finite */
    for (size_t lane = 0; lane < TILE_COLS; lane++)
        q[lane] *= scale[lane];
}

static void round_column(const struct rows *r, const struct panel *p, uint64_t j, const float *t)
{
    _Alignas(MEM_ALIGN) float q[TILE_COLS];
    uint64_t col = r->l->factor->order[j], group = col / r->group_cols;

    if (r->l->to.kind == SCHEME_INT4)
        r->l->kernel->int4_nearest(p->codes + col * TILE_COLS, q, t, p->scale + group * TILE_COLS,
                                   p->zero + group * TILE_COLS);
    else
        nearest_fp8(r, p, col, group, t, q);
    r->l->kernel->feedback_step(p->e + j * TILE_COLS, p->sums, t, q, p->w + col * TILE_COLS, r->l->factor->r2[j]);
}

/* ---- blocks: columns [begin, begin + n) of the order ---- */

static void load_block(const struct rows *r, const struct panel *p, uint64_t begin, uint64_t n)
{
    for (uint64_t j = 0; j < n; j++)
        memcpy(p->t + j * TILE_COLS, p->w + (uint64_t)r->l->factor->order[begin + j] * TILE_COLS,
               TILE_COLS * sizeof *p->t);
    for (uint64_t j = n; j % TILE_ROWS != 0; j++)
        memset(p->t + j * TILE_COLS, 0, TILE_COLS * sizeof *p->t);
}

/* What the errors of columns [from, from + steps) mean for columns [j, j + TILE_ROWS), which are t's rows j - begin. */
static void feed(const struct rows *r, const struct panel *p, uint64_t begin, uint64_t j, uint64_t from, size_t steps)
{
    const float *a = triangle_row(r->l->factor->a, j) + from;

    r->l->kernel->tile_fma(p->t + (j - begin) * TILE_COLS, TILE_COLS, a, triangle_stride(j), 1, p->e + from * TILE_COLS,
                           steps);
}

static void feed_block(const struct rows *r, uint64_t begin, uint64_t n)
{
    for (uint64_t from = 0; from < begin; from += TILE_STEPS) {
        size_t steps = begin - from < TILE_STEPS ? begin - from : TILE_STEPS;

        for (size_t i = 0; i < r->panel_count; i++)
            for (uint64_t j = begin; j < begin + n; j += TILE_ROWS)
                feed(r, &r->panels[i], begin, j, from, steps);
    }
}

static void round_block(const struct rows *r, const struct panel *p, uint64_t begin, uint64_t n)
{
    for (uint64_t sub = begin; sub < begin + n; sub += SUB) {
        uint64_t end = begin + n - sub < SUB ? begin + n : sub + SUB;

        for (uint64_t j = sub; j < end && sub > begin; j += TILE_ROWS)
            feed(r, p, begin, j, begin, sub - begin);
        for (uint64_t j = sub; j < end; j++) {
            float *t = p->t + (j - begin) * TILE_COLS;

            r->l->kernel->tile_row_fma(t, triangle_row(r->l->factor->a, j) + sub, p->e + sub * TILE_COLS, j - sub);
            round_column(r, p, j, t);
        }
    }
}

static void solve(struct rows *r)
{
    bool dynamic = rows_dynamic(r->l);
    uint64_t block = dynamic ? r->group_cols : LDLQ_BLOCK;

    for (uint64_t begin = 0; begin < r->l->cols; begin += block) {
        uint64_t n = r->l->cols - begin < block ? r->l->cols - begin : block;

        for (size_t i = 0; i < r->panel_count; i++)
            load_block(r, &r->panels[i], begin, n);
        feed_block(r, begin, n);
        for (size_t i = 0; i < r->panel_count; i++) {
            if (dynamic)
                panel_rescale(r, &r->panels[i], begin);
            round_block(r, &r->panels[i], begin, n);
        }
    }
}

bool ldlq_run(const struct ldlq *l, uint64_t row, uint64_t count, uint64_t rows, const struct slices *in,
              const struct slices *out, void *scratch, struct weight_error *err2, float *row_loss, struct err *e)
{
    struct rows r;
    struct scratch memory = {.base = scratch};

    assert(row + count <= rows && l->factor->cols == l->cols);
    if (l->cols == 0)
        return true;
    rows_place(&r, l, count, &memory);
    r.in = in;
    r.out = out;
    r.first = row;
    r.all = rows;
    for (uint64_t done = 0; done < count; done += r.slice) {
        uint64_t n = count - done < r.slice ? count - done : r.slice;

        if (!rows_load(&r, row + done, n, e))
            return false;
        solve(&r);
        for (size_t i = 0; i < r.panel_count; i++) {
            const struct panel *p = &r.panels[i];
            panel_store(&r, p, err2, row_loss ? row_loss + (p->row - row) : NULL);
        }
    }
    return true;
}
