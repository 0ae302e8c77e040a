#include "samples/generate/synthetic_weights.h"

#include <math.h>
#include <string.h>

#include "formats/base/hash.h"
#include "quant/bf16.h"
#include "quant/bits.h"
#include "quant/e4m3.h"

#define BLOCK 128u
/* The largest of 128 x 128 normal values lies near 4 standard deviations. */
#define BLOCK_AMAX   4.0
#define MATRIX_SIGMA (1.0 / 64)

/* SplitMix64's finalizer over a counter: word i of a stream without the words before it. */
static inline uint64_t word_at(uint64_t key, uint64_t i)
{
    uint64_t z = key + (i + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* P. J. Acklam's rational approximation of the normal quantile, 1.2e-9 relative. */
static double normal_quantile(double p)
{
    static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                               1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
    static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                               6.680131188771972e+01, -1.328068155288572e+01};
    static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                               -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
    static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                               3.754408661907416e+00};

    if (p > 0.5)
        return -normal_quantile(1 - p);
    if (p < 0.02425) {
        double q = sqrt(-2 * log(p));
        return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
               ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
    }
    double q = p - 0.5, r = q * q;
    return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
           (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

void synthetic_weights_init(struct synthetic_weights *w, uint64_t seed)
{
    const float one = 1.0f;

    w->seed = seed;
    for (size_t i = 0; i < SYNTHETIC_QUANTILES; i++) {
        double z = normal_quantile(((double)i + 0.5) / SYNTHETIC_QUANTILES);
        float code = (float)(z * 448 / BLOCK_AMAX), value = (float)(z * MATRIX_SIGMA);
        e4m3_encode_ref(&w->fp8[i], &code, 1, &one, 1);
        (void)bf16_encode_ref(&w->bf16[i], &value, 1); /* a few hundredths */
    }
}

static inline uint32_t four_codes(const struct synthetic_weights *w, uint64_t z)
{
    return w->fp8[z & 0xFFFF] | (uint32_t)w->fp8[z >> 16 & 0xFFFF] << 8 | (uint32_t)w->fp8[z >> 32 & 0xFFFF] << 16 |
           (uint32_t)w->fp8[z >> 48] << 24;
}

/* Four codes from each word; offset is a multiple of four. */
static void fill_codes(const struct synthetic_weights *w, uint64_t key, uint64_t offset, uint8_t *data, size_t bytes)
{
    size_t i = 0;
    uint32_t codes;

    for (; i + sizeof codes <= bytes; i += sizeof codes) {
        codes = four_codes(w, word_at(key, (offset + i) / 4));
        memcpy(data + i, &codes, sizeof codes);
    }
    codes = four_codes(w, word_at(key, (offset + i) / 4));
    memcpy(data + i, &codes, bytes - i);
}

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

/* One code of every block is +-448, which is what its scale was made from. */
static void put_maxima(uint64_t key, const struct tensor *t, uint64_t offset, uint8_t *data, size_t bytes)
{
    uint64_t rows = t->dims[0], cols = t->dims[1], across = ceil_div(cols, BLOCK);
    uint64_t first = offset / cols / BLOCK, end = ceil_div(ceil_div(offset + bytes, cols), BLOCK);

    for (uint64_t i = first * across; i < end * across; i++) {
        uint64_t z = word_at(~key, i), row = i / across * BLOCK, col = i % across * BLOCK;
        uint64_t high = rows - row < BLOCK ? rows - row : BLOCK, wide = cols - col < BLOCK ? cols - col : BLOCK;
        uint64_t at = (row + (z & 0xFFFF) % high) * cols + col + (z >> 16 & 0xFFFF) % wide;
        if (at >= offset && at - offset < bytes)
            data[at - offset] = z >> 63 ? 0xFE : 0x7E;
    }
}

/* The sum of four uniforms is bell-shaped enough, and every machine's floats agree on it: mean 0, within 1. */
static float bell_at(uint64_t key, uint64_t i)
{
    uint64_t z = word_at(key, i);
    uint64_t sum = (z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48);

    return (float)((int64_t)sum - 2 * 0xFFFF) * 0x1p-17f;
}

/* Block scales vary by a few tens of percent inside a matrix; vectors by a little. */
static float float_at(const struct tensor *t, uint64_t key, uint64_t i)
{
    const float typical = (float)(BLOCK_AMAX * MATRIX_SIGMA / 448);
    float bell = bell_at(key, i);

    return t->rank == 2 ? typical * (1.0f + 0.5f * bell) : 0.1f * bell;
}

static void fill_floats(const struct tensor *t, uint64_t key, uint64_t offset, uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof(float); i++) {
        float x = float_at(t, key, offset / sizeof(float) + i);
        memcpy(data + i * sizeof x, &x, sizeof x);
    }
}

static inline uint64_t four_values(const struct synthetic_weights *w, uint64_t z)
{
    return w->bf16[z & 0xFFFF] | (uint64_t)w->bf16[z >> 16 & 0xFFFF] << 16 | (uint64_t)w->bf16[z >> 32 & 0xFFFF] << 32 |
           (uint64_t)w->bf16[z >> 48] << 48;
}

static void fill_matrix(const struct synthetic_weights *w, uint64_t key, uint64_t offset, uint8_t *data, size_t bytes)
{
    size_t i = 0;
    uint64_t values;

    for (; i + sizeof values <= bytes; i += sizeof values) {
        values = four_values(w, word_at(key, (offset + i) / 8));
        memcpy(data + i, &values, sizeof values);
    }
    values = four_values(w, word_at(key, (offset + i) / 8));
    memcpy(data + i, &values, bytes - i);
}

/* The gains of norms lie around one. */
static void fill_gains(uint64_t key, uint64_t offset, uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes / 2; i++) {
        float x = 1.0f + 0.25f * bell_at(key, offset / 2 + i);
        uint16_t code;
        (void)bf16_encode_ref(&code, &x, 1);
        memcpy(data + 2 * i, &code, sizeof code);
    }
}

void synthetic_weights_fill(void *ctx, const struct tensor *t, uint64_t offset, void *data, size_t bytes)
{
    const struct synthetic_weights *w = ctx;
    uint64_t key = word_at(w->seed, hash_key(t->name, strlen(t->name)));

    if (t->dtype == DTYPE_F8_E4M3) {
        fill_codes(w, key, offset, data, bytes);
        put_maxima(key, t, offset, data, bytes);
    } else if (t->dtype == DTYPE_F32) {
        fill_floats(t, key, offset, data, bytes);
    } else if (t->rank == 2) {
        fill_matrix(w, key, offset, data, bytes);
    } else {
        fill_gains(key, offset, data, bytes);
    }
}
