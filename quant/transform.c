/* A target is written row by row from float32 rows that the decoder makes:
 *
 *   floats   decode a row, round it; FP8 to BF16 in one pass
 *   int4     tiles of rows, as many as the kernel works on at once; FP8 by absmax in one pass
 *   FP8      transform_fp8.c */
#include "quant/transform.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "quant/bits.h"
#include "quant/decode.h"
#include "quant/e4m3_int4.h"
#include "quant/transform_private.h"

/* Rows the scale search is given at once: its vectors run across rows. */
#define SEARCH_ROWS 16u
/* Rows that share a word of zero points. */
#define ZERO_ROWS     8u
#define TILE_ROWS_MAX SEARCH_ROWS

void weight_error_add(struct weight_error *sum, const struct weight_error *more)
{
    sum->error2 += more->error2;
    sum->energy2 += more->energy2;
    sum->weights += more->weights;
}

double weight_error_relative(const struct weight_error *w)
{
    return w->error2 == 0.0 ? 0.0 : sqrt(w->error2 / w->energy2);
}

/* ---- what can be done ---- */

static bool is_float(const struct scheme *s)
{
    return s->kind == SCHEME_PLAIN && (s->dtype == DTYPE_F32 || s->dtype == DTYPE_F16 || s->dtype == DTYPE_BF16);
}

static bool can_decode(const struct scheme *s)
{
    if (s->kind == SCHEME_INT4)
        return s->scale == SCALE_BF16 || s->scale == SCALE_F16 || s->scale == SCALE_F32;
    if (s->kind == SCHEME_FP8_BLOCK && (s->block_rows == 0 || s->block_cols == 0))
        return false;
    return is_float(s) || (scheme_is_fp8(s) && s->dtype == DTYPE_F8_E4M3 && s->scale != SCALE_NONE);
}

static bool can_encode(const struct scheme *s)
{
    if (s->kind == SCHEME_PLAIN)
        return is_float(s) && s->method == METHOD_ROUND;
    if (s->kind == SCHEME_INT4)
        return s->scale == SCALE_BF16 && (s->method == METHOD_ABSMAX || s->method == METHOD_SEARCH);
    if (s->kind == SCHEME_FP8_BLOCK && (s->block_rows == 0 || s->block_cols == 0))
        return false;
    if (s->kind == SCHEME_FP8_TENSOR && s->scale != SCALE_F32)
        return false;
    return scheme_is_fp8(s) && s->dtype == DTYPE_F8_E4M3 && s->scale != SCALE_NONE && s->scale != SCALE_F16 &&
           s->method == METHOD_ABSMAX;
}

bool transform_check(const struct scheme *from, const struct scheme *to, struct err *e)
{
    char from_text[SCHEME_TEXT], to_text[SCHEME_TEXT];

    if (to->method == METHOD_COPY) {
        if (scheme_same_storage(from, to))
            return true;
        return err_set(e, ERR_UNSUPPORTED, "'%s' cannot be copied into '%s', which is stored differently",
                       scheme_text(from, from_text), scheme_text(to, to_text));
    }
    if (!can_decode(from))
        return err_set(e, ERR_UNSUPPORTED, "'%s' cannot be decoded", scheme_text(from, from_text));
    if (!can_encode(to))
        return err_set(e, ERR_UNSUPPORTED, "'%s' cannot be written by method '%s'", scheme_text(to, to_text),
                       scheme_method_name(to->method));
    return true;
}

static uint64_t tile_rows(const struct scheme *to)
{
    if (to->kind != SCHEME_INT4)
        return 1;
    if (to->method == METHOD_SEARCH)
        return SEARCH_ROWS;
    return to->asymmetric ? ZERO_ROWS : 1;
}

/* Takes the memory, or measures. */
static void work_place(struct work *w, const struct transform *t, struct scratch *s)
{
    uint64_t tile = tile_rows(&t->to);

    w->t = t;
    w->blocks = decoder_scales(&t->to, t->cols);
    w->x_stride = (t->cols + 15) / 16 * 16;
    decoder_place(&w->decoder, &t->from, t->cols, s);
    w->x = scratch_take(s, tile * w->x_stride * sizeof *w->x);
    if (scheme_is_fp8(&t->to)) {
        w->y = scratch_take(s, t->cols * sizeof *w->y);
        w->scales = scratch_take(s, w->blocks * sizeof *w->scales);
        w->most = scratch_take(s, w->blocks * sizeof *w->most);
        w->kept = scratch_take(s, w->blocks * sizeof *w->kept);
    }
    if (t->to.kind == SCHEME_INT4 && t->to.asymmetric)
        w->zeros = scratch_take(s, tile * w->blocks * sizeof *w->zeros);
}

