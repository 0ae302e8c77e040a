#include "quant/ldlq_panel.h"

#include <assert.h>
#include <string.h>

#include "quant/bits.h"
#include "quant/tile.h"

#define ZERO_ROWS 8u

bool rows_dynamic(const struct ldlq *l)
{
    return l->scales == LDLQ_DYNAMIC && l->to.kind == SCHEME_INT4 && l->to.group_cols > 0 &&
           l->to.group_cols <= LDLQ_BLOCK && l->to.group_cols % TILE_ROWS == 0;
}

static struct transform scale_transform(const struct ldlq *l)
{
    struct transform t = {.kernel = l->kernel, .from = l->from, .to = l->to, .cols = l->cols};
    bool searched = l->to.kind == SCHEME_INT4 && l->scales == LDLQ_SEARCHED;

    t.to.method = searched ? METHOD_SEARCH : METHOD_ABSMAX;
    t.weights = searched ? l->factor->weights : NULL;
    return t;
}

static void panel_place(struct panel *p, const struct rows *r, struct scratch *s)
{
    size_t cols = r->l->cols, lanes = TILE_COLS;

    p->w = scratch_take(s, cols * lanes * sizeof *p->w);
    p->e = scratch_take(s, cols * lanes * sizeof *p->e);
    p->t = scratch_take(s, LDLQ_BLOCK * lanes * sizeof *p->t);
    p->scale = scratch_take(s, r->groups * lanes * sizeof *p->scale);
    p->zero = scratch_take(s, r->groups * lanes * sizeof *p->zero);
    p->kept = scratch_take(s, r->groups * lanes);
    p->codes = scratch_take(s, cols * lanes);
    p->sums = scratch_take(s, 3 * lanes * sizeof *p->sums);
}

static uint64_t slice_rows(const struct ldlq *l)
{
    uint64_t a = scheme_row_multiple(&l->from), b = scheme_row_multiple(&l->to), both = a;

    while (both % b != 0)
        both += a;
    return both > LDLQ_ROWS ? both : LDLQ_ROWS / both * both;
}

void rows_place(struct rows *r, const struct ldlq *l, uint64_t count, struct scratch *s)
{
    uint64_t slice = slice_rows(l);
    size_t panels = ((count < slice ? count : slice) + TILE_COLS - 1) / TILE_COLS;

    *r = (struct rows){.l = l,
                       .groups = decoder_scales(&l->to, l->cols),
                       .group_cols = scheme_scale_cols(&l->to, l->cols),
                       .slice = slice,
                       .transform = scale_transform(l),
                       .x_stride = (l->cols + 15) / 16 * 16};
    r->transform_scratch = scratch_take(s, transform_scratch_bytes(&r->transform));
    decoder_place(&r->source, &l->from, l->cols, s);
    decoder_place(&r->target, &l->to, l->cols, s);
    r->x = scratch_take(s, TILE_COLS * r->x_stride * sizeof *r->x);
    r->group = (struct int4_rows){.words = scratch_take(s, TILE_COLS * LDLQ_BLOCK / 2),
                                  .scales = scratch_take(s, TILE_COLS * sizeof(uint16_t)),
                                  .zeros = scratch_take(s, TILE_COLS),
                                  .words_stride = LDLQ_BLOCK / 8,
                                  .rows = TILE_COLS,
                                  .cols = r->group_cols,
                                  .group_cols = r->group_cols};
    r->group.zeros = l->to.asymmetric ? r->group.zeros : NULL;
    r->group_error = scratch_take(s, TILE_COLS * sizeof *r->group_error);
    r->panels = scratch_take(s, panels * sizeof *r->panels);
    for (size_t i = 0; i < panels; i++) {
        struct panel unused;
        panel_place(s->base ? &r->panels[i] : &unused, r, s);
    }
}

/* ---- loading ---- */

