#include "quant/factor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/int4_support.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

/* Correlations of some inputs, in a triangle. */
static float *correlations(size_t cols, uint64_t seed)
{
    float *x = malloc(3 * cols * cols * sizeof *x), *t = mem_aligned(triangle_bytes(cols));
    struct moments m;

    ldlq_inputs(x, 3 * cols, cols, seed);
    ldlq_moments(&m, support_best(), x, 3 * cols, cols);
    memset(t, 0, triangle_bytes(cols));
    for (size_t j = 0; j < cols; j++)
        for (size_t i = 0; i <= j; i++)
            triangle_row(t, j)[i] = m.sum[i * m.stride + j] / sqrtf(m.sum[i * m.stride + i] * m.sum[j * m.stride + j]) +
                                    (i == j ? 0.01f : 0);
    mem_free(m.sum);
    free(x);
    return t;
}

/* As quant/cholesky.h words it, an element at a time. */
static void plain_reverse(float *t, size_t cols)
{
    for (size_t j = cols; j-- > 0;)
        for (size_t i = j + 1; i-- > 0;) {
            float s = triangle_row(t, j)[i];

            for (size_t k = cols; --k > j;)
                s = fmaf(-triangle_row(t, k)[j], triangle_row(t, k)[i], s);
            triangle_row(t, j)[i] = i == j ? sqrtf(s) : s / triangle_row(t, j)[j];
        }
}

static void expect_same(const float *want, const float *got, size_t cols)
{
    for (size_t j = 0; j < cols; j++)
        EXPECT_MEM_EQ(triangle_row((float *)(uintptr_t)want, j), triangle_row((float *)(uintptr_t)got, j),
                      (j + 1) * sizeof(float));
}

TEST(cholesky, every_element_is_in_the_written_order_on_every_cpu)
{
    static const size_t sizes[] = {1, 7, 31, 32, 33, 100, 256, 257, 300};

    for (size_t n = 0; n < kernel_count(); n++)
        for (size_t c = 0; support_kernel(n) && c < sizeof sizes / sizeof sizes[0]; c++) {
            size_t cols = sizes[c];
            float *want = correlations(cols, 11), *got = mem_aligned(triangle_bytes(cols));
            void *scratch = mem_aligned(cholesky_scratch_bytes(cols));
            struct pivot pivot;

            ct_case("%s, %zu columns", kernel_at(n)->name, cols);
            memcpy(got, want, triangle_bytes(cols));
            plain_reverse(want, cols);
            EXPECT_TRUE(cholesky_reverse(kernel_at(n), got, cols, 1, scratch, &pivot));
            expect_same(want, got, cols);
            mem_free(want);
            mem_free(got);
            mem_free(scratch);
        }
}

TEST(cholesky, threads_change_no_bit)
{
    enum { COLS = 1200 };
    float *from = correlations(COLS, 12), *want = mem_aligned(triangle_bytes(COLS)),
          *got = mem_aligned(triangle_bytes(COLS));
    void *scratch = mem_aligned(cholesky_scratch_bytes(COLS));
    struct pivot pivot;

    memcpy(want, from, triangle_bytes(COLS));
    EXPECT_TRUE(cholesky_reverse(support_best(), want, COLS, 1, scratch, &pivot));
    for (unsigned threads = 2; threads < 8; threads += 5) {
        ct_case("%u threads", threads);
        memcpy(got, from, triangle_bytes(COLS));
        EXPECT_TRUE(cholesky_reverse(support_best(), got, COLS, threads, scratch, &pivot));
        EXPECT_MEM_EQ(want, got, triangle_bytes(COLS));
    }
    mem_free(from);
    mem_free(want);
    mem_free(got);
    mem_free(scratch);
}

TEST(cholesky, the_factor_times_itself_is_the_matrix)
{
    enum { COLS = 300 };
    float *m = correlations(COLS, 13), *t = mem_aligned(triangle_bytes(COLS));
    void *scratch = mem_aligned(cholesky_scratch_bytes(COLS));
    struct pivot pivot;

    memcpy(t, m, triangle_bytes(COLS));
    ASSERT_TRUE(cholesky_reverse(support_best(), t, COLS, 1, scratch, &pivot));
    for (size_t j = 0; j < COLS; j++)
        for (size_t i = 0; i <= j; i++) {
            double sum = 0;

            for (size_t k = j; k < COLS; k++)
                sum += (double)triangle_row(t, k)[i] * (double)triangle_row(t, k)[j];
            EXPECT_NEAR_F64((double)triangle_row(m, j)[i], sum, 1e-5);
        }
    mem_free(m);
    mem_free(t);
    mem_free(scratch);
}

