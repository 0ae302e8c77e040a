#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/e4m3.h"
#include "quant/e4m3_int4.h"
#include "quant/int4.h"
#include "tests/int4_support.h"
#include "tests/kernel_support.h"

#define COLS_MAX 1024u

struct shape {
    size_t rows, cols, group_cols, block_cols;
};

static const struct shape shapes[] = {
    {1, 128, 128, 128}, {3, 1024, 128, 128}, {2, 640, 128, 640},  {2, 896, 128, 256},    {1, 64, 64, 64},
    {2, 576, 64, 128},  {2, 448, 64, 448},   {1, 32, 32, 32},     {2, 160, 32, 160},     {2, 736, 32, 128},
    {1, 1024, 32, 64},  {3, 384, 128, 1024}, {1, 512, 128, 1280}, {2, 992, 32, 1000000},
};

/* Kinds of codes. The third has halves on the grid: 15 / 8 makes the scale a power of two. */
enum codes { ANY_CODE, FEW_OCTAVES, LARGEST_IS_15, SUBNORMAL, ALL_ZERO, CODE_KINDS };

static uint8_t make_code(enum codes kind, uint64_t *seed)
{
    uint64_t r = support_random(seed);
    uint8_t sign = (uint8_t)(r >> 32 & 0x80), magnitude = (uint8_t)(r % 127);

    switch (kind) {
    case ANY_CODE:
        break;
    case FEW_OCTAVES:
        magnitude = (uint8_t)(90 + r % 37);
        break;
    case LARGEST_IS_15:
        magnitude = r % 8 == 0 ? 0x6f : (uint8_t)(r % 0x70);
        break;
    case SUBNORMAL:
        magnitude = (uint8_t)(r % 9);
        break;
    case ALL_ZERO:
    case CODE_KINDS:
        magnitude = 0;
        break;
    }
    return sign | magnitude;
}

/* Kinds of scales: as published, powers of two, of few bits, to the ends of the range, past what variants do
 * themselves. With few bits a quotient can be a half, as 1 x 1.5 / 3 is, where the product with 1/3 is not. */
#define SCALE_KINDS 6u

static float make_scale(size_t kind, uint64_t *seed)
{
    switch (kind) {
    case 0:
        return fabsf(support_float(seed, -14, -6));
    case 1:
        return ldexpf(1.0f, (int)(support_random(seed) % 40) - 30);
    case 2:
        return ldexpf((float)(1 + support_random(seed) % 255), (int)(support_random(seed) % 20) - 20);
    case 3:
        return fabsf(support_float(seed, -126, 118));
    case 4:
        return fabsf(bits_float((uint32_t)(support_random(seed) % 0x7fffffu) + 1)); /* below the least normal */
    default:
        return fabsf(support_float(seed, 116, 119));
    }
}

struct sample {
    struct shape shape;
    uint8_t codes[3 * COLS_MAX];
    float scales[COLS_MAX / 32];
};

static void fill(struct sample *s, struct shape shape, enum codes codes, size_t scales, uint64_t *seed)
{
    s->shape = shape;
    for (size_t i = 0; i < shape.rows * COLS_MAX; i++)
        s->codes[i] = make_code(codes, seed);
    for (size_t i = 0; i < COLS_MAX / 32; i++)
        s->scales[i] = make_scale(scales, seed);
}

static bool call(const struct kernel *k, const struct sample *s, struct int4_out *o)
{
    int4_out_init(o, s->shape.rows, s->shape.cols, s->shape.group_cols, false);
    return k->e4m3_to_int4(&o->q, s->codes, COLS_MAX, s->scales, s->shape.block_cols, o->err);
}

/* Through floats, by two reference functions that are held against other programs elsewhere. */
static bool through_floats(const struct sample *s, struct int4_out *o)
{
    float x[3 * COLS_MAX];
    bool finite = true;

    int4_out_init(o, s->shape.rows, s->shape.cols, s->shape.group_cols, false);
    for (size_t r = 0; r < s->shape.rows; r++)
        finite &=
            e4m3_decode_ref(x + r * COLS_MAX, s->codes + r * COLS_MAX, s->shape.cols, s->scales, s->shape.block_cols);
    if (finite)
        int4_absmax_ref(&o->q, x, COLS_MAX, o->err);
    return finite;
}

static void compare(const struct kernel *k, const struct sample *s)
{
    struct int4_out want, got;
    bool finite = through_floats(s, &want);

    EXPECT_EQ_I64(finite, call(k, s, &got));
    if (finite)
        int4_out_expect_eq(&want, &got);
    int4_out_release(&want);
    int4_out_release(&got);
}

TEST(e4m3_int4, gives_what_decoding_and_absmax_give_on_every_cpu)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        uint64_t seed = 7;

        for (size_t n = 0; k && n < sizeof shapes / sizeof shapes[0]; n++)
            for (enum codes codes = ANY_CODE; codes < CODE_KINDS; codes++)
                for (size_t scales = 0; scales < SCALE_KINDS; scales++) {
                    struct sample s;
                    ct_case("%s: shape %zu, codes %d, scales %zu", k->name, n, (int)codes, scales);
                    fill(&s, shapes[n], codes, scales, &seed);
                    compare(k, &s);
                }
    }
}

/* A group's codes are decided by its largest code and by the two scales: every one of the first with every magnitude
 * under it, against many of the second. */
TEST(e4m3_int4, rounds_every_code_under_every_largest_one_as_the_quotient_does)
{
    const struct shape shape = {.rows = 1, .cols = 256, .group_cols = 128, .block_cols = 128};

    for (size_t i = 1; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        uint64_t seed = 11;

        for (uint8_t largest = 0; k && largest < 127; largest++)
            for (size_t turn = 0; turn < 120; turn++) {
                struct sample s = {.shape = shape};
                for (uint8_t c = 0; c < 128; c++) {
                    s.codes[c] = c <= largest ? c : largest;
                    s.codes[128 + c] = s.codes[c] | 0x80;
                }
                s.scales[0] = make_scale(turn % 4, &seed);
                s.scales[1] = s.scales[0];
                ct_case("%s: largest 0x%02x, scale %a", k->name, largest, (double)s.scales[0]);
                compare(k, &s);
            }
    }
}

TEST(e4m3_int4, a_code_that_is_no_number_is_told)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        uint64_t seed = 3;

        for (size_t n = 0; k && n < sizeof shapes / sizeof shapes[0]; n++) {
            struct sample s;
            struct int4_out o;
            fill(&s, shapes[n], FEW_OCTAVES, 0, &seed);
            s.codes[(s.shape.rows - 1) * COLS_MAX + support_random(&seed) % s.shape.cols] = n % 2 ? 0x7f : 0xff;
            ct_case("%s: shape %zu", k->name, n);
            EXPECT_FALSE(call(k, &s, &o));
            int4_out_release(&o);
        }
    }
}
