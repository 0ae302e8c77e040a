#include "quant/vecmath.h"

#include <math.h>

#include "quant/bits.h"
#include "quant/exp.h"

static float fold(float lanes[16])
{
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static double fold64(double lanes[16])
{
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

/* What MAXPS does: the second when they are equal or one is NaN. */
static float larger(float a, float b)
{
    return a > b ? a : b;
}

static float vec_max(const float *x, size_t n)
{
    float lanes[16];

    for (size_t l = 0; l < 16; l++)
        lanes[l] = -INFINITY;
    for (size_t i = 0; i < n; i++)
        lanes[i % 16] = larger(x[i], lanes[i % 16]);
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] = larger(lanes[l + half], lanes[l]);
    return lanes[0];
}

static float vec_dot(const float *x, const float *y, size_t n)
{
    float lanes[16] = {0};

    for (size_t i = 0; i < n; i++)
        lanes[i % 16] = fmaf(x[i], y[i], lanes[i % 16]);
    return fold(lanes);
}

static void vec_dots(float *y, const float *x, const float *rows, size_t stride, size_t count, size_t n)
{
    for (size_t j = 0; j < count; j++)
        y[j] = vec_dot(x, rows + j * stride, n);
}

static double vec_sum2(const float *x, size_t n)
{
    double lanes[16] = {0};

    for (size_t i = 0; i < n; i++)
        lanes[i % 16] += (double)x[i] * (double)x[i];
    return fold64(lanes);
}

static void vec_add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void vec_scale(float *y, const float *x, float a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * a;
}

static void vec_fma(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void vec_rows_fma(float *y, const float *a, const float *rows, size_t stride, size_t count, size_t n)
{
    for (size_t j = 0; j < count; j++)
        vec_fma(y, a[j], rows + j * stride, n);
}

static void vec_rms_norm(float *y, const float *x, const float *w, size_t n, double eps)
{
    float s = (float)(1.0 / sqrt(vec_sum2(x, n) / (double)n + eps));

    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * s * w[i];
}

/* Quarter ulps are lost in the polynomial, the rest in its last addition. */
static float exp_one(float x)
{
    x = EXP_MAX < x ? EXP_MAX : x;
    x = EXP_MIN > x ? EXP_MIN : x;

    float shifted = fmaf(x, EXP_LOG2E, EXP_SHIFT), n = shifted - EXP_SHIFT;
    float r = fmaf(n, -EXP_LN2_LOW, fmaf(n, -EXP_LN2_HIGH, x));
    float p = fmaf(fmaf(fmaf(fmaf(EXP_C6, r, EXP_C5), r, EXP_C4), r, EXP_C3), r, EXP_C2);
    p = fmaf(p, r * r, r) + 1.0f;

    /* 2^n in two factors, so that neither leaves the normal range. */
    int32_t power = (int32_t)(float_bits(shifted) - float_bits(EXP_SHIFT));
    int32_t half = power >> 1, rest = power - half;
    return p * bits_float((uint32_t)(half + 127) << 23) * bits_float((uint32_t)(rest + 127) << 23);
}

static void vec_exp(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = exp_one(x[i]);
}

static double vec_exp_sum(float *y, const float *x, float max, size_t n)
{
    double lanes[16] = {0};

    for (size_t i = 0; i < n; i++) {
        y[i] = exp_one(x[i] - max);
        lanes[i % 16] += (double)y[i];
    }
    return fold64(lanes);
}

static void vec_sigmoid(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = 1.0f / (1.0f + exp_one(-x[i]));
}

static void vec_silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + exp_one(-gate[i])) * up[i];
}

static void vec_round_bf16(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = float_bits(x[i]);
        uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1);
        y[i] = bits_float((isnan(x[i]) ? bits | 0x400000u : rounded) & 0xFFFF0000u);
    }
}

const struct vecmath vecmath_ref = {
    .max = vec_max,
    .dot = vec_dot,
    .dots = vec_dots,
    .sum2 = vec_sum2,
    .add = vec_add,
    .scale = vec_scale,
    .fma = vec_fma,
    .rows_fma = vec_rows_fma,
    .rms_norm = vec_rms_norm,
    .exp = vec_exp,
    .exp_sum = vec_exp_sum,
    .sigmoid = vec_sigmoid,
    .silu_mul = vec_silu_mul,
    .round_bf16 = vec_round_bf16,
};
