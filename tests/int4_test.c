#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/int4.h"
#include "tests/int4_support.h"
#include "tests/kernel_support.h"

/* ---- packing, as compressed-tensors does it ---- */

static const struct packing {
    const char *name;
    size_t cols;
    float w[10]; /* 7.5 in the group makes the scale 1 */
    int codes[10];
    uint32_t words[2];
} packings[] = {
    {"both ends", 8, {-7.5f, -7, -1, 0, 1, 6, 7, -2}, {-8, -7, -1, 0, 1, 6, 7, -2}, {0x6fe98710}},
    {"zeros", 8, {0}, {0}, {0x88888888}},
    {"least", 8, {-7.5f, -7.5f, -7.5f, -7.5f, -7.5f, -7.5f, -7.5f, -7.5f}, {-8, -8, -8, -8, -8, -8, -8, -8}, {0}},
    {"a last word in part",
     10,
     {1, 2, 3, 4, 5, 6, 7, -7.5f, -1, 3},
     {1, 2, 3, 4, 5, 6, 7, -8, -1, 3},
     {0x0fedcba9, 0x000000b7}},
};

TEST(int4, words_hold_the_low_nibble_first_and_zeros_past_the_end)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t p = 0; k && p < sizeof packings / sizeof packings[0]; p++) {
            const struct packing *c = &packings[p];
            struct int4_out o;
            float back[10] = {0};

            ct_case("%s: %s", k->name, c->name);
            int4_out_init(&o, 1, c->cols, c->cols, false);
            k->int4_absmax(&o.q, c->w, c->cols, o.err);
            EXPECT_EQ_F32(1.0f, int4_scale(&o.q, 0, 0));
            EXPECT_MEM_EQ(c->words, o.q.words, (c->cols + 7) / 8 * sizeof c->words[0]);
            k->int4_decode(back, c->cols, &o.q);
            for (size_t j = 0; j < c->cols; j++)
                EXPECT_EQ_F32((float)c->codes[j], back[j]);
            int4_out_release(&o);
        }
    }
}

/* The first three rows of two tensors with random codes and what the pack routine of the compressed-tensors library
 * made of them. */
