/* Float32 vectors of a forward pass. k->vec holds the variant of a kernel
 * table; each gives the reference's bits (vecmath_ref.c), because every element
 * is made by the same IEEE operations, FMA where the formula below writes fma,
 * and every sum has this order: sixteen lanes, lane = index % 16, index
 * ascending, from +0, folded as a tree (l + l+8, then 4, 2, 1).
 *
 * y may be the same array as an input, else they do not overlap. Nothing here
 * allocates or keeps state. NaN goes through to the elements it touches. */
#ifndef QUANT_VECMATH_H
#define QUANT_VECMATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/kernel.h"

struct vecmath {
    /* ---- sums ---- */
    float (*max)(const float *x, size_t n);                 /* -infinity for n = 0; NaN is passed over */
    float (*dot)(const float *x, const float *y, size_t n); /* lanes by fma: the order of quant/gemm.h */
    /* y[j] = dot(x, rows + j * stride): attention scores of one query. */
    void (*dots)(float *y, const float *x, const float *rows, size_t stride, size_t count, size_t n);
    double (*sum2)(const float *x, size_t n); /* sum of x^2 in float64 lanes */

    /* ---- rows ---- */
    void (*add)(float *y, const float *x, size_t n);            /* y += x */
    void (*scale)(float *y, const float *x, float a, size_t n); /* y = x a */
    void (*fma)(float *y, float a, const float *x, size_t n);   /* y = fma(a, x, y) */
    /* y[i] = fma(a[j], rows[j * stride + i], y[i]) for j ascending: attention's sum of values, experts' outputs. */
    void (*rows_fma)(float *y, const float *a, const float *rows, size_t stride, size_t count, size_t n);
    /* y = (x * s) * w with s = (float)(1 / sqrt(sum2(x) / n + eps)), s in float64 until then. */
    void (*rms_norm)(float *y, const float *x, const float *w, size_t n, double eps);

    /* ---- functions; the errors were measured over every float32 (vecmath_test.c walks a sample) ---- */
    void (*exp)(float *y, const float *x, size_t n); /* at most 1 ulp; 0 and infinity past the ends */
    /* y = exp(x - max); returns the sum of y in float64 lanes. A softmax over pieces carries (max, sum, output) and
     * scales the latter two by exp(old max - new max) when the maximum moves. */
    double (*exp_sum)(float *y, const float *x, float max, size_t n);
    void (*sigmoid)(float *y, const float *x, size_t n);                      /* 1 / (1 + exp(-x)) */
    void (*silu_mul)(float *y, const float *gate, const float *up, size_t n); /* gate / (1 + exp(-gate)) * up */
    void (*round_bf16)(float *y, const float *x, size_t n);                   /* to nearest even, still float32 */
};

extern const struct vecmath vecmath_ref, vecmath_avx2, vecmath_avx512;

/* y = softmax(x): max, exp_sum, then each divided by the sum through one float32 reciprocal. n > 0. */
void softmax(const struct kernel *k, float *y, const float *x, size_t n);

/* What an FP8 linear sees of its input: per 128 consecutive values (the last block may be shorter), scale =
 * max(|x|max, 1e-4) / 448, with pow2 rounded up to a power of two, and y = e4m3(x / scale) * scale, codes rounded to
 * nearest even. kernel.py of DeepSeek-V3 and, for pow2, of V3.2, whose product with 1/448 gives the same scale.
 * False: a value is not finite. */
bool fp8_activations(const struct kernel *k, float *y, const float *x, size_t n, bool pow2) CHECKED;
/* The same by a scale that was fixed before: y = e4m3(x / scale) * scale, what is past 448 scales cut off. */
bool fp8_static_activations(const struct kernel *k, float *y, const float *x, size_t n, float scale) CHECKED;

/* ---- float64 scalars, one set of bits on every machine: no libm, no fma ---- */

double math_exp(double x); /* within 1 ulp */
double math_log(double x); /* within 1 ulp; x > 0 */
/* cos and sin of theta, |theta| <= 2^20, within an ulp of float32 even at the zeros (rotary embeddings). */
void math_cos_sin(float theta, float *cosine, float *sine);

#endif
