#include "quant/decode.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>

#include "formats/base/mem.h"
#include "quant/bits.h"
#include "quant/e4m3.h"

#define BF16_ONE 0x3F80u

void *scratch_take(struct scratch *s, size_t bytes)
{
    void *piece = s->base ? s->base + s->used_bytes : NULL;

    s->used_bytes += (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    return piece;
}

bool scheme_is_fp8(const struct scheme *s)
{
    return s->kind == SCHEME_FP8_BLOCK || s->kind == SCHEME_FP8_CHANNEL || s->kind == SCHEME_FP8_TENSOR;
}

uint64_t scheme_scale_cols(const struct scheme *s, uint64_t cols)
{
    if (s->kind == SCHEME_FP8_BLOCK)
        return s->block_cols;
    if (s->kind == SCHEME_INT4 && s->group_cols)
        return s->group_cols;
    return cols;
}

uint64_t decoder_scales(const struct scheme *from, uint64_t cols)
{
    if (from->scale == SCALE_NONE || cols == 0)
        return 0;
    uint64_t each = scheme_scale_cols(from, cols);
    return (cols + each - 1) / each;
}

void decoder_place(struct decoder *d, const struct scheme *from, uint64_t cols, struct scratch *s)
{
    uint64_t scales = decoder_scales(from, cols);

    d->from = from;
    d->cols = cols;
    d->scales = scratch_take(s, scales * sizeof *d->scales);
    if (from->kind == SCHEME_INT4) {
        d->zeros = scratch_take(s, scales * sizeof *d->zeros);
        d->ones = scratch_take(s, scales * sizeof *d->ones);
    }
}

void decoder_init(struct decoder *d, const struct kernel *k, uint64_t row, const struct slices *in)
{
    d->kernel = k;
    d->row = row;
    d->in = in;
    d->scales_row = UINT64_MAX;
    d->block_cols = scheme_scale_cols(d->from, d->cols);
    for (uint64_t g = 0; d->ones && g < decoder_scales(d->from, d->cols); g++)
        d->ones[g] = BF16_ONE;
}

/* Which row of scales a row of the slice has. */
static uint64_t scales_row(const struct decoder *d, uint64_t row)
{
    if (d->from->kind == SCHEME_FP8_BLOCK)
        return row / d->from->block_rows - d->row / d->from->block_rows;
    return d->from->kind == SCHEME_FP8_TENSOR ? 0 : row - d->row;
}

static bool scale_is_legal(const struct decoder *d, float scale)
{
    return isfinite(scale) && (d->from->kind == SCHEME_INT4 || scale > 0.0f);
}

/* The blocks are counted over the whole matrix, as the reader of the message sees them. */
static bool refuse_scale(const struct decoder *d, uint64_t row, uint64_t block, struct err *e)
{
    /* E8M0 has no infinity; what decodes to it is the NaN. */
    double scale = d->from->scale == SCALE_E8M0 && isinf(d->scales[block]) ? NAN : (double)d->scales[block];
    const char *rule = isnan(scale)   ? "scale-nan"
                       : isinf(scale) ? "scale-inf"
                       : scale == 0   ? "scale-zero"
                                      : "scale-negative";

    switch (d->from->kind) {
    case SCHEME_FP8_BLOCK:
        return err_broken(e, ERR_FORMAT, rule,
                          "scale of block (%" PRIu64 ", %" PRIu64 ") is not a positive finite number (%g)",
                          row / d->from->block_rows, block, scale);
    case SCHEME_INT4:
        return err_broken(e, ERR_FORMAT, rule, "scale of row %" PRIu64 ", group %" PRIu64 " is not finite (%g)", row,
                          block, scale);
    case SCHEME_FP8_CHANNEL:
        return err_broken(e, ERR_FORMAT, rule, "scale of row %" PRIu64 " is not a positive finite number (%g)", row,
                          scale);
    case SCHEME_RAW:
    case SCHEME_PLAIN:
    case SCHEME_FP8_TENSOR:
    case SCHEME_KIND_COUNT:
        break;
    }
    return err_broken(e, ERR_FORMAT, rule, "scale is not a positive finite number (%g)", scale);
}

bool decoder_load_scale_range(struct decoder *d, uint64_t row, uint64_t first, uint64_t end, struct err *e)
{
    uint64_t at = scales_row(d, row) * decoder_scales(d->from, d->cols) + first, count = end - first;
    const uint8_t *part = d->in->part[PART_SCALE];
    const uint16_t *halves = (const uint16_t *)(const void *)part + at;
    float *scales = d->scales + first;
    bool finite = true;

    switch (d->from->scale) {
    case SCALE_F32:
    case SCALE_F32_POW2:
        memcpy(scales, part + at * sizeof(float), count * sizeof(float));
        finite = d->kernel->f32_check(scales, count);
        break;
    case SCALE_E8M0:
        finite = d->kernel->e8m0_decode(scales, part + at, count);
        break;
    case SCALE_BF16:
        finite = d->kernel->bf16_decode(scales, halves, count);
        break;
    case SCALE_F16:
        finite = d->kernel->f16_decode(scales, halves, count);
        break;
    case SCALE_NONE:
        return true;
    }
    if (finite && d->from->kind == SCHEME_INT4)
        return true;
    for (uint64_t i = first; i < end; i++)
        if (!scale_is_legal(d, d->scales[i]))
            return refuse_scale(d, row, i, e);
    assert(finite);
    return true;
}

bool decoder_load_scales(struct decoder *d, uint64_t row, struct err *e)
{
    uint64_t count = decoder_scales(d->from, d->cols), at = scales_row(d, row);

    if (at == d->scales_row || count == 0)
        return true;
    if (!decoder_load_scale_range(d, row, 0, count, e))
        return false;
    d->scales_row = at;
    return true;
}

const void *decoder_codes(const struct decoder *d, uint64_t row)
{
    const uint8_t *part = d->in->part[PART_CODES];
    size_t elem_bytes = scheme_is_fp8(d->from) ? 1 : d->from->dtype == DTYPE_F32 ? 4 : 2;

    return part + (row - d->row) * d->cols * elem_bytes;
}

/* The name of what a value is that is not finite. */
static const char *value_rule(bool nan)
{
    return nan ? "value-nan" : "value-inf";
}

static bool refuse_plain(const struct decoder *d, uint64_t row, struct err *e)
{
    const uint8_t *codes = decoder_codes(d, row);

    for (uint64_t c = 0; c < d->cols; c++) {
        uint32_t bits32;
        uint16_t bits16;
        if (d->from->dtype == DTYPE_F32) {
            memcpy(&bits32, codes + c * 4, 4);
            if ((bits32 & 0x7F800000u) == 0x7F800000u)
                return err_broken(e, ERR_FORMAT, value_rule((bits32 & 0x7FFFFFu) != 0),
                                  "value at row %" PRIu64 ", column %" PRIu64 " is not finite (%g)", row, c,
                                  (double)bits_float(bits32));
        } else {
            uint32_t exponent = d->from->dtype == DTYPE_F16 ? 0x7C00u : 0x7F80u;
            memcpy(&bits16, codes + c * 2, 2);
            if ((bits16 & exponent) == exponent)
                return err_broken(e, ERR_FORMAT, value_rule((bits16 & (0x7FFFu & ~exponent)) != 0),
                                  "value at row %" PRIu64 ", column %" PRIu64 " is not finite (%s bits 0x%04x)", row, c,
                                  d->from->dtype == DTYPE_F16 ? "F16" : "BF16", bits16);
        }
    }
    return err_set(e, ERR_FORMAT, "row %" PRIu64 " has a value that is not finite", row);
}

/* past_bits: the least magnitude that the target, called `range`, cannot hold. */
static bool refuse_fp8(const struct decoder *d, uint64_t row, uint32_t past_bits, const char *range, struct err *e)
{
    const uint8_t *codes = decoder_codes(d, row);

    for (uint64_t c = 0; c < d->cols; c++) {
        float scale = d->scales[c / d->block_cols], x = e4m3_value(codes[c]) * scale;
        if (!isfinite(x))
            return err_broken(e, ERR_FORMAT, value_rule(isnan(x)),
                              "value at row %" PRIu64 ", column %" PRIu64 " is not finite (code 0x%02x, scale %g)", row,
                              c, codes[c], (double)scale);
        if ((float_bits(x) & 0x7FFFFFFFu) >= past_bits)
            return err_set(e, ERR_FORMAT, "value at row %" PRIu64 ", column %" PRIu64 " is past %s's range (%g)", row,
                           c, range, (double)x);
    }
    return err_set(e, ERR_FORMAT, "row %" PRIu64 " has a value that is not finite", row);
}

static bool decode_plain(struct decoder *d, uint64_t row, uint64_t col, uint64_t cols, float *x, struct err *e)
{
    const void *codes = decoder_codes(d, row);
    const uint16_t *halves = (const uint16_t *)codes + col;
    const struct kernel *k = d->kernel;
    bool finite;

    if (d->from->dtype == DTYPE_F32) {
        memcpy(x, (const float *)codes + col, cols * sizeof *x);
        finite = k->f32_check(x, cols);
    } else if (d->from->dtype == DTYPE_F16) {
        finite = k->f16_decode(x, halves, cols);
    } else {
        finite = k->bf16_decode(x, halves, cols);
    }
    return finite || refuse_plain(d, row, e);
}

static bool decode_fp8(struct decoder *d, uint64_t row, uint64_t col, uint64_t cols, float *x, struct err *e)
{
    if (!decoder_load_scales(d, row, e))
        return false;
    const uint8_t *codes = (const uint8_t *)decoder_codes(d, row) + col;
    const float *scales = d->scales + col / d->block_cols;
    uint64_t left = d->block_cols - col % d->block_cols, run = left < cols ? left : cols;
    bool finite = true;

    if (left < d->block_cols) { /* what is left of a block */
        finite = d->kernel->e4m3_decode(x, codes, run, scales++, run);
        codes += run;
        x += run;
        cols -= run;
    }
    finite &= d->kernel->e4m3_decode(x, codes, cols, scales, d->block_cols);
    return finite || refuse_fp8(d, row, UINT32_MAX, "", e);
}

bool decode_row_to_bf16(struct decoder *d, uint64_t row, uint16_t *out, struct err *e)
{
    if (!decoder_load_scales(d, row, e))
        return false;
    return d->kernel->e4m3_to_bf16(out, decoder_codes(d, row), d->cols, d->scales, d->block_cols) ||
           refuse_fp8(d, row, 0x7F7F8000u, "BF16", e);
}

/* Zero points of groups [first, end). They lie packed along rows: word (r, g) holds rows 8r .. 8r+7, each + 8. */
static void unpack_zeros(struct decoder *d, uint64_t row, uint64_t first, uint64_t end)
{
    uint64_t groups = decoder_scales(d->from, d->cols);
    const uint32_t *words = (const uint32_t *)d->in->part[PART_ZERO_POINT] + (row - d->row) / 8 * groups;
    uint32_t shift = (uint32_t)(row % 8 * 4);

    for (uint64_t g = first; g < end; g++)
        d->zeros[g] = (int8_t)((int)(words[g] >> shift & 15) - 8);
}

/* int4_decode multiplies by BF16 scales; other scales multiply afterwards, what decoding with 1.0 leaves exact. */
static void apply_scales(float *x, const float *scales, uint64_t groups, uint64_t group_cols)
{
    for (uint64_t g = 0; g < groups; g++)
        for (uint64_t c = g * group_cols; c < (g + 1) * group_cols; c++)
            x[c] *= scales[g];
}

/* `groups` runs of group_cols columns from col on, each with its scale, the first that of group `first`. */
static void decode_groups(const struct decoder *d, uint64_t row, uint64_t col, uint64_t first, uint64_t groups,
                          uint64_t group_cols, float *x)
{
    uint64_t words = (d->cols + 7) / 8, scales = decoder_scales(d->from, d->cols);
    bool bf16 = d->from->scale == SCALE_BF16;
    struct int4_rows q = {
        .words = (uint32_t *)d->in->part[PART_CODES] + (row - d->row) * words + col / 8,
        .scales = bf16 ? (uint16_t *)d->in->part[PART_SCALE] + (row - d->row) * scales + first : d->ones,
        .zeros = d->from->asymmetric ? d->zeros + first : NULL,
        .words_stride = words,
        .rows = 1,
        .cols = groups * group_cols,
        .group_cols = group_cols,
    };

    d->kernel->int4_decode(x, q.cols, &q);
    if (!bf16)
        apply_scales(x, d->scales + first, groups, group_cols);
}

/* Columns that begin or end inside a group are that group's alone. */
static void decode_int4_cols(const struct decoder *d, uint64_t row, uint64_t col, uint64_t cols, float *x)
{
    uint64_t each = d->block_cols, end = col + cols;

    while (col < end) {
        uint64_t left = each - col % each, groups = (end - col) / each, run = left < end - col ? left : end - col;
        if (left == each && groups > 0) {
            decode_groups(d, row, col, col / each, groups, each, x);
            run = groups * each;
        } else {
            decode_groups(d, row, col, col / each, 1, run, x);
        }
        col += run;
        x += run;
    }
}

static bool decode_int4(struct decoder *d, uint64_t row, uint64_t col, uint64_t cols, float *x, struct err *e)
{
    uint64_t first = col / d->block_cols, end = (col + cols + d->block_cols - 1) / d->block_cols;

    if (!decoder_load_scale_range(d, row, first, end, e))
        return false;
    if (d->from->asymmetric)
        unpack_zeros(d, row, first, end);
    decode_int4_cols(d, row, col, cols, x);

    /* 15 is the largest code, -8 - 7. Only a scale near the end of the range can make a product that is not finite. */
    if (d->kernel->absmax(d->scales + first, end - first) <= 0x1p123f || d->kernel->f32_check(x, cols))
        return true;
    uint64_t c = 0;
    while (isfinite(x[c]))
        c++;
    return err_broken(e, ERR_FORMAT, "value-inf",
                      "value at row %" PRIu64 ", column %" PRIu64 " is not finite (int4, scale %g)", row, col + c,
                      (double)d->scales[(col + c) / d->block_cols]);
}

bool decode_cols(struct decoder *d, uint64_t row, uint64_t col, uint64_t cols, float *x, struct err *e)
{
    assert(col % DECODE_COLS_MULTIPLE == 0 && col + cols <= d->cols);
    if (d->from->kind == SCHEME_PLAIN)
        return decode_plain(d, row, col, cols, x, e);
    if (d->from->kind == SCHEME_INT4)
        return decode_int4(d, row, col, cols, x, e);
    assert(scheme_is_fp8(d->from));
    return decode_fp8(d, row, col, cols, x, e);
}

void decoder_load_zeros(struct decoder *d, uint64_t row)
{
    unpack_zeros(d, row, 0, decoder_scales(d->from, d->cols));
}

bool decode_row(struct decoder *d, uint64_t row, float *x, struct err *e)
{
    return decode_cols(d, row, 0, d->cols, x, e);
}

size_t decode_scratch_bytes(const struct scheme *from, uint64_t cols)
{
    struct decoder d = {0};
    struct scratch s = {0};

    decoder_place(&d, from, cols, &s);
    return s.used_bytes;
}

bool decode_rows(const struct kernel *k, const struct scheme *from, uint64_t row, uint64_t count, uint64_t rows,
                 uint64_t cols, const struct slices *in, float *x, void *scratch, struct err *e)
{
    struct decoder d = {0};
    struct scratch s = {.base = scratch};

    assert(row + count <= rows && row % scheme_row_multiple(from) == 0);
    if (cols == 0)
        return true;
    decoder_place(&d, from, cols, &s);
    decoder_init(&d, k, row, in);
    for (uint64_t r = 0; r < count; r++)
        if (!decode_row(&d, row + r, x + r * cols, e))
            return false;
    return true;
}
