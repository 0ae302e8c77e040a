/* What the matrix unit does, operation by operation. The rule of TDPBF16PS is
 * that of Intel's Software Developer's Manual, volume 2. */
#include <math.h>
#include <string.h>

#include "quant/bits.h"
#include "quant/e4m3.h"
#include "quant/gemm_tiles.h"

#define BF16_MAX   0x7F7Fu
#define NORMAL_MIN 0x1p-126f

/* ---- BF16, with what is below the normal numbers as 0 ---- */

static float flushed(float x)
{
    return fabsf(x) < NORMAL_MIN ? copysignf(0.0f, x) : x;
}

static float widened(uint16_t code)
{
    return flushed(bits_float((uint32_t)code << 16));
}

static uint16_t narrowed(float x)
{
    uint32_t bits = float_bits(flushed(x)), sign = bits >> 16 & 0x8000u;

    if (isnan(x))
        return (uint16_t)(bits >> 16 | 0x40u);
    bits = (bits & 0x7FFFFFFFu) + 0x7FFFu + (bits >> 16 & 1);
    return (uint16_t)(sign | bits >> 16);
}

static uint16_t held(float x)
{
    float most = bits_float(BF16_MAX << 16);

    return narrowed(x > most ? most : x < -most ? -most : x);
}

/* ---- the dot product ---- */

/* A result is small when it still is after rounding to 24 bits, however small: just under the least normal number that
 * is not what rounding to multiples of 2^-149 says. The sum is exact in float64 where that matters, the product always.
 */
static float fused(float a, float b, float c)
{
    float sum = fmaf(a, b, c);

    if (!(fabsf(sum) <= NORMAL_MIN))
        return sum;
    return fabs((double)a * (double)b + (double)c) < 0x1p-126 - 0x1p-151 ? copysignf(0.0f, sum) : sum;
}

static float added(float a, float b)
{
    return flushed(a + b);
}

void tiles_dot_ref(float *c, const uint16_t *a, const uint16_t *b)
{
    float w[TILES_CODES], x[TILES_CODES];

    for (size_t i = 0; i < TILES_CODES; i++) {
        w[i] = widened(a[i]);
        x[i] = widened(b[i]);
    }
    for (size_t r = 0; r < TILES_SIDE; r++)
        for (size_t t = 0; t < TILES_SIDE; t++) {
            const float *row = w + r * TILES_COLS, *column = x + t * 2;
            float even = 0.0f, odd = 0.0f, *sum = c + r * TILES_SIDE + t;
            for (size_t p = 0; p < TILES_COLS / 2; p++) {
                even = fused(row[2 * p], column[p * TILES_COLS], even);
                odd = fused(row[2 * p + 1], column[p * TILES_COLS + 1], odd);
            }
            *sum = added(flushed(*sum), added(even, odd));
        }
}

/* ---- operations ---- */

static void nothing(void)
{
}

static bool pack(uint16_t *packed, const float *x, size_t x_stride, size_t tokens, size_t cols)
{
    bool some = false;

    for (size_t c = 0; c < cols; c++)
        for (size_t t = 0; t < TILES_BLOCK; t++) {
            float v = t < tokens ? x[t * x_stride + c] : 0.0f;
            uint16_t hi = held(v), lo = narrowed(v - bits_float((uint32_t)hi << 16));
            uint16_t *at = packed + c / TILES_COLS * 4 * TILES_CODES + t / TILES_SIDE * TILES_CODES +
                           c % TILES_COLS / 2 * TILES_COLS + t % TILES_SIDE * 2 + c % 2;
            at[0] = hi;
            at[2 * TILES_CODES] = lo;
            some |= lo != 0;
        }
    return some;
}

/* Column c of a row of codes, which is exact in BF16. */
static uint16_t code_at(enum gemm_coding coding, const uint8_t *row, size_t c)
{
    uint16_t half;

    switch (coding) {
    case GEMM_E4M3:
        return (uint16_t)(float_bits(e4m3_value(row[c])) >> 16);
    case GEMM_INT4:
        return (uint16_t)(float_bits((float)(row[c / 2] >> c % 2 * 4 & 15) - 8.0f) >> 16);
    case GEMM_BF16:
    case GEMM_F32:
    case GEMM_CODING_COUNT:
        break;
    }
    memcpy(&half, row + 2 * c, sizeof half);
    return half;
}

static bool decode(uint16_t *weights, const struct gemm_codes *w, size_t rows, size_t cols)
{
    bool finite = true;

    for (size_t r = 0; r < TILES_SIDE; r++)
        for (size_t c = 0; c < cols; c++) {
            uint16_t code = r < rows ? code_at(w->coding, w->codes + r * w->row_bytes, c) : 0;
            weights[c / TILES_COLS * 2 * TILES_CODES + r * TILES_COLS + c % TILES_COLS] = code;
            finite &= (code & 0x7F80u) != 0x7F80u;
        }
    return finite;
}

/* One tile of a span's sums. */
static void sum_span(float *c, const struct tiles_product *p, size_t step, size_t end, size_t rows, size_t tokens)
{
    memset(c, 0, TILES_SIDE * TILES_SIDE * sizeof *c);
    for (; step < end; step++) {
        const uint16_t *a = p->weights + (step * 2 + rows) * TILES_CODES;
        const uint16_t *b = p->x + (step * 4 + tokens) * TILES_CODES;
        tiles_dot_ref(c, a, b);
        if (p->terms2)
            tiles_dot_ref(c, a, b + 2 * TILES_CODES);
    }
}

static void multiply(float *sums, const struct tiles_product *p)
{
    float c[TILES_SIDE * TILES_SIDE];

    for (size_t rows = 0; rows < 2; rows++)
        for (size_t tokens = 0; tokens < p->token_tiles; tokens++) {
            float *acc = sums + (rows * 2 + tokens) * TILES_SIDE * TILES_SIDE;
            const float *scales = p->scales + rows * TILES_SIDE;
            if (p->first)
                memset(acc, 0, sizeof c);
            for (size_t step = 0; step < p->steps; step += p->span_steps, scales += TILES_BLOCK) {
                size_t end = step + p->span_steps < p->steps ? step + p->span_steps : p->steps;
                sum_span(c, p, step, end, rows, tokens);
                for (size_t i = 0; i < TILES_SIDE * TILES_SIDE; i++)
                    acc[i] = fmaf(scales[i / TILES_SIDE], c[i], acc[i]);
            }
        }
}

static void store(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r++) {
            float *to = y + t * y_stride + r;
            float sum = sums[(r / TILES_SIDE * 2 + t / TILES_SIDE) * TILES_SIDE * TILES_SIDE +
                             r % TILES_SIDE * TILES_SIDE + t % TILES_SIDE] +
                        0.0f;
            *to = add ? *to + sum : sum;
        }
}

const struct gemm_tiles gemm_tiles_ref = {
    .begin = nothing, .end = nothing, .pack = pack, .decode = decode, .multiply = multiply, .store = store};
