/* What the tests of exact kernels share: every variant in turn, and numbers
 * from a seed. */
#ifndef TESTS_KERNEL_SUPPORT_H
#define TESTS_KERNEL_SUPPORT_H

#include "quant/bits.h"
#include "quant/kernel.h"
#include "tests/ct.h"

#define ROW_MAX 200u /* lengths 0..ROW_MAX meet every tail */
#define GUARD   64u  /* elements behind a row that must stay as they are */

/* Variant i, or NULL, and said aloud, when this machine cannot run it. */
static inline const struct kernel *support_kernel(size_t i)
{
    const struct kernel *k = kernel_at(i);

    if (!k->usable()) {
        ct_skip_note(__FILE__, __LINE__, "%s: not on this machine", k->name);
        return NULL;
    }
    ct_case("%s", k->name);
    return k;
}

static inline bool support_is_exact(const struct kernel *k)
{
    return strcmp(k->kernel_class, KERNEL_EXACT) == 0;
}

/* For tests of sums that are exact: NULL for a variant whose products are of another class, too. */
static inline const struct kernel *support_exact(size_t i)
{
    return support_is_exact(kernel_at(i)) ? support_kernel(i) : NULL;
}

/* The fastest exact variant this machine runs: for tests of what all of them share. */
static inline const struct kernel *support_best(void)
{
    size_t i = kernel_count() - 1;

    while (!support_is_exact(kernel_at(i)) || !kernel_at(i)->usable())
        i--;
    return kernel_at(i);
}

/* splitmix64 */
static inline uint64_t support_random(uint64_t *seed)
{
    uint64_t z = *seed += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* A float of either sign whose magnitude lies in [2^low, 2^high), evenly over the exponents. */
static inline float support_float(uint64_t *seed, int low, int high)
{
    uint64_t r = support_random(seed);
    uint32_t exponent = (uint32_t)(low + 127) + (uint32_t)(r >> 32) % (uint32_t)(high - low);

    return bits_float((uint32_t)(r & 0x807FFFFFu) | exponent << 23);
}

/* Rounded to BF16, by the reference. */
static inline float support_bf16(float x)
{
    uint16_t code;
    float y;

    kernel_at(0)->bf16_encode(&code, &x, 1);
    kernel_at(0)->bf16_decode(&y, &code, 1);
    return y;
}

static inline void support_floats(float *x, size_t n, uint64_t *seed, int low, int high)
{
    for (size_t i = 0; i < n; i++)
        x[i] = support_random(seed) % 16 == 0 ? 0.0f : support_float(seed, low, high);
}

/* Any finite float at all. */
static inline float support_any_float(uint64_t *seed)
{
    uint32_t bits = (uint32_t)support_random(seed);

    return bits_float((bits & 0x7F800000u) == 0x7F800000u ? bits & 0x807FFFFFu : bits);
}

/* The nearest of values[0..count), which ascend, to |x|; ties to the even index; past the last one, the last. */
static inline uint32_t support_nearest(const double *values, uint32_t count, double x)
{
    uint32_t low = 0, high = count - 1;

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        double half = (values[middle] + values[middle + 1]) / 2;
        if (x > half || (x == half && middle % 2 == 1))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

#endif