size_t transform_scratch_bytes(const struct transform *t)
{
    struct work w = {0};
    struct scratch s = {0};

    if (t->to.method != METHOD_COPY)
        work_place(&w, t, &s);
    return s.used_bytes;
}

void transform_add_error(struct work *w, struct row_error row)
{
    w->error.error2 += (double)row.error2;
    w->error.energy2 += (double)row.energy2;
    w->error.weights += w->t->cols;
}

/* ---- copy ---- */

static void copy_parts(const struct transform *t, uint64_t row, uint64_t count, uint64_t rows, const struct slices *in,
                       const struct slices *out)
{
    for (enum part p = PART_CODES; p < PART_COUNT; p++) {
        uint64_t offset = 0, bytes = 0;
        if (p == PART_SHAPE || !in->part[p] || !out->part[p])
            continue;
        scheme_slice(&t->from, p, rows, t->cols, row, count, &offset, &bytes);
        memcpy(out->part[p], in->part[p], bytes);
    }
}

/* ---- floats ---- */

static bool refuse_range(const struct work *w, uint64_t row, const float *x, uint32_t least_bits, const char *range,
                         struct err *e)
{
    for (uint64_t c = 0; c < w->t->cols; c++)
        if ((float_bits(x[c]) & 0x7FFFFFFFu) >= least_bits)
            return err_set(e, ERR_FORMAT, "value at row %" PRIu64 ", column %" PRIu64 " is past %s's range (%g)", row,
                           c, range, (double)x[c]);
    return err_set(e, ERR_FORMAT, "row %" PRIu64 " has a value past %s's range", row, range);
}

static bool float_row(struct work *w, uint64_t row, struct err *e)
{
    const struct transform *t = w->t;
    uint8_t *out = (uint8_t *)w->out->part[PART_CODES] +
                   (row - w->row) * t->cols * (t->to.dtype == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t));

    if (t->to.dtype == DTYPE_F32)
        return decode_row(&w->decoder, row, (float *)(void *)out, e);
    if (t->to.dtype == DTYPE_BF16 && scheme_is_fp8(&t->from))
        return decode_row_to_bf16(&w->decoder, row, (uint16_t *)(void *)out, e);
    if (!decode_row(&w->decoder, row, w->x, e))
        return false;
    /* The least floats that round past 65504, and past the largest BF16. */
    if (t->to.dtype == DTYPE_F16)
        return t->kernel->f16_encode((uint16_t *)(void *)out, w->x, t->cols) ||
               refuse_range(w, row, w->x, 0x477FF000u, "F16", e);
    return t->kernel->bf16_encode((uint16_t *)(void *)out, w->x, t->cols) ||
           refuse_range(w, row, w->x, 0x7F7F8000u, "BF16", e);
}

static bool run_floats(struct work *w, struct err *e)
{
    for (uint64_t r = 0; r < w->count; r++)
        if (!float_row(w, w->row + r, e))
            return false;
    return true;
}

/* ---- int4 ---- */

static void pack_zeros(struct work *w, uint64_t row, uint64_t rows)
{
    uint32_t *words = (uint32_t *)w->out->part[PART_ZERO_POINT] + (row - w->row) / ZERO_ROWS * w->blocks;

    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t g = 0; g < w->blocks; g++) {
            uint32_t *word = words + r / ZERO_ROWS * w->blocks + g;
            uint32_t nibble = (uint32_t)(w->zeros[r * w->blocks + g] + 8) << (r % ZERO_ROWS * 4);
            *word = r % ZERO_ROWS == 0 ? nibble : *word | nibble;
        }
}

/* Whether rows go from codes to codes without floats between them. */
static bool straight_to_int4(const struct transform *t)
{
    return scheme_is_fp8(&t->from) && t->to.method == METHOD_ABSMAX && !t->to.asymmetric &&
           e4m3_int4_takes(scheme_scale_cols(&t->to, t->cols), scheme_scale_cols(&t->from, t->cols));
}

/* One row. */
static bool int4_from_fp8(struct work *w, uint64_t row, const struct int4_rows *q, struct row_error *error,
                          struct err *e)
{
    struct decoder *d = &w->decoder;

