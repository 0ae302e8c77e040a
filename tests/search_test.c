#include "quant/search.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "quant/int4.h"
#include "tests/int4_support.h"
#include "tests/kernel_support.h"

static const char *const names[] = {"resid", "swiglu"};
static const size_t group_sizes[] = {128, 32};

/* The fixtures sum in float64 and in another order, and some groups have two scales of nearly the same loss: the loss
 * must agree, the codes mostly (97 %, as tests/fixtures/quant/README has it). */
TEST(search, losses_are_those_of_a_float64_program)
{
    static float w[FIXTURE_ROWS * FIXTURE_COLS];
    float h[FIXTURE_COLS];

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t c = 0; k && c < 8; c++) {
            const char *name = names[c / 4], *method = c & 1 ? "rtn_diag12" : "rtn_search12";
            size_t g = group_sizes[c / 2 % 2];
            struct int4_agreement a;
            struct int4_out o;

            ct_case("%s: %s g%zu %s", k->name, name, g, method);
            ASSERT_TRUE(int4_fixture_weights(w, name));
            ASSERT_TRUE(int4_fixture(h, sizeof h, "%s_hdiag.f32", name));
            int4_out_init(&o, FIXTURE_ROWS, FIXTURE_COLS, g, false);
            k->int4_search(&o.q, w, FIXTURE_COLS, c & 1 ? h : NULL, false, o.err);
            if (int4_fixture_compare(&a, &o.q, w, c & 1 ? h : NULL, name, method)) {
                EXPECT_NEAR_F64(1, a.loss / a.fixture_loss, 1e-4);
                EXPECT_TRUE(a.codes >= 0.97);
            }
            int4_out_release(&o);
        }
    }
}

/* ---- scale and zero point, byte for byte: tests/oracle/make_golden.py wrote the hashes ---- */

/* The line "CASE NAME.PART SHA-256" of what was searched: rows of row_bytes, stride_bytes apart. */
static void expect_golden(const char *golden, const char *kase, const char *name, const char *part, const void *rows,
                          size_t row_bytes, size_t stride_bytes)
{
    char line[160], hex[HASH_HEX_BYTES];
    struct hash h = {0};

    hash_init(&h);
    for (size_t r = 0; r < FIXTURE_ROWS; r++)
        hash_update(&h, (const char *)rows + r * stride_bytes, row_bytes);
    hash_final_hex(&h, hex);
    snprintf(line, sizeof line, "%s %s.%s %s\n", kase, name, part, hex);
    EXPECT_STR_HAS(golden, line);
}

TEST(search, scales_and_zero_points_are_those_of_another_program)
{
    static float w[FIXTURE_ROWS * FIXTURE_COLS];
    float h[FIXTURE_COLS];
    char *golden = NULL;
    size_t bytes = 0;
    struct err e = {0};

    ASSERT_OK(file_slurp("tests/fixtures/golden/searched.txt", 1u << 20, &golden, &bytes, &e), e);
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t c = 0; k && c < 8; c++) {
            const char *name = names[c / 4], *kase = c & 1 ? "asym-diag" : "asym";
            size_t g = group_sizes[c / 2 % 2], groups = FIXTURE_COLS / g;
            struct int4_out o;
            char where[32];

            snprintf(where, sizeof where, "%s-g%zu", name, g);
            ct_case("%s: %s %s", k->name, where, kase);
            ASSERT_TRUE(int4_fixture_weights(w, name));
            ASSERT_TRUE(int4_fixture(h, sizeof h, "%s_hdiag.f32", name));
            int4_out_init(&o, FIXTURE_ROWS, FIXTURE_COLS, g, true);
            k->int4_search(&o.q, w, FIXTURE_COLS, c & 1 ? h : NULL, false, o.err);
            expect_golden(golden, kase, where, "codes", o.q.words, FIXTURE_COLS / 2,
                          o.q.words_stride * sizeof *o.q.words);
            expect_golden(golden, kase, where, "scales", o.q.scales, groups * sizeof *o.q.scales,
                          groups * sizeof *o.q.scales);
            expect_golden(golden, kase, where, "zeros", o.q.zeros, groups, groups);
            int4_out_release(&o);
        }
    }
    mem_free(golden);
}

static float weight_of_column(size_t mode, uint64_t *seed)
{
    float u = (float)(support_random(seed) >> 40) * 0x1p-24f;

    switch (mode) {
    case 0:
        return 1;
    case 1:
        return 3 * u;
    case 2:
        return support_random(seed) % 3 ? u : 0;
    case 3:
        return 0;
    default:
        return u * (support_random(seed) % 2 ? 1e20f : 1e-20f);
    }
}

