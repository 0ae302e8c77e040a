/* What is made of the vector kernels, and the float64 scalars: series, and
 * reductions in two pieces (Cody and Waite), without libm and without fma. */
#include "quant/vecmath.h"

#include <math.h>
#include <string.h>

#include "quant/bits.h"

void softmax(const struct kernel *k, float *y, const float *x, size_t n)
{
    double sum = k->vec->exp_sum(y, x, k->vec->max(x, n), n);

    k->vec->scale(y, y, (float)(1.0 / sum), n);
}

#define ACTIVATION_BLOCK 128u
#define ACTIVATION_MIN   1e-4f

/* The next power of two, by the bits; s is normal. */
static float pow2_up(float s)
{
    return bits_float((float_bits(s) + 0x7FFFFFu) & 0x7F800000u);
}

bool fp8_activations(const struct kernel *k, float *y, const float *x, size_t n, bool pow2)
{
    for (size_t i = 0; i < n; i += ACTIVATION_BLOCK) {
        size_t count = n - i < ACTIVATION_BLOCK ? n - i : ACTIVATION_BLOCK;
        uint8_t codes[ACTIVATION_BLOCK];
        float most = k->absmax(x + i, count);
        if (!isfinite(most))
            return false;
        float scale = (most < ACTIVATION_MIN ? ACTIVATION_MIN : most) / 448.0f;
        if (pow2)
            scale = pow2_up(scale);
        k->e4m3_encode(codes, x + i, count, &scale, ACTIVATION_BLOCK);
        if (!k->e4m3_decode(y + i, codes, count, &scale, ACTIVATION_BLOCK))
            return false;
    }
    return true;
}

bool fp8_static_activations(const struct kernel *k, float *y, const float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i += ACTIVATION_BLOCK) {
        size_t count = n - i < ACTIVATION_BLOCK ? n - i : ACTIVATION_BLOCK;
        uint8_t codes[ACTIVATION_BLOCK];
        if (!k->f32_check(x + i, count))
            return false;
        k->e4m3_encode(codes, x + i, count, &scale, ACTIVATION_BLOCK);
        if (!k->e4m3_decode(y + i, codes, count, &scale, ACTIVATION_BLOCK))
            return false;
    }
    return true;
}

/* ---- float64 ---- */

static double bits_double(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint64_t double_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Adding it rounds to an integer: what is left when it is taken off again. */
#define SHIFT64 0x1.8p52

/* The high part has 32 bits, so that its products with n are exact. */
#define LN2_HIGH 0x1.62e42feep-1
#define LN2_LOW  0x1.a39ef35793c76p-33

static double horner(const double *c, size_t n, double x)
{
    double sum = 0.0;

    for (size_t i = n; i-- > 0;)
        sum = sum * x + c[i];
    return sum;
}

/* exp(r) = 1 + r + r^2 sum r^k / (k + 2)!; the last term is 2^-60 at |r| = 0.35. */
double math_exp(double x)
{
    static const double c[] = {
        1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
        1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
    };

    if (isnan(x))
        return x;
    if (x > 709.79)
        return INFINITY;
    if (x < -745.2)
        return 0.0;
    double n = x * 0x1.71547652b82fep+0 + SHIFT64 - SHIFT64;
    double high = x - n * LN2_HIGH, low = n * LN2_LOW, r = high - low, lost = high - r - low;
    double p = 1.0 + (r + (r * r * horner(c, sizeof c / sizeof c[0], r) + lost));
    int64_t power = (int64_t)n, half = power / 2;
    return p * bits_double((uint64_t)(half + 1023) << 52) * bits_double((uint64_t)(power - half + 1023) << 52);
}

/* x = 2^n (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); with s = f / (2 + f), log(1 + f) = 2 atanh(s) = 2s + s R and
 * 2s = f - s f, R = sum 2 s^2k / (2k + 1): f, the large part, is exact. */
double math_log(double x)
{
    static const double c[] = {2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11, 2.0 / 13,
                               2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23};
    int64_t n = 0;

    if (!(x > 0.0) || isinf(x))
        return x == 0.0 ? -INFINITY : x > 0.0 ? x : NAN;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        n = -54;
    }
    uint64_t bits = double_bits(x), from = double_bits(0x1.6a09e667f3bcdp-1);
    n += (int64_t)(bits - from) >> 52;
    double f = bits_double(bits - ((bits - from) & 0xFFF0000000000000u)) - 1.0;
    double s = f / (2.0 + f), s2 = s * s, half = 0.5 * f * f, series = s2 * horner(c, sizeof c / sizeof c[0], s2);
    /* s f = f^2 / 2 - s f^2 / 2 */
    double small = s * (half + series) + (double)n * LN2_LOW;
    return (double)n * LN2_HIGH - (half - small - f);
}

/* pi / 2: the high part has 33 bits. */
#define HALF_PI_HIGH 0x1.921fb544p+0
#define HALF_PI_LOW  0x1.0b4611a626331p-34

void math_cos_sin(float theta, float *cosine, float *sine)
{
    static const double c[] = {1.0,         -1.0 / 2,       1.0 / 24,        -1.0 / 720,
                               1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200};
    static const double s[] = {1.0,          -1.0 / 6,        1.0 / 120,        -1.0 / 5040,
                               1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000};
    double n = (double)theta * 0x1.45f306dc9c883p-1 + SHIFT64 - SHIFT64;
    double r = (double)theta - n * HALF_PI_HIGH - n * HALF_PI_LOW, r2 = r * r;
    float cos_r = (float)horner(c, sizeof c / sizeof c[0], r2),
          sin_r = (float)(r * horner(s, sizeof s / sizeof s[0], r2));
    unsigned quarter = (unsigned)(int64_t)n & 3;

    *cosine = quarter % 2 ? sin_r : cos_r;
    *sine = quarter % 2 ? cos_r : sin_r;
    if (quarter == 1 || quarter == 2)
        *cosine = -*cosine;
    if (quarter >= 2)
        *sine = -*sine;
}
