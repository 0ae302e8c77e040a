#include "quant/moments.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

enum { COLS = 100, TOKENS = 700 };

static float *inputs(uint64_t seed)
{
    float *x = malloc(TOKENS * COLS * sizeof *x);

    ldlq_inputs(x, TOKENS, COLS, seed);
    for (size_t i = 0; i < TOKENS * COLS; i += 7)
        x[i] *= 1.003f; /* not BF16 any more */
    return x;
}

TEST(moments, sums_are_fused_and_in_the_order_of_tokens_on_every_cpu)
{
    float *x = inputs(1), *want = calloc(COLS * COLS, sizeof *want);

    for (size_t t = 0; t < TOKENS; t++)
        for (size_t i = 0; i < COLS; i++)
            for (size_t j = 0; j < COLS; j++)
                want[i * COLS + j] =
                    fmaf(support_bf16(x[t * COLS + i]), support_bf16(x[t * COLS + j]), want[i * COLS + j]);
    for (size_t n = 0; n < kernel_count(); n++) {
        const struct kernel *k = support_kernel(n);
        struct moments m;

        if (!k)
            continue;
        ldlq_moments(&m, k, x, TOKENS, COLS);
        EXPECT_EQ_U64(TOKENS, m.tokens);
        EXPECT_EQ_U64(128, m.stride);
        for (size_t i = 0; i < m.stride; i++)
            for (size_t j = 0; j < m.stride; j++)
                EXPECT_EQ_F32(i < COLS && j < COLS ? want[i * COLS + j] : 0, m.sum[i * m.stride + j]);
        EXPECT_EQ_F32(want[3 * COLS + 3] / TOKENS, moments_variance(&m, 3));
        mem_free(m.sum);
    }
    free(x);
    free(want);
}

TEST(moments, neither_threads_nor_cuts_change_a_bit)
{
    static const struct {
        size_t tokens; /* a call */
        unsigned threads;
    } cases[] = {{1, 1}, {33, 1}, {256, 2}, {257, 1}, {TOKENS, 7}, {300, 3}};
    enum { WIDE = 1100 };
    float *x = malloc(TOKENS * WIDE * sizeof *x);
    void *scratch = mem_aligned(moments_scratch_bytes(WIDE));
    struct moments want;

    ldlq_inputs(x, TOKENS, WIDE, 2);
    ldlq_moments(&want, support_best(), x, TOKENS, WIDE);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct moments m;

        ct_case("%zu tokens a call, %u threads", cases[c].tokens, cases[c].threads);
        moments_init(&m, support_best(), WIDE, mem_aligned(moments_bytes(WIDE)));
        for (size_t at = 0, n; at < TOKENS; at += n) {
            n = TOKENS - at < cases[c].tokens ? TOKENS - at : cases[c].tokens;
            moments_add(&m, x + at * WIDE, WIDE, n, cases[c].threads, scratch);
        }
        EXPECT_TRUE(moments_close(&m));
        for (size_t at = 0, n; at < TOKENS; at += n) {
            n = TOKENS - at < cases[c].tokens ? TOKENS - at : cases[c].tokens;
            moments_spread(&m, x + at * WIDE, WIDE, n, scratch);
        }
        EXPECT_MEM_EQ(want.sum, m.sum, moments_bytes(WIDE));
        EXPECT_TRUE(want.spread == m.spread);
        mem_free(m.sum);
    }
    mem_free(want.sum);
    mem_free(scratch);
    free(x);
}

TEST(moments, spread_is_the_sum_of_what_tokens_put_off_the_diagonal)
{
    float *x = inputs(3);
    struct moments m;
    double want = 0;

    ldlq_moments(&m, kernel_at(0), x, TOKENS, COLS);
    for (size_t t = 0; t < TOKENS; t++) {
        double u = 0, f = 0;

        for (size_t j = 0; j < COLS; j++) {
            double b = (double)support_bf16(x[t * COLS + j]), z2 = b * b * TOKENS / (double)m.sum[j * m.stride + j];
            u += z2;
            f += z2 * z2;
        }
        want += u * u - f;
    }
    EXPECT_NEAR_F64(1, m.spread / want, 1e-5);
    EXPECT_EQ_U64(TOKENS, m.spread_tokens);
    mem_free(m.sum);
    free(x);
}

TEST(moments, inputs_that_are_not_finite_are_noticed)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f, 3.4e38f};

    for (size_t c = 0; c < sizeof bad / sizeof bad[0]; c++) {
        float *x = inputs(4);
        struct moments m;
        void *scratch = mem_aligned(moments_scratch_bytes(COLS));

        ct_case("%g", (double)bad[c]);
        x[300 * COLS + 99] = bad[c];
        moments_init(&m, kernel_at(0), COLS, mem_aligned(moments_bytes(COLS)));
        moments_add(&m, x, COLS, TOKENS, 1, scratch);
        EXPECT_FALSE(moments_close(&m));
        mem_free(m.sum);
        mem_free(scratch);
        free(x);
    }
}

TEST(moments, a_hot_expert_is_measured_by_as_many_tokens_as_its_cap)
{
    static const struct {
        uint64_t count, cap, want;
    } cases[] = {{10, 0, 10}, {10, 10, 10}, {10, 11, 10}, {10, 3, 3}, {100000, 28672, 28672}, {7, 1, 1}, {1, 5, 1}};

    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        uint64_t taken = 0, gap = 0, longest = 0;

        ct_case("%llu of %llu", (unsigned long long)cases[c].cap, (unsigned long long)cases[c].count);
        for (uint64_t i = 0; i < cases[c].count; i++) {
            bool takes = moments_takes(i, cases[c].count, cases[c].cap);
            taken += takes;
            gap = takes ? 0 : gap + 1;
            longest = gap > longest ? gap : longest;
        }
        EXPECT_EQ_U64(cases[c].want, taken);
        EXPECT_TRUE(cases[c].cap == 0 || longest <= cases[c].count / cases[c].cap + 1);
    }
}
