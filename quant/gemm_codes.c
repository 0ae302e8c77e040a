#include "quant/gemm_codes.h"

#include <string.h>

void gemm_coder_place(struct gemm_coder *c, uint64_t cols, struct scratch *s)
{
    uint64_t panel = GEMM_ROWS * (GEMM_COLS / GEMM_CODED_COLS), rows = GEMM_CODER_ROWS * (cols / GEMM_CODED_COLS + 1);

    c->scales = scratch_take(s, (panel > rows ? panel : rows) * sizeof *c->scales);
}

/* Whether a group's columns can be worked in whole vectors, from col on. */
static bool groups_fit(uint64_t group, uint64_t col, size_t cols)
{
    if (group % GEMM_CODED_COLS != 0 || cols % GEMM_CODED_COLS != 0)
        return false;
    return col % group == 0 || col / group == (col + cols - 1) / group;
}

bool gemm_coding_find(const struct scheme *s, enum gemm_coding *coding)
{
    if (s->kind == SCHEME_PLAIN && (s->dtype == DTYPE_F32 || s->dtype == DTYPE_BF16))
        *coding = s->dtype == DTYPE_F32 ? GEMM_F32 : GEMM_BF16;
    else if (scheme_is_fp8(s))
        *coding = GEMM_E4M3;
    else if (s->kind == SCHEME_INT4 && !s->asymmetric)
        *coding = GEMM_INT4;
    else
        return false;
    return true;
}

/* Scales that all rows share: a row of blocks, or the one of the matrix. */
static bool share_scales(struct decoder *d, uint64_t row, size_t rows, uint64_t first, struct gemm_codes *codes)
{
    struct err e = {0};
    uint64_t each = d->from->block_rows;

    if (d->from->kind == SCHEME_FP8_BLOCK && row / each != (row + rows - 1) / each)
        return false;
    codes->scales = d->scales + first;
    codes->scales_stride = 0;
    return decoder_load_scales(d, row, &e);
}

/* Each row's own, side by side. */
static bool gather_scales(struct gemm_coder *c, struct decoder *d, uint64_t row, size_t rows, uint64_t first,
                          uint64_t end, struct gemm_codes *codes)
{
    size_t count = end - first;
    struct err e = {0};

    for (size_t r = 0; r < rows; r++) {
        if (!decoder_load_scale_range(d, row + r, first, end, &e))
            return false;
        memcpy(c->scales + r * count, d->scales + first, count * sizeof *c->scales);
    }
    codes->scales = c->scales;
    codes->scales_stride = count;
    return true;
}

bool gemm_coder_locate(const struct decoder *d, uint64_t row, uint64_t col, struct gemm_codes *codes)
{
    static const uint8_t bits[GEMM_CODING_COUNT] = {
        [GEMM_F32] = 32, [GEMM_BF16] = 16, [GEMM_E4M3] = 8, [GEMM_INT4] = 4};

    if (!gemm_coding_find(d->from, &codes->coding))
        return false;
    uint64_t row_bits = d->cols * bits[codes->coding];
    codes->row_bytes = codes->coding == GEMM_INT4 ? (row_bits + 31) / 32 * 4 : row_bits / 8;
    codes->codes =
        (const uint8_t *)d->in->part[PART_CODES] + (row - d->row) * codes->row_bytes + col * bits[codes->coding] / 8;
    return true;
}

bool gemm_coder_read(struct gemm_coder *c, struct decoder *d, uint64_t row, size_t rows, uint64_t col, size_t cols,
                     struct gemm_codes *codes, bool *past)
{
    uint64_t group = d->block_cols, first = col / group, end = (col + cols + group - 1) / group;
    bool shared = d->from->kind == SCHEME_FP8_BLOCK || d->from->kind == SCHEME_FP8_TENSOR, ok;

    if (!groups_fit(group, col, cols) || !gemm_coder_locate(d, row, col, codes))
        return false;
    codes->group_cols = group < cols ? group : cols;
    codes->scales = NULL;
    codes->scales_stride = 0;
    *past = false;
    if (d->from->scale == SCALE_NONE)
        return true;
    ok = shared ? share_scales(d, row, rows, first, codes) : gather_scales(c, d, row, rows, first, end, codes);
    size_t count = shared ? end - first : rows * codes->scales_stride;
    *past = ok && d->kernel->absmax(codes->scales, count) > GEMM_SCALE_MAX;
    return ok;
}

bool gemm_coder_describe(struct gemm_coder *c, struct decoder *d, uint64_t row, size_t rows, uint64_t col, size_t cols,
                         struct gemm_codes *codes)
{
    bool past;

    return gemm_coder_read(c, d, row, rows, col, cols, codes, &past) && !past;
}