/* clang-format off */
static const int8_t codes_3x32[3 * 32] = {
    5, -1, 1, 7, 2, -2, 0, -8, 7, 3, -1, -7, 2, 6, -3, 4, -4, 5, 2, 5, 7, 2, 1, -7, 0, 4, -6, 1, -5, -4, 4,
    -2, -5, 3, 3, -4, -1, 2, -3, 3, -7, 0, -3, -4, -7, 2, 3, -3, -3, 0, -7, 6, 5, -4, -2, -2, 5, -3, 0, 3,
    -7, 2, 1, 3, 1, 6, -7, 7, 6, 0, -2, -2, 1, 2, 5, -7, -2, 7, -2, -7, 7, 5, 7, -2, 2, -3, 7, -7, 7, 5, 0,
    5, -1, -5, 3, -7,
};
static const uint32_t words_3x32[3 * 4] = {
    0x086af97d, 0xc5ea17bf, 0x19afdad4, 0x6c4392c8, 0xb5a74bb3, 0x5ba14581, 0x664de185, 0xb9a1b85d,
    0x668ef1e9, 0x16f61da9, 0x1f5a6fdf, 0x1b37d8df,
};
static const int8_t codes_5x128[3 * 128] = {
    7, -4, 1, -2, -5, -5, -1, -1, 4, 1, 6, -1, 0, 1, 6, 2, 2, 0, -1, -2, -4, -8, 7, -1, 4, -8, 3, -1, 2, -2,
    -5, 4, 4, 7, -3, 0, 0, -1, -3, -8, 3, 5, -8, -6, 0, 1, 6, -2, -4, 6, 1, -1, -5, -5, 0, -5, -8, -7, -8,
    -8, -2, 7, 5, 4, 4, 4, -1, -1, 2, 1, -5, -8, 5, -1, -1, 4, -1, -8, -3, -4, -5, -7, -5, 3, 3, -7, -5, 3,
    -4, -5, -7, 3, 6, 1, -3, 1, 5, -7, 7, 7, -6, -5, -6, -6, -3, -1, -5, 3, 2, 7, -8, 4, 5, 3, 1, 1, 4, -5,
    6, 6, 4, -4, -3, 4, 7, 3, -5, -8, -4, 3, 0, 2, 2, -2, 3, 7, -1, 5, -6, -1, -5, 5, 4, 4, 7, 5, 0, -2, -2,
    -3, -2, -3, 4, 3, -1, -7, 2, 7, -3, -4, -4, 1, 1, 5, 2, -8, 4, 6, -2, -6, 4, -2, 0, -6, 3, 2, 6, -4, -7,
    5, -2, 2, -7, -3, 7, -7, -2, 4, 1, 0, 4, -2, 7, -3, 1, -1, -3, -4, 3, 4, 1, 3, -2, 0, -7, -3, -3, 6, 3,
    4, 0, -5, -1, -1, 1, 4, 4, 5, -4, -1, -3, 2, 1, -2, 7, 3, 3, -6, 7, 4, -8, -3, -5, 5, -8, -3, -1, 7, -7,
    5, 0, -4, 3, 6, 5, 1, 2, -8, -6, 7, -8, -1, -2, -6, 1, 1, 5, -3, 3, -7, 7, 6, -8, -8, 1, -7, 6, -7, -3,
    -5, 7, -6, -8, 5, 2, 2, 6, -4, 2, 3, 4, 0, -1, -7, -4, 1, 4, 6, -5, -2, 2, 4, -1, -7, 7, -8, -6, -1, 4,
    -8, -8, 4, 1, 6, 0, -6, -8, 7, 3, -3, -3, -8, 1, 3, 2, -8, 0, -4, -3, 4, 3, 5, -7, 5, 6, 2, -4, -8, 7,
    -1, 4, 7, 2, -6, -8, 6, 7, 6, 6, 5, -5, 1, 5, 0, -5, -1, -7, 2, -8, -7, 3, 3, -4, -2, 7, 5, 3, -7, 5, 6,
    6, 4, 3, 4, -8, -7, 2, 2, -8, 4, 3, -7, 0, -4, 6, -7, 7, -2, 0, -3, -6, 4, -4, 4,
};
static const uint32_t words_5x128[3 * 16] = {
    0x7733694f, 0xae987e9c, 0x7f04678a, 0xc36a7b0c, 0x057885fc, 0x6e9820db, 0x383379e4, 0xcdf60010,
    0x039a77cc, 0x4507c77d, 0xb31bb313, 0x959eb134, 0x2232ff1d, 0xc0fab375, 0xee3c99bd, 0x03bfc54c,
    0xfb6aa8b4, 0xccd372d7, 0x565668df, 0x45fa17bc, 0xec0ad994, 0xab286c26, 0x51a6d14e, 0x6c89c61f,
    0xcb45795f, 0xe55186b9, 0xc97738cb, 0x69a574dc, 0x50cf2bbf, 0xd1f750d3, 0x0a9deb48, 0x992670f2,
    0x00ef1b5d, 0x2f351e19, 0xba4eaad0, 0xec94178c, 0x0f17ca63, 0xe9c00c72, 0x055bf028, 0xc5480ab9,
    0x04aed1db, 0xe02afc7f, 0x8d93deef, 0xbb10a173, 0xed1bdf64, 0xaa10cbce, 0x1e481bc0, 0xc4c2586f,
};
/* clang-format on */

static const struct golden {
    const char *name;
    size_t cols;
    const int8_t *codes;
    const uint32_t *words;
} goldens[] = {
    {"3x32", 32, codes_3x32, words_3x32},
    {"5x128", 128, codes_5x128, words_5x128},
};

TEST(int4, words_are_those_of_the_compressed_tensors_library)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t g = 0; k && g < sizeof goldens / sizeof goldens[0]; g++)
            for (size_t row = 0; row < 3; row++) {
                size_t cols = goldens[g].cols;
                const int8_t *codes = goldens[g].codes + row * cols;
                const uint32_t *words = goldens[g].words + row * cols / 8;
                float w[128] = {0}, back[128], amax = 0;
                struct int4_out o;

                ct_case("%s: %s row %zu", k->name, goldens[g].name, row);
                int4_out_init(&o, 1, cols, cols, false);
                memcpy(o.q.words, words, cols / 2);
                o.q.scales[0] = 0x3F80;
                k->int4_decode(back, cols, &o.q);
                for (size_t j = 0; j < cols; j++) {
                    EXPECT_EQ_F32((float)codes[j], back[j]);
                    w[j] = codes[j] == -8 ? -7.5f : codes[j];
                    amax = fmaxf(amax, fabsf(w[j]));
                }
                if (amax == 7.5f) {
                    k->int4_absmax(&o.q, w, cols, o.err);
                    EXPECT_EQ_F32(1.0f, int4_scale(&o.q, 0, 0));
                    EXPECT_MEM_EQ(words, o.q.words, cols / 2);
                }
                int4_out_release(&o);
            }
    }
}

/* ---- the rules of absmax ---- */

#define FLOOR 0x1p-20f