TEST(search, every_variant_is_exact)
{
    uint64_t seed = 6;

    for (size_t round = 0; round < 250; round++) {
        struct int4_shape s = int4_shape_random(&seed);
        size_t kind = round % int4_weights_count(), mode = round % 5, stride = s.cols + round % 3;
        uint64_t flags = support_random(&seed);
        bool asym = flags & 1, positive = flags & 2, weighted = flags & 4;
        float *x = calloc(s.rows * stride, sizeof *x), *h = calloc(s.cols, sizeof *h);
        struct int4_out want;

        for (size_t j = 0; j < s.rows * stride; j++)
            x[j] = int4_weight(kind, &seed);
        for (size_t j = 0; j < s.cols; j++)
            h[j] = weight_of_column(mode, &seed);
        if (round % 3 == 0)
            memset(x + support_random(&seed) % s.rows * stride, 0, s.group_cols * sizeof *x);
        int4_out_init(&want, s.rows, s.cols, s.group_cols, asym);
        int4_search_ref(&want.q, x, stride, weighted ? h : NULL, positive, want.err);
        for (size_t i = 1; i < kernel_count(); i++) {
            const struct kernel *k = kernel_at(i);
            struct int4_out got;

            if (!k->usable())
                continue;
            ct_case("%s, round %zu: %s, %zu x %zu, groups of %zu%s%s, weights %zu", k->name, round,
                    int4_weights_name(kind), s.rows, s.cols, s.group_cols, asym ? ", asymmetric" : "",
                    positive ? ", positive" : "", weighted ? mode : 9);
            int4_out_init(&got, s.rows, s.cols, s.group_cols, asym);
            k->int4_search(&got.q, x, stride, weighted ? h : NULL, positive, got.err);
            int4_out_expect_eq(&want, &got);
            int4_out_release(&got);
        }
        for (size_t j = 0; j < want.groups_count; j++) {
            float scale = fabsf(bits_float((uint32_t)want.q.scales[j] << 16));

            EXPECT_TRUE(scale >= INT4_SCALE_MIN && scale <= (asym ? INT4_SCALE_MAX_ASYM : INT4_SCALE_MAX));
        }
        for (size_t j = 0; j < s.rows; j++)
            EXPECT_TRUE(!isnan(want.err[j].error2) && !isnan(want.err[j].energy2));
        int4_out_release(&want);
        free(x);
        free(h);
    }
    for (size_t i = 0; i < kernel_count(); i++)
        support_kernel(i); /* says which were left out */
}

TEST(search, no_weights_are_weights_of_one)
{
    enum { ROWS = 17, COLS = 256 };
    static float x[ROWS * COLS];
    float ones[COLS];
    uint64_t seed = 7;

    for (size_t j = 0; j < COLS; j++)
        ones[j] = 1;
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t c = 0; k && c < 8; c++) {
            struct int4_out a, b;

            ct_case("%s, case %zu", k->name, c);
            for (size_t j = 0; j < ROWS * COLS; j++)
                x[j] = int4_weight(0, &seed);
            int4_out_init(&a, ROWS, COLS, c & 2 ? 32 : 128, c & 1);
            int4_out_init(&b, ROWS, COLS, c & 2 ? 32 : 128, c & 1);
            k->int4_search(&a.q, x, COLS, NULL, c & 4, a.err);
            k->int4_search(&b.q, x, COLS, ones, c & 4, b.err);
            int4_out_expect_eq(&a, &b);
            int4_out_release(&a);
            int4_out_release(&b);
        }
    }
}

/* ---- single groups, by hand ---- */

#define GROUP 32

static const struct group_case {
    const char *name;
    bool asym, positive;
    float w[8]; /* repeated over the group */
    float scale;
    int zero;
    int codes[8];
} group_cases[] = {
    {"+8 takes the code -8 of a negative scale", false, false, {8, 7, -7, 1}, -1, 0, {-8, -7, 7, -1}},
    {"-8 takes the code -8 of a positive scale", false, false, {-8, 7, -7, 1}, 1, 0, {-8, 7, -7, 1}},
    {"zeros have scale 1", false, false, {0}, 1, 0, {0}},
    {"nothing survives under the floor", false, false, {0x1p-21f, -0x1p-30f}, 0x1p-20f, 0, {0}},
    {"squares that overflow leave absmax's scale", false, false, {0x1p120f, -0x1p110f}, 0x1.12p117f, 0, {7}},
    {"the largest scale decodes to finite values", false, false, {FLT_MAX, -FLT_MAX}, INT4_SCALE_MAX, 0, {7, -8}},
    {"asymmetric: fifteen steps from zero",
     true,
     false,
     {0, 15, 3, 7, 1, 9, 4, 12},
     1,
     -8,
     {-8, 7, -5, -1, -7, 1, -4, 4}},
    {"asymmetric: three below zero", true, false, {-3, 12, 3, 7, 1, 9, 0, -1}, 1, -5, {-8, 7, -2, 2, -4, 4, -5, -6}},
    {"asymmetric zeros have scale 1", true, false, {0}, 1, 0, {0}},
};

