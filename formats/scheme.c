#include "formats/scheme.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const kind_names[SCHEME_KIND_COUNT] = {
    [SCHEME_RAW] = "raw",
    [SCHEME_PLAIN] = "plain",
    [SCHEME_FP8_BLOCK] = "fp8_block",
    [SCHEME_FP8_CHANNEL] = "fp8_channel",
    [SCHEME_FP8_TENSOR] = "fp8_tensor",
    [SCHEME_INT4] = "int4",
};

static const char *const method_names[METHOD_COUNT] = {
    [METHOD_COPY] = "copy",
    [METHOD_ROUND] = "round",
    [METHOD_ABSMAX] = "absmax",
    [METHOD_SEARCH] = "search",
    [METHOD_GPTQ] = "gptq",
    [METHOD_LDLQ] = "ldlq",
};

struct scale_info {
    enum dtype_id dtype;
    const char *word; /* in scheme_text, where the kind does not imply it */
};

static const struct scale_info scale_infos[] = {
    [SCALE_NONE] = {DTYPE_NONE, ""},         [SCALE_F32] = {DTYPE_F32, " f32"},
    [SCALE_F32_POW2] = {DTYPE_F32, " pow2"}, [SCALE_E8M0] = {DTYPE_F8_E8M0, " e8m0"},
    [SCALE_BF16] = {DTYPE_BF16, " bf16"},    [SCALE_F16] = {DTYPE_F16, " f16"},
};

const char *scheme_kind_name(enum scheme_kind kind)
{
    assert(kind < SCHEME_KIND_COUNT);
    return kind_names[kind];
}

bool method_is_calibrated(enum method method)
{
    return method == METHOD_GPTQ || method == METHOD_LDLQ;
}

bool scheme_is_calibrated(const struct scheme *s)
{
    return method_is_calibrated(s->method) || s->static_input;
}

const char *scheme_method_name(enum method method)
{
    assert(method < METHOD_COUNT);
    return method_names[method];
}

/* The scale that is meant when nothing is said. */
static enum scale_kind usual_scale(enum scheme_kind kind)
{
    return kind == SCHEME_INT4 ? SCALE_BF16 : SCALE_F32;
}

const char *scheme_text(const struct scheme *s, char text[SCHEME_TEXT])
{
    const char *scale = s->scale == usual_scale(s->kind) ? "" : scale_infos[s->scale].word;

    switch (s->kind) {
    case SCHEME_FP8_BLOCK:
        snprintf(text, SCHEME_TEXT, "fp8 %ux%u%s%s", s->block_rows, s->block_cols, s->compressed_tensors ? " ct" : "",
                 scale);
        break;
    case SCHEME_FP8_CHANNEL:
        snprintf(text, SCHEME_TEXT, "fp8 channel%s", scale);
        break;
    case SCHEME_FP8_TENSOR:
        snprintf(text, SCHEME_TEXT, "fp8 tensor%s", scale);
        break;
    case SCHEME_INT4:
        if (s->group_cols > 0)
            snprintf(text, SCHEME_TEXT, "int4 g%u%s%s", s->group_cols, s->asymmetric ? " asym" : "", scale);
        else
            snprintf(text, SCHEME_TEXT, "int4 channel%s%s", s->asymmetric ? " asym" : "", scale);
        break;
    case SCHEME_RAW:
    case SCHEME_PLAIN:
    case SCHEME_KIND_COUNT:
        snprintf(text, SCHEME_TEXT, "%s", dtype_get(s->dtype)->name);
        break;
    }
    return text;
}

bool scheme_same_storage(const struct scheme *a, const struct scheme *b)
{
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case SCHEME_FP8_BLOCK:
        return a->scale == b->scale && a->block_rows == b->block_rows && a->block_cols == b->block_cols &&
               a->compressed_tensors == b->compressed_tensors;
    case SCHEME_FP8_CHANNEL:
    case SCHEME_FP8_TENSOR:
        return a->scale == b->scale;
    case SCHEME_INT4:
        return a->scale == b->scale && a->group_cols == b->group_cols && a->asymmetric == b->asymmetric &&
               a->shape_i64 == b->shape_i64;
    case SCHEME_RAW:
    case SCHEME_PLAIN:
    case SCHEME_KIND_COUNT:
        break;
    }
    return a->dtype == b->dtype;
}

/* ---- sizes ---- */

static uint64_t ceil_div(uint64_t n, uint64_t by)
{
    return n / by + (n % by != 0);
}

static bool is_fp8(enum scheme_kind kind)
{
    return kind == SCHEME_FP8_BLOCK || kind == SCHEME_FP8_CHANNEL || kind == SCHEME_FP8_TENSOR;
}

