#include "quant/logits.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "quant/exp64.h"

#define LN2_HIGH EXP64_LN2_HIGH
#define LN2_LOW  EXP64_LN2_LOW

static const double terms[EXP64_TERM_COUNT] = EXP64_TERMS;

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double of_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

double exp64(double x)
{
    if (x < EXP64_LEAST)
        return 0;
    if (x > 709)
        return INFINITY;
    double rounded = x * EXP64_LOG2E + EXP64_ROUND, k = rounded - EXP64_ROUND;
    double r = (x - k * LN2_HIGH) - k * LN2_LOW, y = terms[0];
    for (size_t i = 1; i < EXP64_TERM_COUNT; i++)
        y = y * r + terms[i];
    /* The low bits of `rounded` are k, and what shifts out is of no interest. */
    return y * of_bits((bits_of(rounded) + 1023) << 52);
}

double log64(double x)
{
    if (!(x > 0))
        return x == 0 ? -INFINITY : NAN;
    if (x == INFINITY)
        return x;
    int k = 0;
    double m = frexp(x, &k);
    if (m < 0.70710678118654752440) {
        m *= 2;
        k--;
    }
    double s = (m - 1) / (m + 1), s2 = s * s, sum = 0;
    for (int i = 23; i > 1; i -= 2)
        sum = (sum + 1.0 / i) * s2;
    double exponent = (double)k;
    return exponent * LN2_HIGH + (2 * s + (2 * s * sum + exponent * LN2_LOW));
}

static double fold(double lanes[16])
{
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

struct logits_sums logits_pair_ref(const float *a, double m, const float *b, double n, size_t count)
{
    double a_sum[16] = {0}, b_sum[16] = {0}, product[16] = {0};

    for (size_t i = 0; i < count; i++) {
        double x = (double)a[i] - m, y = (double)b[i] - n, p = exp64(x);
        a_sum[i % 16] += p;
        b_sum[i % 16] += exp64(y);
        product[i % 16] += p * (x - y);
    }
    return (struct logits_sums){fold(a_sum), fold(b_sum), fold(product)};
}
