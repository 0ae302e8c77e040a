#include "quant/kernel.h"

#include <math.h>
#include <stdlib.h>

#include "tests/kernel_support.h"

static void set_cpu(const char *name)
{
    if (name)
        setenv("QUERN_CPU", name, 1);
    else
        unsetenv("QUERN_CPU");
}

TEST(kernel, every_member_of_every_variant_is_filled)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = kernel_at(i);
        void *members[sizeof *k / sizeof(void *)];
        memcpy(members, k, sizeof *k);
        for (size_t m = 0; m < sizeof members / sizeof members[0]; m++) {
            ct_case("%s, member %zu", k->name, m);
            EXPECT_TRUE(members[m] != NULL);
        }
    }
    EXPECT_STR_EQ("ref", kernel_at(0)->name);
    EXPECT_TRUE(kernel_at(0)->usable());
}

TEST(kernel, the_environment_names_a_variant_and_only_a_known_one)
{
    const char *was = getenv("QUERN_CPU");
    char *kept = was ? strdup(was) : NULL;
    const struct kernel *before = kernel_get();

    for (size_t i = 0; i < kernel_count(); i++) {
        struct err e = {0};
        ct_case("%s", kernel_at(i)->name);
        set_cpu(kernel_at(i)->name);
        if (kernel_at(i)->usable()) {
            EXPECT_OK(kernel_pick(&e), e);
            EXPECT_TRUE(kernel_get() == kernel_at(i));
        } else {
            EXPECT_FALSE(kernel_pick(&e));
            EXPECT_ERR(e, ERR_USAGE, "cannot run");
        }
    }
    static const char *const unknown[] = {"avx", "AVX2", "", "avx512 "};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        struct err e = {0};
        const struct kernel *picked = kernel_get();
        ct_case("'%s'", unknown[i]);
        set_cpu(unknown[i]);
        EXPECT_FALSE(kernel_pick(&e));
        EXPECT_ERR(e, ERR_USAGE, "none of");
        EXPECT_TRUE(kernel_get() == picked);
    }

    struct err e = {0};
    ct_case("unset");
    set_cpu(NULL);
    EXPECT_OK(kernel_pick(&e), e);
    EXPECT_TRUE(kernel_get()->usable() && support_is_exact(kernel_get()));
    for (size_t i = 0; i < kernel_count(); i++)
        EXPECT_TRUE(!support_is_exact(kernel_at(i)) || !kernel_at(i)->usable() || kernel_at(i) <= kernel_get());

    set_cpu(before->name);
    EXPECT_OK(kernel_pick(&e), e);
    set_cpu(kept);
    free(kept);
}

TEST(kernel, rows_of_every_length_have_the_reference_sums)
{
    const struct kernel *ref = kernel_at(0);

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint64_t seed = 1;
        for (size_t n = 0; k && n <= ROW_MAX; n++) {
            float x[ROW_MAX + 1], y[ROW_MAX + 1], *a = x + n % 2, *b = y + n % 2;
            ct_case("%s, %zu columns", k->name, n);
            support_floats(a, n, &seed, -20, 20);
            for (size_t i = 0; i < n; i++)
                b[i] = a[i] * (1.0f + support_float(&seed, -9, -4));
            struct row_error want = ref->row_error(a, b, n), got = k->row_error(a, b, n);
            EXPECT_EQ_F32(want.error2, got.error2);
            EXPECT_EQ_F32(want.energy2, got.energy2);
            EXPECT_EQ_F32(ref->absmax(a, n), k->absmax(a, n));
            EXPECT_TRUE(k->f32_check(a, n));
        }
    }
}

/* 33 columns put two numbers into lane 0, 16 and 32 columns after; the fold is 8, 4, 2, 1. */
TEST(kernel, the_row_error_has_the_written_order)
{
    float x[33], y[33] = {0}, lanes[16] = {0};
    uint64_t seed = 2;

    support_floats(x, 33, &seed, -12, 12);
    for (size_t i = 0; i < 33; i++)
        lanes[i & 15] = lanes[i & 15] + x[i] * x[i];
    float eight[8], four[4];
    for (size_t i = 0; i < 8; i++)
        eight[i] = lanes[i] + lanes[i + 8];
    for (size_t i = 0; i < 4; i++)
        four[i] = eight[i] + eight[i + 4];
    float want = (four[0] + four[2]) + (four[1] + four[3]);

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        if (!k)
            continue;
        struct row_error got = k->row_error(x, y, 33);
        EXPECT_EQ_F32(want, got.error2);
        EXPECT_EQ_F32(want, got.energy2);
    }
}

TEST(kernel, one_number_that_is_not_finite_is_seen_wherever_it_stands)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t n = 1; k && n <= 70; n++)
            for (size_t at = 0; at < n; at++) {
                float x[70] = {0};
                ct_case("%s, %zu of %zu", k->name, at, n);
                x[at] = bad[(n + at) % 3];
                EXPECT_FALSE(k->f32_check(x, n));
            }
    }
}

TEST(kernel, absmax_sees_the_negative_and_the_smallest)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        if (!k)
            continue;
        const float x[] = {1.0f, -3.5f, 2.0f, -0.0f}, tiny[] = {-0x1p-149f, 0.0f, -0.0f};
        EXPECT_EQ_F32(3.5f, k->absmax(x, 4));
        EXPECT_EQ_F32(0x1p-149f, k->absmax(tiny, 3));
        EXPECT_EQ_F32(0.0f, k->absmax(tiny + 1, 2));
        EXPECT_EQ_F32(0.0f, k->absmax(NULL, 0));
    }
}