TEST(search, groups_that_fit_a_grid_are_kept_whole)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t c = 0; k && c < sizeof group_cases / sizeof group_cases[0]; c++) {
            const struct group_case *g = &group_cases[c];
            struct int4_out o;
            float w[GROUP];

            for (size_t j = 0; j < GROUP; j++)
                w[j] = g->w[j % 8];
            int4_out_init(&o, 1, GROUP, GROUP, g->asym);
            k->int4_search(&o.q, w, GROUP, NULL, g->positive, o.err);
            ct_case("%s: %s", k->name, g->name);
            EXPECT_EQ_F32(g->scale, int4_scale(&o.q, 0, 0));
            EXPECT_EQ_I64(g->zero, int4_zero(&o.q, 0, 0));
            for (size_t j = 0; j < GROUP; j++) {
                ct_case("%s: %s, column %zu", k->name, g->name, j);
                EXPECT_EQ_I64(g->codes[j % 8], int4_code(&o.q, 0, j));
            }
            int4_out_release(&o);
        }
    }
}

TEST(search, positive_scales_are_positive_and_cost_something)
{
    enum { ROWS = 32, COLS = 512 };
    static float x[ROWS * COLS];
    uint64_t seed = 8;

    for (size_t j = 0; j < ROWS * COLS; j++)
        x[j] = int4_weight(0, &seed);
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        struct int4_out absmax, both, positive;
        size_t negative = 0;

        if (!k)
            continue;
        int4_out_init(&absmax, ROWS, COLS, 128, false);
        int4_out_init(&both, ROWS, COLS, 128, false);
        int4_out_init(&positive, ROWS, COLS, 128, false);
        k->int4_absmax(&absmax.q, x, COLS, absmax.err);
        k->int4_search(&both.q, x, COLS, NULL, false, both.err);
        k->int4_search(&positive.q, x, COLS, NULL, true, positive.err);
        for (size_t g = 0; g < both.groups_count; g++) {
            EXPECT_EQ_U64(0, positive.q.scales[g] >> 15);
            negative += both.q.scales[g] >> 15;
        }
        EXPECT_TRUE(negative > both.groups_count / 4 && negative < both.groups_count * 3 / 4);
        EXPECT_TRUE(int4_loss(&both.q, x, COLS, NULL) < int4_loss(&positive.q, x, COLS, NULL));
        EXPECT_TRUE(int4_loss(&positive.q, x, COLS, NULL) < int4_loss(&absmax.q, x, COLS, NULL));
        int4_out_release(&absmax);
        int4_out_release(&both);
        int4_out_release(&positive);
    }
}

TEST(search, asymmetric_search_beats_min_max)
{
    enum { ROWS = 32, COLS = 512 };
    static float x[ROWS * COLS];
    float h[COLS];
    uint64_t seed = 10;

    for (size_t j = 0; j < ROWS * COLS; j++)
        x[j] = int4_weight(0, &seed);
    for (size_t j = 0; j < COLS; j++)
        h[j] = weight_of_column(1, &seed);
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t c = 0; k && c < 4; c++) {
            const float *weights = c & 1 ? h : NULL;
            struct int4_out absmax, search;

            ct_case("%s, case %zu", k->name, c);
            int4_out_init(&absmax, ROWS, COLS, c & 2 ? 32 : 128, true);
            int4_out_init(&search, ROWS, COLS, c & 2 ? 32 : 128, true);
            k->int4_absmax(&absmax.q, x, COLS, absmax.err);
            k->int4_search(&search.q, x, COLS, weights, false, search.err);
            EXPECT_TRUE(int4_loss(&search.q, x, COLS, weights) < 0.95 * int4_loss(&absmax.q, x, COLS, weights));
            int4_out_release(&absmax);
            int4_out_release(&search);
        }
    }
}
