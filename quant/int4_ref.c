/* Block int4: the specification. */
#include "quant/int4.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "quant/bits.h"

#define CODE_MIN (-8.0f)
#define CODE_MAX 7.0f
#define LANES    INT4_LANES

static float bf16_value(uint16_t code)
{
    return bits_float((uint32_t)code << 16);
}

static float clamp(float t, float lo, float hi)
{
    t = t > lo ? t : lo;
    return t < hi ? t : hi;
}

uint16_t int4_scale_code(float scale, bool asym)
{
    float magnitude = clamp(fabsf(scale), INT4_SCALE_MIN, asym ? INT4_SCALE_MAX_ASYM : INT4_SCALE_MAX);
    uint32_t bits = float_bits(magnitude);

    bits += 0x7FFF + (bits >> 16 & 1);
    return (uint16_t)(bits >> 16 | (signbit(scale) ? 0x8000 : 0));
}

void int4_decode_ref(float *x, size_t x_stride, const struct int4_rows *q)
{
    size_t groups = q->cols / q->group_cols;

    for (size_t row = 0; row < q->rows; row++) {
        const uint32_t *words = q->words + row * q->words_stride;

        for (size_t c = 0; c < q->cols; c++) {
            size_t group = row * groups + c / q->group_cols;
            int zero = q->zeros ? q->zeros[group] : 0;
            int code = (int)(words[c / 8] >> (4 * (c % 8)) & 15) - 8;

            x[row * x_stride + c] = (float)(code - zero) * bf16_value(q->scales[group]);
        }
    }
}

static float fold(const float lanes[LANES])
{
    float sums[LANES];

    memcpy(sums, lanes, sizeof sums);
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

struct row_error int4_sums_fold(const struct int4_sums *sums)
{
    return (struct row_error){.error2 = fold(sums->error2), .energy2 = fold(sums->energy2)};
}

/* The codes of group g, whose scale and zero point are there; w: its columns. */
static void round_group(const struct int4_rows *q, size_t row, size_t g, const float *w, struct int4_sums *sums)
{
    size_t at = row * (q->cols / q->group_cols) + g, begin = g * q->group_cols;
    float scale = bf16_value(q->scales[at]), zero = q->zeros ? (float)q->zeros[at] : 0.0f;
    uint32_t *words = q->words + row * q->words_stride + begin / 8;

    memset(words, 0, (q->group_cols + 7) / 8 * sizeof *words);
    for (size_t i = 0; i < q->group_cols; i++) {
        float code = nearbyintf(clamp(w[i] / scale + zero, CODE_MIN, CODE_MAX));
        float off = w[i] - (code - zero) * scale;

        words[i / 8] |= (uint32_t)((int)code + 8) << (4 * (i % 8));
        sums->error2[(begin + i) % LANES] += off * off;
        sums->energy2[(begin + i) % LANES] += w[i] * w[i];
    }
}

void int4_round_ref(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err)
{
    for (size_t row = 0; row < q->rows; row++) {
        struct int4_sums sums = {0};

        for (size_t g = 0; g < q->cols / q->group_cols; g++)
            round_group(q, row, g, x + row * x_stride + g * q->group_cols, &sums);
        err[row] = int4_sums_fold(&sums);
    }
}

static void absmax_symmetric(uint16_t *scale, const float *w, size_t n)
{
    float amax = 0;

    for (size_t j = 0; j < n; j++)
        amax = fabsf(w[j]) > amax ? fabsf(w[j]) : amax;
    *scale = int4_scale_code(amax > 0 ? amax / 7.5f : 1.0f, false);
}

static void absmax_asymmetric(uint16_t *scale, int8_t *zero, const float *w, size_t n)
{
    float min = 0, max = 0;

    for (size_t j = 0; j < n; j++) {
        min = w[j] < min ? w[j] : min;
        max = w[j] > max ? w[j] : max;
    }
    float range = max - min < FLT_MAX ? max - min : FLT_MAX;

    *scale = int4_scale_code(range > 0 ? range / 15.0f : 1.0f, true);
    *zero = range > 0 ? (int8_t)nearbyintf(clamp(CODE_MIN - min / bf16_value(*scale), CODE_MIN, CODE_MAX)) : 0;
}

void int4_group_ref(const struct int4_rows *q, size_t row, size_t g, const float *w, struct int4_sums *sums)
{
    size_t at = row * (q->cols / q->group_cols) + g;

    if (q->zeros)
        absmax_asymmetric(&q->scales[at], &q->zeros[at], w, q->group_cols);
    else
        absmax_symmetric(&q->scales[at], w, q->group_cols);
    round_group(q, row, g, w, sums);
}

void int4_absmax_ref(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err)
{
    for (size_t row = 0; row < q->rows; row++) {
        struct int4_sums sums = {0};

        for (size_t g = 0; g < q->cols / q->group_cols; g++)
            int4_group_ref(q, row, g, x + row * x_stride + g * q->group_cols, &sums);
        err[row] = int4_sums_fold(&sums);
    }
}