/* Columns [begin, end) of x, turned so that rows are lanes. */
static void turn(float *to, const float *x, size_t x_stride, size_t cols)
{
    for (size_t begin = 0; begin < cols; begin += TILE_COLS) {
        size_t end = cols - begin < TILE_COLS ? cols : begin + TILE_COLS;

        for (size_t lane = 0; lane < TILE_COLS; lane++)
            for (size_t c = begin; c < end; c++)
                to[c * TILE_COLS + lane] = x[lane * x_stride + c];
    }
}

/* Whether the plain transform kept the codes of a block: the scale is the source's own, on the same blocks. */
static bool is_kept(const struct rows *r, uint64_t group)
{
    const struct scheme *from = &r->l->from, *to = &r->l->to;

    return from->kind == to->kind && scheme_is_fp8(to) && from->block_rows == to->block_rows &&
           from->block_cols == to->block_cols &&
           float_bits(r->source.scales[group]) == float_bits(r->target.scales[group]);
}

static bool load_lane(struct rows *r, struct panel *p, size_t lane, struct err *e)
{
    uint64_t row = p->row + lane;
    bool fp8 = scheme_is_fp8(&r->l->to);

    if (!decode_row(&r->source, row, r->x + lane * r->x_stride, e) || !decoder_load_scales(&r->target, row, e))
        return false;
    if (r->l->to.asymmetric)
        decoder_load_zeros(&r->target, row);
    for (uint64_t g = 0; g < r->groups; g++) {
        p->scale[g * TILE_COLS + lane] = r->target.scales[g];
        p->zero[g * TILE_COLS + lane] = r->l->to.asymmetric ? r->target.zeros[g] : 0;
        p->kept[g * TILE_COLS + lane] = fp8 && is_kept(r, g);
    }
    return true;
}

static void clear_lane(struct rows *r, struct panel *p, size_t lane)
{
    memset(r->x + lane * r->x_stride, 0, r->x_stride * sizeof *r->x);
    for (uint64_t g = 0; g < r->groups; g++) {
        p->scale[g * TILE_COLS + lane] = 1;
        p->zero[g * TILE_COLS + lane] = 0;
        p->kept[g * TILE_COLS + lane] = 0;
    }
}

static bool panel_load(struct rows *r, struct panel *p, struct err *e)
{
    for (size_t lane = 0; lane < p->count; lane++)
        if (!load_lane(r, p, lane, e))
            return false;
    for (size_t lane = p->count; lane < TILE_COLS; lane++)
        clear_lane(r, p, lane);
    turn(p->w, r->x, r->x_stride, r->l->cols);
    memset(p->sums, 0, 3 * TILE_COLS * sizeof *p->sums);
    return true;
}

bool rows_load(struct rows *r, uint64_t row, uint64_t count, struct err *e)
{
    struct weight_error ignored = {0};
    struct slices in, out;

    for (enum part part = PART_CODES; part < PART_COUNT; part++) {
        uint64_t in_at, out_at, bytes;

        scheme_slice(&r->l->from, part, r->all, r->l->cols, r->first, row - r->first, &bytes, &in_at);
        scheme_slice(&r->l->to, part, r->all, r->l->cols, r->first, row - r->first, &bytes, &out_at);
        in_at = part == PART_SCALE && r->l->from.kind == SCHEME_FP8_TENSOR ? 0 : in_at;
        in.part[part] = r->in->part[part] ? (uint8_t *)r->in->part[part] + in_at : NULL;
        out.part[part] = r->out->part[part] ? (uint8_t *)r->out->part[part] + out_at : NULL;
    }
    if (!transform_run(&r->transform, row, count, r->all, &in, &out, r->transform_scratch, &ignored, e))
        return false;
    r->panel_count = (count + TILE_COLS - 1) / TILE_COLS;
    decoder_init(&r->source, r->l->kernel, r->first, r->in);
    decoder_init(&r->target, r->l->kernel, r->first, r->out);
    for (size_t i = 0; i < r->panel_count; i++) {
        struct panel *p = &r->panels[i];
        uint64_t begin = i * TILE_COLS;

        p->row = row + begin;
        p->count = count - begin < TILE_COLS ? count - begin : TILE_COLS;
        if (!panel_load(r, p, e))
            return false;
    }
    return true;
}

