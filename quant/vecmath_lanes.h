/* The vector forms of vecmath_ref.c, over sixteen lanes at a time, for
 * vecmath_avx2.c and vecmath_avx512.c: each defines, before it includes this,
 *
 *     v16     sixteen floats      v_load v_load_n v_store v_store_n v_set1
 *                                 v_add v_sub v_mul v_div v_fma
 *                                 v_max(a, b)    a > b ? a : b
 *                                 v_min(a, b)    a < b ? a : b
 *                                 v_first(n, a, b)   lanes < n of a, the others of b
 *                                 v_fold v_fold_max  as trees: 8, 4, 2, 1
 *                                 v_times_pow2(p, shifted)   p 2^n, see exp.h
 *                                 v_round_bf16
 *     v16d    sixteen doubles     d_zero d_add d_mul d_of(v16) d_first d_fold
 *
 * and VECMATH, the name of its table. Loads of n lanes give 0 in the others. */
#include <math.h>

#include "quant/exp.h"
#include "quant/vecmath.h"

#define LANES 16u

static float vec_max(const float *x, size_t n)
{
    v16 most = v_set1(-INFINITY);
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        most = v_max(v_load(x + i), most);
    if (i < n)
        most = v_first(n - i, v_max(v_load_n(x + i, n - i), most), most);
    return v_fold_max(most);
}

static float vec_dot(const float *x, const float *y, size_t n)
{
    v16 sum = v_set1(0.0f);
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        sum = v_fma(v_load(x + i), v_load(y + i), sum);
    if (i < n)
        sum = v_first(n - i, v_fma(v_load_n(x + i, n - i), v_load_n(y + i, n - i), sum), sum);
    return v_fold(sum);
}

/* Four rows hide the latency of one. */
static void vec_dots4(float *y, const float *x, const float *rows, size_t stride, size_t n)
{
    v16 sum[4] = {v_set1(0.0f), v_set1(0.0f), v_set1(0.0f), v_set1(0.0f)};
    size_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        v16 a = v_load(x + i);
        UNROLL
        for (size_t j = 0; j < 4; j++)
            sum[j] = v_fma(a, v_load(rows + j * stride + i), sum[j]);
    }
    if (i < n) {
        v16 a = v_load_n(x + i, n - i);
        UNROLL
        for (size_t j = 0; j < 4; j++)
            sum[j] = v_first(n - i, v_fma(a, v_load_n(rows + j * stride + i, n - i), sum[j]), sum[j]);
    }
    UNROLL
    for (size_t j = 0; j < 4; j++)
        y[j] = v_fold(sum[j]);
}

static void vec_dots(float *y, const float *x, const float *rows, size_t stride, size_t count, size_t n)
{
    size_t j = 0;

    for (; j + 4 <= count; j += 4)
        vec_dots4(y + j, x, rows + j * stride, stride, n);
    for (; j < count; j++)
        y[j] = vec_dot(x, rows + j * stride, n);
}

static double vec_sum2(const float *x, size_t n)
{
    v16d sum = d_zero();
    size_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        v16d a = d_of(v_load(x + i));
        sum = d_add(sum, d_mul(a, a));
    }
    if (i < n) {
        v16d a = d_of(v_load_n(x + i, n - i)); /* adding 0 to a sum of squares changes nothing */
        sum = d_add(sum, d_mul(a, a));
    }
    return d_fold(sum);
}

/* y[i] = body, of a = x[i] and b = z[i]; the last lanes are a partial vector. */
#define MAP(y, x, z, n, body)                                                                                          \
    do {                                                                                                               \
        size_t i_ = 0;                                                                                                 \
        for (; i_ + LANES <= (n); i_ += LANES) {                                                                       \
            v16 a = v_load((x) + i_), b = v_load((z) + i_);                                                            \
            (void)b;                                                                                                   \
            v_store((y) + i_, (body));                                                                                 \
        }                                                                                                              \
        if (i_ < (n)) {                                                                                                \
            v16 a = v_load_n((x) + i_, (n)-i_), b = v_load_n((z) + i_, (n)-i_);                                        \
            (void)b;                                                                                                   \
            v_store_n((y) + i_, (body), (n)-i_);                                                                       \
        }                                                                                                              \
    } while (0)