/* Scales (or groups) along one row. */
static uint64_t scale_cols(const struct scheme *s, uint64_t cols)
{
    if (s->kind == SCHEME_FP8_BLOCK)
        return ceil_div(cols, s->block_cols);
    if (s->kind == SCHEME_INT4 && s->group_cols > 0)
        return cols / s->group_cols;
    return 1;
}

/* Bytes of `count` elements whose number is known to make whole blocks and to be in range. */
static uint64_t elems_bytes(enum dtype_id id, uint64_t count)
{
    const struct dtype *d = dtype_get(id);

    return d->block_elems > 0 ? count / d->block_elems * d->block_bytes : 0;
}

/* ---- layout ---- */

static bool part_set(struct part_layout *p, const char *suffix, enum dtype_id dtype, uint32_t rank, uint64_t d0,
                     uint64_t d1, struct err *e)
{
    uint64_t elems = 0;

    *p = (struct part_layout){.present = true, .suffix = suffix, .dtype = dtype, .rank = rank, .dims = {d0, d1}};
    if (rank == 1) {
        p->dims[1] = 0;
        d1 = 1;
    }
    if (__builtin_mul_overflow(d0, d1, &elems) || !dtype_bytes(dtype, elems, &p->bytes))
        return err_set(e, ERR_LIMIT, "a matrix of %" PRIu64 " x %" PRIu64 " %s is past any size", d0, d1,
                       dtype_get(dtype)->name);
    return true;
}

static bool fp8_layout(const struct scheme *s, uint64_t rows, uint64_t cols, struct part_layout parts[PART_COUNT],
                       struct err *e)
{
    enum dtype_id scale = scale_infos[s->scale].dtype;
    struct part_layout *p = &parts[PART_SCALE];

    if (!part_set(&parts[PART_CODES], ".weight", DTYPE_F8_E4M3, 2, rows, cols, e))
        return false;
    if (s->static_input && !part_set(&parts[PART_INPUT_SCALE], ".input_scale", DTYPE_F32, 1, 1, 0, e))
        return false;
    if (s->kind == SCHEME_FP8_TENSOR)
        return part_set(p, ".weight_scale", scale, 1, 1, 0, e);
    if (s->kind == SCHEME_FP8_CHANNEL)
        return part_set(p, ".weight_scale", scale, 2, rows, 1, e);
    return part_set(p, s->compressed_tensors ? ".weight_scale" : ".weight_scale_inv", scale, 2,
                    ceil_div(rows, s->block_rows), scale_cols(s, cols), e);
}

/* "32, 64" into text: the usual groups that divide a width. */
static const char *fitting_groups(uint64_t cols, char text[64])
{
    static const unsigned groups[] = {16, 32, 64, 128, 256};
    int used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
        if (cols % groups[i] == 0)
            used += snprintf(text + used, 64 - (size_t)used, "%s%u", used ? ", " : "", groups[i]);
    return used ? text : "none, but one group per row";
}

static bool int4_layout(const struct scheme *s, uint64_t rows, uint64_t cols, struct part_layout parts[PART_COUNT],
                        struct err *e)
{
    char groups[64];

    if (s->group_cols > 0 && cols % s->group_cols != 0)
        return err_set(e, ERR_UNSUPPORTED, "group %u does not divide the width %" PRIu64 " (groups that fit: %s)",
                       s->group_cols, cols, fitting_groups(cols, groups));
    if (!part_set(&parts[PART_CODES], ".weight_packed", DTYPE_I32, 2, rows, ceil_div(cols, 8), e) ||
        !part_set(&parts[PART_SCALE], ".weight_scale", scale_infos[s->scale].dtype, 2, rows, scale_cols(s, cols), e) ||
        !part_set(&parts[PART_SHAPE], ".weight_shape", s->shape_i64 ? DTYPE_I64 : DTYPE_I32, 1, 2, 0, e))
        return false;
    return !s->asymmetric || part_set(&parts[PART_ZERO_POINT], ".weight_zero_point", DTYPE_I32, 2, ceil_div(rows, 8),
                                      scale_cols(s, cols), e);
}

bool scheme_layout(const struct scheme *s, uint64_t rows, uint64_t cols, struct part_layout parts[PART_COUNT],
                   struct err *e)
{
    memset(parts, 0, PART_COUNT * sizeof *parts);
    if (is_fp8(s->kind))
        return fp8_layout(s, rows, cols, parts, e);
    if (s->kind == SCHEME_INT4)
        return int4_layout(s, rows, cols, parts, e);
    return part_set(&parts[PART_CODES], ".weight", s->dtype, 2, rows, cols, e);
}

/* ---- slices ---- */

uint32_t scheme_row_multiple(const struct scheme *s)
{
    if (s->kind == SCHEME_FP8_BLOCK)
        return s->block_rows;
    return s->kind == SCHEME_INT4 && s->asymmetric ? 8 : 1;
}

