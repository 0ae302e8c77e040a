/* FP8 targets:
 *
 *   by channel   the row's largest magnitude, then codes
 *   by tensor    codes, by the scale that is given: it is not to be known from some rows
 *   in blocks    a pass over the block's rows for the largest magnitudes, then one for the codes; the second decoding
 *                costs less than keeping 128 float rows outside the cache
 *
 * Blocks whose scale the target can hold as it is keep their codes. */
#include <float.h>
#include <inttypes.h>
#include <string.h>

#include "quant/bf16.h"
#include "quant/bits.h"
#include "quant/transform_private.h"

/* ---- scales ---- */

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

/* ---- rows ---- */

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
        transform_add_error(w, t->kernel->row_error(w->x, w->x, t->cols));
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
    transform_add_error(w, t->kernel->row_error(w->x, w->y, t->cols));
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

bool transform_fp8_tensor(struct work *w, struct err *e)
{
    w->scales[0] = w->t->tensor_scale;
    w->kept[0] = false;
    store_scales(w, 0);
    for (uint64_t r = 0; r < w->count; r++)
        if (!fp8_row(w, w->row + r, false, e))
            return false;
    return true;
}

bool transform_fp8(struct work *w, struct err *e)
{
    uint64_t each = w->t->to.kind == SCHEME_FP8_BLOCK ? w->t->to.block_rows : 1;

    for (uint64_t r = 0; r < w->count; r += each) {
        uint64_t rows = w->count - r < each ? w->count - r : each;
        if (!fp8_block_rows(w, w->row + r, rows, r / each, e))
            return false;
    }
    return true;
}

float transform_tensor_scale(float most)
{
    static const struct scheme tensor = {.kind = SCHEME_FP8_TENSOR, .scale = SCALE_F32};

    return target_scale(&tensor, most);
}