/* ---- storing ---- */

static void store_zero(const struct rows *r, uint64_t row, uint64_t group, int zero)
{
    uint32_t *word = (uint32_t *)r->out->part[PART_ZERO_POINT] + (row - r->first) / ZERO_ROWS * r->groups + group;
    uint32_t shift = (uint32_t)(row % ZERO_ROWS * 4);

    *word = (*word & ~(15u << shift)) | (uint32_t)(zero + 8) << shift;
}

void panel_rescale(struct rows *r, struct panel *p, uint64_t col)
{
    uint64_t g = col / r->group_cols;
    uint16_t *scales = r->out->part[PART_SCALE];

    for (size_t c = 0; c < r->group_cols; c++)
        for (size_t lane = 0; lane < TILE_COLS; lane++)
            r->x[lane * r->x_stride + c] = p->t[c * TILE_COLS + lane];
    r->l->kernel->int4_absmax(&r->group, r->x, r->x_stride, r->group_error);
    for (size_t lane = 0; lane < TILE_COLS; lane++) {
        int zero = r->group.zeros ? r->group.zeros[lane] : 0;

        p->scale[g * TILE_COLS + lane] = bits_float((uint32_t)r->group.scales[lane] << 16);
        p->zero[g * TILE_COLS + lane] = (float)zero;
        if (lane >= p->count)
            continue;
        scales[(p->row + lane - r->first) * r->groups + g] = r->group.scales[lane];
        if (r->group.zeros)
            store_zero(r, p->row + lane, g, zero);
    }
}

static void store_int4(const struct rows *r, const struct panel *p)
{
    uint64_t words = (r->l->cols + 7) / 8;
    uint32_t *out = (uint32_t *)r->out->part[PART_CODES] + (p->row - r->first) * words;

    for (uint64_t w = 0; w < words; w++) {
        uint32_t word[TILE_COLS] = {0};
        uint64_t left = r->l->cols - w * 8;

        for (uint32_t c = 0; c < (left < 8 ? left : 8); c++)
            for (size_t lane = 0; lane < TILE_COLS; lane++)
                word[lane] |= (uint32_t)p->codes[(w * 8 + c) * TILE_COLS + lane] << (4 * c);
        for (size_t lane = 0; lane < p->count; lane++)
            out[lane * words + w] = word[lane];
    }
}

static void store_fp8(const struct rows *r, const struct panel *p)
{
    uint64_t cols = r->l->cols;
    uint8_t *out = (uint8_t *)r->out->part[PART_CODES] + (p->row - r->first) * cols;

    for (uint64_t begin = 0; begin < cols; begin += TILE_COLS) {
        uint64_t end = cols - begin < TILE_COLS ? cols : begin + TILE_COLS;

        for (size_t lane = 0; lane < p->count; lane++)
            for (uint64_t c = begin; c < end; c++)
                out[lane * cols + c] = p->codes[c * TILE_COLS + lane];
    }
}

void panel_store(const struct rows *r, const struct panel *p, struct weight_error *err2, float *row_loss)
{
    if (r->l->to.kind == SCHEME_INT4)
        store_int4(r, p);
    else
        store_fp8(r, p);
    for (size_t lane = 0; lane < p->count; lane++) {
        struct weight_error row = {.error2 = (double)p->sums[TILE_COLS + lane],
                                   .energy2 = (double)p->sums[2 * TILE_COLS + lane],
                                   .weights = r->l->cols};

        weight_error_add(err2, &row);
        if (row_loss)
            row_loss[lane] = p->sums[lane];
    }
}