/* Bytes of a part's first `row` rows of the matrix; a started block of rows counts. */
static uint64_t bytes_before(const struct scheme *s, enum part part, uint64_t cols, uint64_t row)
{
    if (part == PART_CODES) {
        if (is_fp8(s->kind))
            return row * cols;
        return s->kind == SCHEME_INT4 ? row * ceil_div(cols, 8) * 4 : elems_bytes(s->dtype, row * cols);
    }
    if (part == PART_ZERO_POINT)
        return ceil_div(row, 8) * scale_cols(s, cols) * 4;
    if (s->kind == SCHEME_FP8_BLOCK)
        row = ceil_div(row, s->block_rows);
    return elems_bytes(scale_infos[s->scale].dtype, row * scale_cols(s, cols));
}

static bool has_part(const struct scheme *s, enum part part)
{
    if (part == PART_ZERO_POINT)
        return s->kind == SCHEME_INT4 && s->asymmetric;
    if (part == PART_SCALE)
        return s->kind == SCHEME_INT4 || is_fp8(s->kind);
    return part == PART_CODES;
}

void scheme_slice(const struct scheme *s, enum part part, uint64_t rows, uint64_t cols, uint64_t row, uint64_t count,
                  uint64_t *offset, uint64_t *bytes)
{
    assert(row <= rows && count <= rows - row);
    assert(row % scheme_row_multiple(s) == 0 || count == 0);
    assert((row + count) % scheme_row_multiple(s) == 0 || row + count == rows || count == 0);
    *offset = *bytes = 0;
    if (part == PART_INPUT_SCALE && s->static_input)
        *bytes = elems_bytes(DTYPE_F32, 1);
    if (!has_part(s, part))
        return;
    if (part == PART_SCALE && s->kind == SCHEME_FP8_TENSOR) {
        *bytes = elems_bytes(scale_infos[s->scale].dtype, 1);
        return;
    }
    *offset = bytes_before(s, part, cols, row);
    *bytes = bytes_before(s, part, cols, row + count) - *offset;
}

uint32_t scheme_col_multiple(const struct scheme *s)
{
    if (s->kind == SCHEME_FP8_BLOCK)
        return s->block_cols;
    if (s->kind != SCHEME_INT4)
        return 1;
    uint32_t group = s->group_cols > 0 ? s->group_cols : 1;
    return group % 8 == 0 ? group : 8 % group == 0 ? 8 : 8 * group;
}

/* Bytes of the first `col` columns in one line of a part. */
static uint64_t bytes_left_of(const struct scheme *s, enum part part, uint64_t col)
{
    if (part == PART_CODES) {
        if (is_fp8(s->kind))
            return col;
        return s->kind == SCHEME_INT4 ? ceil_div(col, 8) * 4 : elems_bytes(s->dtype, col);
    }
    uint64_t scales = scale_cols(s, col);
    return part == PART_ZERO_POINT ? scales * 4 : elems_bytes(scale_infos[s->scale].dtype, scales);
}

struct scheme_window scheme_window(const struct scheme *s, enum part part, uint64_t rows, uint64_t cols, uint64_t row,
                                   uint64_t count, uint64_t col, uint64_t width)
{
    struct scheme_window w = {0};
    uint64_t bytes = 0;

    scheme_slice(s, part, rows, cols, row, count, &w.offset, &bytes);
    if (bytes == 0 || width == 0)
        return (struct scheme_window){0};
    assert(col % scheme_col_multiple(s) == 0 && (width == cols - col || (col + width) % scheme_col_multiple(s) == 0));
    bool one_line = width == cols || (part == PART_SCALE && s->kind == SCHEME_FP8_TENSOR);
    w.stride_bytes = one_line ? bytes : bytes_left_of(s, part, cols);
    w.lines = bytes / w.stride_bytes;
    /* A scale for all columns stands in every window of them. */
    bool shared = part != PART_CODES && (s->kind == SCHEME_FP8_CHANNEL || (s->kind == SCHEME_INT4 && !s->group_cols));
    if (one_line || shared) {
        w.line_bytes = w.stride_bytes;
        return w;
    }
    uint64_t before = bytes_left_of(s, part, col);
    w.offset += before;
    w.line_bytes = bytes_left_of(s, part, col + width) - before;
    return w;
}

double scheme_bits_per_weight(const struct scheme *s, uint64_t rows, uint64_t cols)
{
    uint64_t sum = 0;

    if (rows == 0 || cols == 0)
        return 0;
    for (enum part part = PART_CODES; part < PART_SHAPE; part++) {
        uint64_t offset, bytes;
        scheme_slice(s, part, rows, cols, 0, rows, &offset, &bytes);
        sum += bytes;
    }
    return (double)sum * 8 / ((double)rows * (double)cols);
}
