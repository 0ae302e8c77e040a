/* Two rows of logits held against each other, in float64: the sums from which
 * log-softmax, KL and perplexity follow. Exact class: every variant gives the
 * reference's bits.
 *
 * Written order: sixteen lanes of doubles, lane = index % 16, each a plain sum
 * by index; then folded as a tree (8, 4, 2, 1). No FMA anywhere. */
#ifndef QUANT_LOGITS_H
#define QUANT_LOGITS_H

#include <stddef.h>

/* a, b: logits; m, n: their largest values (any shift near them will do, as long as exp stays in range).
 *   a_sum   = sum exp(a - m)
 *   b_sum   = sum exp(b - n)
 *   product = sum exp(a - m) * ((a - m) - (b - n))
 * so that KL(a || b) = product / a_sum - ln a_sum + ln b_sum. */
struct logits_sums {
    double a_sum, b_sum, product;
};

struct logits_sums logits_pair_ref(const float *a, double m, const float *b, double n, size_t count);
struct logits_sums logits_pair_avx2(const float *a, double m, const float *b, double n, size_t count);
struct logits_sums logits_pair_avx512(const float *a, double m, const float *b, double n, size_t count);

/* The two functions without which none of this is reproducible: the C library picks its own by CPU and version.
 *
 * exp: x = k ln 2 + r, |r| <= ln 2 / 2, Taylor to r^13 by Horner; below 2^-1021 it is 0. Error: under 1.5 ulp.
 * NaN stays NaN, past 709 it is infinite.
 * log: x = 2^k m, m in [sqrt 1/2, sqrt 2), 2 atanh((m - 1) / (m + 1)) to the 23rd power. Error: under 2 ulp.
 * log of 0 is -infinity, of less NaN. */
double exp64(double x);
double log64(double x);

#endif