TEST(cholesky, a_pivot_that_is_too_small_is_named)
{
    static const float bad[] = {0, -1, 1e-7f, NAN};
    enum { COLS = 290 };

    for (size_t c = 0; c < 4; c++)
        for (size_t at = 5; at < COLS; at += 137) {
            float *t = mem_aligned(triangle_bytes(COLS));
            void *scratch = mem_aligned(cholesky_scratch_bytes(COLS));
            struct pivot pivot = {0};

            ct_case("%g at %zu", (double)bad[c], at);
            memset(t, 0, triangle_bytes(COLS));
            for (size_t j = 0; j < COLS; j++)
                triangle_row(t, j)[j] = j == at ? bad[c] : 1;
            EXPECT_FALSE(cholesky_reverse(support_best(), t, COLS, 1, scratch, &pivot));
            EXPECT_EQ_U64(at, pivot.row);
            EXPECT_TRUE(isnan(bad[c]) ? isnan(pivot.value) : pivot.value == bad[c]);
            mem_free(t);
            mem_free(scratch);
        }
}

/* Order and diagonal of R by numpy in float64. */
TEST(factor, order_and_diagonal_are_those_of_a_float64_program)
{
    static const char *const names[] = {"resid", "swiglu"};

    for (size_t n = 0; n < kernel_count(); n++)
        for (size_t c = 0; support_kernel(n) && c < 2; c++) {
            struct moments m;
            struct shrunk s;
            struct factor f;
            void *a = mem_aligned(shrink_bytes(FIXTURE_COLS)), *b = mem_aligned(factor_bytes(FIXTURE_COLS)),
                 *scratch = mem_aligned(factor_scratch_bytes(FIXTURE_COLS));
            int32_t order[FIXTURE_COLS];
            double diagonal[FIXTURE_COLS];

            ct_case("%s, %s", kernel_at(n)->name, names[c]);
            ASSERT_TRUE(int4_fixture(order, sizeof order, "%s_order.i32", names[c]) &&
                        int4_fixture(diagonal, sizeof diagonal, "%s_rdiag_permuted.f64", names[c]));
            ASSERT_TRUE(ldlq_fixture_moments(&m, kernel_at(n), names[c]));
            ASSERT_TRUE(shrink_damp(&s, &m, 0.01, a));
            ASSERT_TRUE(factor_make(&f, kernel_at(n), &s, true, 1, b, scratch));
            EXPECT_EQ_U64(0, f.retries);
            for (size_t j = 0; j < FIXTURE_COLS; j++) {
                EXPECT_EQ_I64(order[j], f.order[j]);
                EXPECT_NEAR_F64(1, (double)f.r2[j] / (diagonal[j] * diagonal[j]), 1e-4);
                EXPECT_EQ_F32(f.r2[j], f.weights[f.order[j]]);
            }
            mem_free(m.sum);
            mem_free(a);
            mem_free(b);
            mem_free(scratch);
        }
}

/* Two columns that are one: without damping the second pivot is 0. */
TEST(factor, a_singular_matrix_is_damped_until_it_is_none)
{
    enum { COLS = 40, TOKENS = 50 };
    float *x = malloc(TOKENS * COLS * sizeof *x);
    struct moments m;
    struct shrunk s;
    struct factor f;
    void *a = mem_aligned(shrink_bytes(COLS)), *b = mem_aligned(factor_bytes(COLS)),
         *scratch = mem_aligned(factor_scratch_bytes(COLS));

    ldlq_inputs(x, TOKENS, COLS, 20);
    for (size_t t = 0; t < TOKENS; t++)
        x[t * COLS + 7] = x[t * COLS + 30];
    ldlq_moments(&m, kernel_at(0), x, TOKENS, COLS);
    ASSERT_TRUE(shrink_damp(&s, &m, 0, a));
    ASSERT_TRUE(factor_make(&f, kernel_at(0), &s, true, 1, b, scratch));
    EXPECT_EQ_U64(1, f.retries);
    EXPECT_NEAR_F64(0.01, s.to_diagonal, 0);
    EXPECT_TRUE(f.failed.value <= CHOLESKY_PIVOT_MIN);
    for (size_t j = 0; j < COLS; j++)
        EXPECT_TRUE(isfinite(f.r2[j]) && f.r2[j] > 0);
    mem_free(m.sum);
    mem_free(a);
    mem_free(b);
    mem_free(scratch);
    free(x);
}