static void vec_add(float *y, const float *x, size_t n)
{
    MAP(y, y, x, n, v_add(a, b));
}

static void vec_scale(float *y, const float *x, float s, size_t n)
{
    MAP(y, x, x, n, v_mul(a, v_set1(s)));
}

static void vec_fma(float *y, float s, const float *x, size_t n)
{
    MAP(y, x, y, n, v_fma(v_set1(s), a, b));
}

#define SPAN (4 * LANES)

/* A span of y stays in registers while the rows go by. */
static void vec_rows_fma(float *y, const float *a, const float *rows, size_t stride, size_t count, size_t n)
{
    size_t i = 0;

    for (; i + SPAN <= n; i += SPAN) {
        v16 sum[4];
        UNROLL
        for (size_t q = 0; q < 4; q++)
            sum[q] = v_load(y + i + q * LANES);
        for (size_t j = 0; j < count; j++) {
            v16 s = v_set1(a[j]);
            UNROLL
            for (size_t q = 0; q < 4; q++)
                sum[q] = v_fma(s, v_load(rows + j * stride + i + q * LANES), sum[q]);
        }
        UNROLL
        for (size_t q = 0; q < 4; q++)
            v_store(y + i + q * LANES, sum[q]);
    }
    for (size_t j = 0; i < n && j < count; j++)
        vec_fma(y + i, a[j], rows + j * stride + i, n - i);
}

static void vec_rms_norm(float *y, const float *x, const float *w, size_t n, double eps)
{
    v16 s = v_set1((float)(1.0 / sqrt(vec_sum2(x, n) / (double)n + eps)));

    MAP(y, x, w, n, v_mul(v_mul(a, s), b));
}

ALWAYS_INLINE v16 exp16(v16 x)
{
    x = v_max(v_set1(EXP_MIN), v_min(v_set1(EXP_MAX), x));

    v16 shifted = v_fma(x, v_set1(EXP_LOG2E), v_set1(EXP_SHIFT)), n = v_sub(shifted, v_set1(EXP_SHIFT));
    v16 r = v_fma(n, v_set1(-EXP_LN2_LOW), v_fma(n, v_set1(-EXP_LN2_HIGH), x));
    v16 p = v_fma(v_set1(EXP_C6), r, v_set1(EXP_C5));
    p = v_fma(p, r, v_set1(EXP_C4));
    p = v_fma(p, r, v_set1(EXP_C3));
    p = v_fma(p, r, v_set1(EXP_C2));
    p = v_add(v_fma(p, v_mul(r, r), r), v_set1(1.0f));
    return v_times_pow2(p, shifted);
}

static void vec_exp(float *y, const float *x, size_t n)
{
    MAP(y, x, x, n, exp16(a));
}

static double vec_exp_sum(float *y, const float *x, float max, size_t n)
{
    v16d sum = d_zero();
    size_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        v16 a = exp16(v_sub(v_load(x + i), v_set1(max)));
        v_store(y + i, a);
        sum = d_add(sum, d_of(a));
    }
    if (i < n) {
        v16 a = exp16(v_sub(v_load_n(x + i, n - i), v_set1(max)));
        v_store_n(y + i, a, n - i);
        sum = d_add(sum, d_of(v_first(n - i, a, v_set1(0.0f))));
    }
    return d_fold(sum);
}

/* A product with -1 is -x, zeros included. */
ALWAYS_INLINE v16 one_plus_exp_minus(v16 x)
{
    return v_add(v_set1(1.0f), exp16(v_mul(x, v_set1(-1.0f))));
}

static void vec_sigmoid(float *y, const float *x, size_t n)
{
    MAP(y, x, x, n, v_div(v_set1(1.0f), one_plus_exp_minus(a)));
}

static void vec_silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    MAP(y, gate, up, n, v_mul(v_div(a, one_plus_exp_minus(a)), b));
}

static void vec_round_bf16(float *y, const float *x, size_t n)
{
    MAP(y, x, x, n, v_round_bf16(a));
}

const struct vecmath VECMATH = {
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