static const struct rule {
    const char *name;
    bool asym;
    float w[8];
    float scale;
    int zero;
    int codes[8];
} rules[] = {
    {"zeros have scale 1", false, {0, -0.0f}, 1, 0, {0}},
    {"+amax clips to 7, -amax is -8", false, {7.5f, -7.5f}, 1, 0, {7, -8}},
    {"ties go to even", false, {7.5f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 6.5f}, 1, 0, {7, 0, 2, 2, 0, -2, -2, 6}},
    /* 7.7 / 7.5 = 1.02667 is stored as 1.0234375, and 1.536 / 1.0234375 is past 1.5 where 1.536 / 1.02667 is not. */
    {"codes are made with the stored scale", false, {7.7f, 1.536f}, 0x1.06p0f, 0, {7, 2}},
    {"scales do not fall below 2^-20", false, {0x1p-20f, -0x1p-21f, 0x1.8p-20f, 1e-30f}, FLOOR, 0, {1, 0, 2, 0}},
    {"denormals are codes 0", false, {1e-40f, -1e-44f}, FLOOR, 0, {0}},
    {"the largest scale decodes to finite values", false, {FLT_MAX, -FLT_MAX}, INT4_SCALE_MAX, 0, {7, -8}},

    {"asymmetric zeros have scale 1", true, {0}, 1, 0, {0}},
    {"from zero up", true, {0, 1, 2, 7, 8, 14, 15, 3}, 1, -8, {-8, -7, -6, -1, 0, 6, 7, -5}},
    {"from zero down", true, {0, -1, -2, -7, -8, -14, -15, -3}, 1, 7, {7, 6, 5, 0, -1, -7, -8, 4}},
    {"a range without zero is widened to it", true, {15, 14, 13, 12, 11, 10, 9, 8}, 1, -8, {7, 6, 5, 4, 3, 2, 1, 0}},
    /* rint(0.5) - 1 would be -1; rint(0.5 - 1) is 0. */
    {"the zero point is added before rounding", true, {-7, 8, 0.5f, 1.5f, -0.5f}, 1, -1, {-8, 7, 0, 0, -2, -1, -1, -1}},
    {"an infinite range is FLT_MAX", true, {FLT_MAX, -FLT_MAX}, INT4_SCALE_MAX_ASYM, 7, {7, -8, 7, 7, 7, 7, 7, 7}},
    {"a narrow range", true, {1e-30f, -1e-30f}, FLOOR, -8, {-8, -8, -8, -8, -8, -8, -8, -8}},
};

TEST(int4, absmax_follows_its_rules)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t r = 0; k && r < sizeof rules / sizeof rules[0]; r++) {
            struct int4_out o;
            float w[32] = {0}; /* repeated, so that the vectors of every variant see it */

            for (size_t j = 0; j < 32; j++)
                w[j] = rules[r].w[j % 8];
            int4_out_init(&o, 1, 32, 32, rules[r].asym);
            k->int4_absmax(&o.q, w, 32, o.err);
            ct_case("%s: %s", k->name, rules[r].name);
            EXPECT_EQ_F32(rules[r].scale, int4_scale(&o.q, 0, 0));
            EXPECT_EQ_I64(rules[r].zero, int4_zero(&o.q, 0, 0));
            for (size_t j = 0; j < 32; j++) {
                ct_case("%s: %s, column %zu", k->name, rules[r].name, j);
                EXPECT_EQ_I64(rules[r].codes[j % 8], int4_code(&o.q, 0, j));
            }
            int4_out_release(&o);
        }
    }
}

static const char *const names[] = {"resid", "swiglu"};
static const size_t group_sizes[] = {128, 32};

TEST(int4, absmax_gives_the_codes_of_a_float64_program)
{
    static float w[FIXTURE_ROWS * FIXTURE_COLS];

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t c = 0; k && c < 4; c++) {
            struct int4_agreement a;
            struct int4_out o;

            ct_case("%s: %s g%zu", k->name, names[c / 2], group_sizes[c % 2]);
            ASSERT_TRUE(int4_fixture_weights(w, names[c / 2]));
            int4_out_init(&o, FIXTURE_ROWS, FIXTURE_COLS, group_sizes[c % 2], false);
            k->int4_absmax(&o.q, w, FIXTURE_COLS, o.err);
            if (int4_fixture_compare(&a, &o.q, w, NULL, names[c / 2], "rtn_absmax75")) {
                EXPECT_NEAR_F64(1, a.codes, 0);
                EXPECT_NEAR_F64(1, a.scales, 0);
            }
            int4_out_release(&o);
        }
    }
}

/* ---- every variant is the reference ---- */

