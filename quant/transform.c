/* A target is written row by row from float32 rows that the decoder makes:
 *
 *   floats            decode a row, round it; FP8 to BF16 in one pass
 *   int4              tiles of rows, as many as the kernel works on at once; FP8 by absmax in one pass
 *   FP8 by channel    the row's largest magnitude, then codes
 *   FP8 by tensor     codes, by the scale that is given: it is not to be known from some rows
 *   FP8 in blocks     a pass over the block's rows for the largest magnitudes,
 *                     then one for the codes; the second decoding costs less
 *                     than keeping 128 float rows outside the cache
 *
 * FP8 blocks whose scale the target can hold as it is keep their codes. */
#include "quant/transform.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>

#include "quant/bf16.h"
#include "quant/bits.h"
#include "quant/decode.h"
#include "quant/e4m3_int4.h"

/* Rows the scale search is given at once: its vectors run across rows. */
#define SEARCH_ROWS 16u
/* Rows that share a word of zero points. */
#define ZERO_ROWS     8u
#define TILE_ROWS_MAX SEARCH_ROWS

struct work {
    const struct transform *t;
    struct decoder decoder;
    const struct slices *in, *out;
    uint64_t row, count; /* the slice */
    uint64_t blocks;     /* scales per row of the target */
    uint64_t x_stride;
    float *x;      /* [tile rows][x_stride] */
    float *y;      /* a row of what the codes stand for */
    float *scales; /* [blocks], of the target */
    float *most;   /* [blocks], largest magnitudes */
    bool *kept;    /* [blocks] */
    int8_t *zeros; /* [tile rows][blocks] */
    struct weight_error error;
};

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

static void add_error(struct work *w, struct row_error row)
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
        add_error(w, errors[r]);
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

/* ---- FP8 ---- */

/* 2^ceil(log2(s)), by the bits: log2f is wrong just above powers of two. 2^-127 is a subnormal, and E8M0's 0. */
static float pow2_ceil(float s)
{
    uint32_t bits = float_bits(s), exponent = (bits >> 23) + ((bits & 0x7FFFFFu) != 0);

    return bits_float(exponent == 0 ? 0x00400000u : exponent << 23);
}

static bool is_pow2_scale(float s)
{
    uint32_t bits = float_bits(s);

    return bits == 0x00400000u || (bits >> 23 != 0 && (bits & 0x7FFFFFu) == 0);
}

/* The scale as it will be stored. Below 2^-126 division and product would lose bits, so it stops there. */
static float target_scale(const struct scheme *to, float most)
{
    float scale = most / 448.0f;
    uint16_t bf16;

    if (most == 0.0f)
        return 1.0f;
    switch (to->scale) {
    case SCALE_F32_POW2:
    case SCALE_E8M0:
        return pow2_ceil(scale);
    case SCALE_BF16:
        (void)bf16_encode_ref(&bf16, &scale, 1); /* at most 2^128 / 448 */
        scale = bits_float((uint32_t)bf16 << 16);
        break;
    case SCALE_F32:
    case SCALE_F16:
    case SCALE_NONE:
        break;
    }
    return scale < FLT_MIN ? FLT_MIN : scale;
}

/* Whether the target can hold a scale exactly. */
static bool scale_fits(const struct scheme *to, float scale)
{
    if (to->scale == SCALE_F32_POW2 || to->scale == SCALE_E8M0)
        return is_pow2_scale(scale);
    return to->scale == SCALE_F32 || (to->scale == SCALE_BF16 && (float_bits(scale) & 0xFFFFu) == 0);
}

static bool same_grid(const struct scheme *a, const struct scheme *b)
{
    return a->kind == b->kind && scheme_is_fp8(a) && a->block_rows == b->block_rows && a->block_cols == b->block_cols;
}

static void store_scales(struct work *w, uint64_t scales_row)
{
    uint8_t *part = w->out->part[PART_SCALE];
    uint64_t begin = scales_row * w->blocks;

    switch (w->t->to.scale) {
    case SCALE_F32:
    case SCALE_F32_POW2:
        memcpy(part + begin * sizeof(float), w->scales, w->blocks * sizeof(float));
        break;
    case SCALE_E8M0:
        for (uint64_t i = 0; i < w->blocks; i++)
            part[begin + i] = (uint8_t)(float_bits(w->scales[i]) >> 23);
        break;
    case SCALE_BF16:
        (void)w->t->kernel->bf16_encode((uint16_t *)(void *)part + begin, w->scales, w->blocks); /* exact */
        break;
    case SCALE_F16:
    case SCALE_NONE:
        break;
    }
}