    if (!decoder_load_scales(d, row, e))
        return false;
    if (w->t->kernel->e4m3_to_int4(q, decoder_codes(d, row), w->t->cols, d->scales, d->block_cols, error))
        return true;
    return decode_row(d, row, w->x, e); /* which has the words for what is not finite */
}

static bool int4_from_floats(struct work *w, uint64_t row, const struct int4_rows *q, struct row_error *errors,
                             struct err *e)
{
    const struct transform *t = w->t;

    for (uint64_t r = 0; r < q->rows; r++)
        if (!decode_row(&w->decoder, row + r, w->x + r * w->x_stride, e))
            return false;
    if (t->to.method == METHOD_SEARCH)
        t->kernel->int4_search(q, w->x, w->x_stride, t->weights, t->to.positive_scales, errors);
    else
        t->kernel->int4_absmax(q, w->x, w->x_stride, errors);
    return true;
}

static bool int4_tile(struct work *w, uint64_t row, uint64_t rows, struct err *e)
{
    const struct transform *t = w->t;
    uint64_t words = (t->cols + 7) / 8;
    struct row_error errors[TILE_ROWS_MAX] = {0};
    struct int4_rows q = {
        .words = (uint32_t *)w->out->part[PART_CODES] + (row - w->row) * words,
        .scales = (uint16_t *)w->out->part[PART_SCALE] + (row - w->row) * w->blocks,
        .zeros = t->to.asymmetric ? w->zeros : NULL,
        .words_stride = words,
        .rows = rows,
        .cols = t->cols,
        .group_cols = scheme_scale_cols(&t->to, t->cols),
    };

    if (straight_to_int4(t)) {
        if (!int4_from_fp8(w, row, &q, errors, e))
            return false;
    } else if (!int4_from_floats(w, row, &q, errors, e)) {
        return false;
    }
    if (t->to.asymmetric)
        pack_zeros(w, row, rows);
    for (uint64_t r = 0; r < rows; r++)
        transform_add_error(w, errors[r]);
    return true;
}

static bool run_int4(struct work *w, struct err *e)
{
    uint64_t tile = tile_rows(&w->t->to);

    for (uint64_t r = 0; r < w->count; r += tile) {
        uint64_t rows = w->count - r < tile ? w->count - r : tile;
        if (!int4_tile(w, w->row + r, rows, e))
            return false;
    }
    return true;
}

/* ---- all of it ---- */

bool transform_run(const struct transform *t, uint64_t row, uint64_t count, uint64_t rows, const struct slices *in,
                   const struct slices *out, void *scratch, struct weight_error *err2, struct err *e)
{
    struct work w = {.in = in, .out = out, .row = row, .count = count};
    struct scratch memory = {.base = scratch};
    bool ok;

    assert(row + count <= rows);
    assert(row % scheme_row_multiple(&t->from) == 0 && row % scheme_row_multiple(&t->to) == 0);
    assert(t->to.kind != SCHEME_FP8_TENSOR || t->to.method == METHOD_COPY || t->tensor_scale > 0);
    if (t->to.method == METHOD_COPY) {
        copy_parts(t, row, count, rows, in, out);
        return true;
    }
    if (t->cols == 0)
        return true;
    work_place(&w, t, &memory);
    decoder_init(&w.decoder, t->kernel, row, in);
    if (t->to.kind == SCHEME_PLAIN)
        ok = run_floats(&w, e);
    else if (t->to.kind == SCHEME_INT4)
        ok = run_int4(&w, e);
    else if (t->to.kind == SCHEME_FP8_TENSOR)
        ok = transform_fp8_tensor(&w, e);
    else
        ok = transform_fp8(&w, e);
    if (ok)
        weight_error_add(err2, &w.error);
    return ok;
}

bool transform_most(const struct transform *t, uint64_t row, uint64_t count, const struct slices *in, void *scratch,
                    float *most, struct err *e)
{
    struct work w = {.in = in, .row = row, .count = count};
    struct scratch memory = {.base = scratch};

    work_place(&w, t, &memory);
    decoder_init(&w.decoder, t->kernel, row, in);
    *most = 0;
    for (uint64_t r = 0; r < count; r++) {
        if (!decode_row(&w.decoder, row + r, w.x, e))
            return false;
        float row_most = t->kernel->absmax(w.x, t->cols);
        *most = row_most > *most ? row_most : *most;
    }
    return true;
}