TEST(int4, absmax_and_decode_are_exact_in_every_variant)
{
    uint64_t seed = 4;

    for (size_t round = 0; round < 400; round++) {
        struct int4_shape s = int4_shape_random(&seed);
        size_t kind = round % int4_weights_count(), stride = s.cols + round % 5;
        bool asym = support_random(&seed) % 2;
        float *x = calloc(s.rows * stride, sizeof *x), *want_x = calloc(s.rows * stride, sizeof *x);
        struct int4_out want;

        for (size_t j = 0; j < s.rows * stride; j++)
            x[j] = int4_weight(kind, &seed);
        if (round % 3 == 0)
            memset(x + support_random(&seed) % s.rows * stride, 0, s.group_cols * sizeof *x);
        int4_out_init(&want, s.rows, s.cols, s.group_cols, asym);
        int4_absmax_ref(&want.q, x, stride, want.err);
        int4_decode_ref(want_x, stride, &want.q);
        for (size_t i = 1; i < kernel_count(); i++) {
            const struct kernel *k = kernel_at(i);
            float *got_x = calloc(s.rows * stride, sizeof *x);
            struct int4_out got;

            if (k->usable()) {
                int4_out_init(&got, s.rows, s.cols, s.group_cols, asym);
                ct_case("%s, round %zu: %s, %zu x %zu, groups of %zu%s", k->name, round, int4_weights_name(kind),
                        s.rows, s.cols, s.group_cols, asym ? ", asymmetric" : "");
                k->int4_absmax(&got.q, x, stride, got.err);
                int4_out_expect_eq(&want, &got);
                k->int4_decode(got_x, stride, &got.q);
                EXPECT_MEM_EQ(want_x, got_x, s.rows * stride * sizeof *x);
                int4_out_release(&got);
            }
            free(got_x);
        }
        for (size_t j = 0; j < s.rows * stride; j++)
            EXPECT_TRUE(isfinite(want_x[j]));
        int4_out_release(&want);
        free(want_x);
        free(x);
    }
    for (size_t i = 0; i < kernel_count(); i++)
        support_kernel(i); /* says which were left out */
}

/* Quotients at, just under and just over each half: where a product with 1 / scale goes the other way. */
TEST(int4, codes_next_to_ties_are_those_of_the_division)
{
    enum { COLS = 128 };
    uint64_t seed = 9;

    for (size_t round = 0; round < 300; round++) {
        bool asym = round % 2;
        struct int4_out want;
        float w[COLS];

        w[0] = ldexpf(1 + (float)(support_random(&seed) % 4096) / 4096, (int)(round % 40) - 15);
        w[1] = asym ? -w[0] * (float)(support_random(&seed) % 64) / 64 : 0;
        for (size_t j = 2; j < COLS; j++)
            w[j] = 0;
        int4_out_init(&want, 1, COLS, COLS, asym);
        int4_absmax_ref(&want.q, w, COLS, want.err);
        for (size_t j = 2; j < COLS; j++) {
            float tie = ((float)(j % 16) - 7.5f - (float)int4_zero(&want.q, 0, 0)) * int4_scale(&want.q, 0, 0);
            float low = asym ? w[1] : -w[0];

            for (size_t step = 0; step < j / 16 % 4; step++)
                tie = nextafterf(tie, j / 64 ? INFINITY : -INFINITY);
            w[j] = fminf(fmaxf(tie, low), w[0]);
        }
        int4_absmax_ref(&want.q, w, COLS, want.err);
        for (size_t i = 1; i < kernel_count(); i++) {
            const struct kernel *k = kernel_at(i);
            struct int4_out got;

            if (!k->usable())
                continue;
            ct_case("%s, round %zu", k->name, round);
            int4_out_init(&got, 1, COLS, COLS, asym);
            k->int4_absmax(&got.q, w, COLS, got.err);
            int4_out_expect_eq(&want, &got);
            int4_out_release(&got);
        }
        int4_out_release(&want);
    }
}

TEST(int4, the_row_error_is_that_of_the_decoded_row)
{
    enum { COLS = 384 };
    uint64_t seed = 5;
    float x[COLS], y[COLS];

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t round = 0; k && round < 8; round++) {
            struct row_error want;
            struct int4_out o;

            for (size_t j = 0; j < COLS; j++)
                x[j] = int4_weight(0, &seed);
            int4_out_init(&o, 1, COLS, round < 4 ? 128 : COLS, round % 2);
            k->int4_absmax(&o.q, x, COLS, o.err);
            k->int4_decode(y, COLS, &o.q);
            want = kernel_at(0)->row_error(x, y, COLS);
            EXPECT_EQ_F32(want.error2, o.err[0].error2);
            EXPECT_EQ_F32(want.energy2, o.err[0].energy2);
            int4_out_release(&o);
        }
    }
}
