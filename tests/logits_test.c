#include "quant/logits.h"

#include <math.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/kernel_support.h"

/* Distance in units of the last place of the wanted value, from glibc's long double functions. */
static double ulps(long double want, double got)
{
    int exponent;

    frexpl(want, &exponent);
    return (double)(fabsl(want - (long double)got) / ldexpl(1, exponent - 53));
}

TEST(logits, exp_and_log_are_near_the_c_librarys_long_double)
{
    uint64_t seed = 1;
    double worst_exp = 0, worst_log = 0;

    for (int i = 0; i < 200000; i++) {
        double u = (double)(support_random(&seed) >> 11) * 0x1p-53;
        double x = i % 2 ? -706 + 1414 * u : 4 * u - 2;
        worst_exp = fmax(worst_exp, ulps(expl((long double)x), exp64(x)));
        double y = i % 2 ? (double)support_float(&seed, -126, 127) : 0.5 + u;
        y = fabs(y);
        worst_log = fmax(worst_log, ulps(logl((long double)y), log64(y)));
    }
    EXPECT_NEAR_F64(0, worst_exp, 1.5);
    EXPECT_NEAR_F64(0, worst_log, 2);
}

TEST(logits, exp_and_log_at_their_ends)
{
    EXPECT_TRUE(exp64(0) == 1 && exp64(-0.0) == 1);
    EXPECT_TRUE(exp64(-708) == 0 && exp64(-INFINITY) == 0 && exp64(-1e300) == 0);
    EXPECT_TRUE(isinf(exp64(710)) && isinf(exp64(INFINITY)) && isnan(exp64(NAN)));
    EXPECT_TRUE(log64(1) == 0 && isinf(log64(0)) && log64(0) < 0);
    EXPECT_TRUE(isnan(log64(-1)) && isnan(log64(NAN)) && isinf(log64(INFINITY)));
    EXPECT_NEAR_F64(-744.44007192138122, log64(0x1p-1074), 1e-12);
}

static bool same_bits(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

TEST(logits, every_variant_sums_as_the_reference_does)
{
    enum { MOST = 700 };
    static float a[MOST + 64], b[MOST + 64];
    uint64_t seed = 3;

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        if (!k)
            continue;
        for (size_t n = 0; n <= MOST; n += n < 100 ? 1 : 37) {
            for (size_t i = 0; i < MOST + 64; i++) {
                a[i] = support_float(&seed, -4, n % 7 == 0 ? 11 : 5);
                b[i] = i % 3 ? a[i] : support_float(&seed, -4, 5);
            }
            if (n > 20)
                a[17] = n % 2 ? NAN : -INFINITY;
            ct_case("%s, %zu", k->name, n);
            struct logits_sums want = logits_pair_ref(a, 20, b, 31.5, n), got = k->logits_pair(a, 20, b, 31.5, n);
            EXPECT_TRUE(same_bits(want.b_sum, got.b_sum));
            EXPECT_TRUE(same_bits(want.a_sum, got.a_sum) || (isnan(want.a_sum) && isnan(got.a_sum)));
            EXPECT_TRUE(same_bits(want.product, got.product) || (isnan(want.product) && isnan(got.product)));
        }
    }
}