/* kept[i]: block i of this row of blocks keeps codes and scale. Says whether all do. */
static bool find_kept(struct work *w, uint64_t row, bool *all, struct err *e)
{
    *all = same_grid(&w->t->from, &w->t->to);
    memset(w->kept, 0, w->blocks * sizeof *w->kept);
    if (!*all)
        return true;
    if (!decoder_load_scales(&w->decoder, row, e))
        return false;
    for (uint64_t i = 0; i < w->blocks; i++) {
        w->kept[i] = scale_fits(&w->t->to, w->decoder.scales[i]);
        *all &= w->kept[i];
    }
    return true;
}

static bool find_most(struct work *w, uint64_t row, uint64_t rows, struct err *e)
{
    uint64_t each = scheme_scale_cols(&w->t->to, w->t->cols), cols = w->t->cols;

    memset(w->most, 0, w->blocks * sizeof *w->most);
    for (uint64_t r = 0; r < rows; r++) {
        if (!decode_row(&w->decoder, row + r, w->x, e))
            return false;
        for (uint64_t i = 0; i < w->blocks; i++) {
            uint64_t begin = i * each, n = cols - begin < each ? cols - begin : each;
            float most = w->t->kernel->absmax(w->x + begin, n);
            w->most[i] = most > w->most[i] ? most : w->most[i];
        }
    }
    return true;
}

static bool fp8_row(struct work *w, uint64_t row, bool all_kept, struct err *e)
{
    const struct transform *t = w->t;
    uint8_t *out = (uint8_t *)w->out->part[PART_CODES] + (row - w->row) * t->cols;
    uint64_t each = scheme_scale_cols(&t->to, t->cols);

    if (!decode_row(&w->decoder, row, w->x, e))
        return false;
    if (all_kept) {
        memcpy(out, decoder_codes(&w->decoder, row), t->cols);
        add_error(w, t->kernel->row_error(w->x, w->x, t->cols));
        return true;
    }
    t->kernel->e4m3_encode(out, w->x, t->cols, w->scales, each);
    for (uint64_t i = 0; i < w->blocks; i++) {
        uint64_t begin = i * each, n = t->cols - begin < each ? t->cols - begin : each;
        if (w->kept[i])
            memcpy(out + begin, (const uint8_t *)decoder_codes(&w->decoder, row) + begin, n);
    }
    /* A rounded-up scale may take magnitudes next to the largest float past it. */
    if (!t->kernel->e4m3_decode(w->y, out, t->cols, w->scales, each))
        return err_set(e, ERR_FORMAT, "row %" PRIu64 " is too large for FP8", row);
    add_error(w, t->kernel->row_error(w->x, w->y, t->cols));
    return true;
}

/* Rows that share their scales. */
static bool fp8_block_rows(struct work *w, uint64_t row, uint64_t rows, uint64_t scales_row, struct err *e)
{
    bool all_kept;

    if (!find_kept(w, row, &all_kept, e))
        return false;
    if (!all_kept && !find_most(w, row, rows, e))
        return false;
    for (uint64_t i = 0; i < w->blocks; i++)
        w->scales[i] = w->kept[i] ? w->decoder.scales[i] : target_scale(&w->t->to, w->most[i]);
    store_scales(w, scales_row);
    for (uint64_t r = 0; r < rows; r++)
        if (!fp8_row(w, row + r, all_kept, e))
            return false;
    return true;
}

/* Rows of a matrix that has one scale. */
static bool run_fp8_tensor(struct work *w, struct err *e)
{
    w->scales[0] = w->t->tensor_scale;
    w->kept[0] = false;
    store_scales(w, 0);
    for (uint64_t r = 0; r < w->count; r++)
        if (!fp8_row(w, w->row + r, false, e))
            return false;
    return true;
}

static bool run_fp8(struct work *w, struct err *e)
{
    uint64_t each = w->t->to.kind == SCHEME_FP8_BLOCK ? w->t->to.block_rows : 1;

    for (uint64_t r = 0; r < w->count; r += each) {
        uint64_t rows = w->count - r < each ? w->count - r : each;
        if (!fp8_block_rows(w, w->row + r, rows, r / each, e))
            return false;
    }
    return true;
}

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
        ok = run_fp8_tensor(&w, e);
    else
        ok = run_fp8(&w, e);
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

float transform_tensor_scale(float most)
{
    static const struct scheme tensor = {.kind = SCHEME_FP8_TENSOR, .scale = SCALE_F32};

    return target_scale(&tensor, most);
}
