#include "quant/channels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

enum { COLS = 1100, STRIDE = 1111, TOKENS = 60 }; /* three slabs, the last not full */

TEST(channels, squares_are_summed_in_float64_in_the_order_of_tokens_on_every_cpu)
{
    float *x = malloc(TOKENS * STRIDE * sizeof *x), peak = 0;
    double *want = calloc(COLS, sizeof *want), *got = malloc(COLS * sizeof *got);

    ldlq_inputs(x, TOKENS, STRIDE, 7);
    x[17 * STRIDE + 1099] = -3000.5f;
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t j = 0; j < COLS; j++) {
            double v = (double)support_bf16(x[t * STRIDE + j]);
            want[j] += v * v;
            peak = fabsf((float)v) > peak ? fabsf((float)v) : peak;
        }
    for (size_t n = 0; n < kernel_count(); n++) {
        const struct kernel *k = support_kernel(n);
        struct channels c;

        if (!k)
            continue;
        channels_init(&c, k, COLS, got);
        channels_add(&c, x, STRIDE, TOKENS, 1);
        EXPECT_EQ_U64(TOKENS, c.tokens);
        EXPECT_EQ_F32(peak, c.peak);
        EXPECT_MEM_EQ(want, got, COLS * sizeof *got);
    }
    free(x);
    free(want);
    free(got);
}

TEST(channels, neither_threads_nor_cuts_change_a_bit)
{
    static const unsigned threads[] = {1, 2, 7};
    float *x = malloc(TOKENS * STRIDE * sizeof *x);
    double *want = malloc(COLS * sizeof *want), *got = malloc(COLS * sizeof *got);
    struct channels c;

    ldlq_inputs(x, TOKENS, STRIDE, 8);
    channels_init(&c, kernel_get(), COLS, want);
    channels_add(&c, x, STRIDE, TOKENS, 1);
    float peak = c.peak;
    for (size_t i = 0; i < 3; i++) {
        ct_case("%u threads", threads[i]);
        channels_init(&c, kernel_get(), COLS, got);
        channels_add(&c, x, STRIDE, 1, threads[i]);
        channels_add(&c, x + STRIDE, STRIDE, 40, threads[i]);
        channels_add(&c, x + 41 * STRIDE, STRIDE, TOKENS - 41, threads[i]);
        EXPECT_EQ_U64(TOKENS, c.tokens);
        EXPECT_EQ_F32(peak, c.peak);
        EXPECT_MEM_EQ(want, got, COLS * sizeof *got);
    }
    free(x);
    free(want);
    free(got);
}
