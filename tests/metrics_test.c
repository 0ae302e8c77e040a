#include "verify/metrics.h"

#include <math.h>

#include "formats/base/mem.h"
#include "quant/logits.h"
#include "tests/kernel_support.h"

static struct position compare(const float *ref, const float *cand, size_t vocab, uint32_t next)
{
    struct position p = {0};
    struct err e = {0};

    EXPECT_OK(position_compare(&p, ref, cand, vocab, next, &e), e);
    return p;
}

TEST(metrics, small_distributions_have_the_divergence_of_the_formula)
{
    /* Probabilities, not logits: ln is taken here, and a shift of all logits changes nothing. */
    static const struct {
        float p[3], q[3];
        double kl, nll_ref, nll_cand; /* of token 1 */
        bool top1;
    } cases[] = {
        {{0.5f, 0.25f, 0.25f},
         {0.25f, 0.25f, 0.5f},
         0.17328679513998632,
         1.3862943611198906,
         1.3862943611198906,
         false},
        {{0.5f, 0.25f, 0.25f},
         {0.5f, 0.125f, 0.375f},
         0.07192051811294523,
         1.3862943611198906,
         2.0794415416798357,
         true},
        {{0.125f, 0.75f, 0.125f}, {0.125f, 0.75f, 0.125f}, 0, 0.28768207245178085, 0.28768207245178085, true},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float ref[3], cand[3];
        for (size_t v = 0; v < 3; v++) {
            ref[v] = logf(cases[i].p[v]) + 30;
            cand[v] = logf(cases[i].q[v]) - 50;
        }
        ct_case("%zu", i);
        struct position p = compare(ref, cand, 3, 1);
        EXPECT_NEAR_F64(cases[i].kl, p.kl, 2e-6);
        EXPECT_NEAR_F64(cases[i].kl, p.kl_bound, 2e-6); /* three outcomes: nothing is merged */
        EXPECT_NEAR_F64(cases[i].nll_ref, p.nll_ref, 3e-6);
        EXPECT_NEAR_F64(cases[i].nll_cand, p.nll_cand, 3e-6);
        EXPECT_TRUE(p.top1 == cases[i].top1 && p.scored);
    }
}

/* The textbook's formula in long double, with the C library's functions. */
static long double divergence(const float *a, const float *b, size_t n)
{
    long double a_sum = 0, b_sum = 0, kl = 0;

    for (size_t i = 0; i < n; i++) {
        a_sum += expl((long double)a[i]);
        b_sum += expl((long double)b[i]);
    }
    for (size_t i = 0; i < n; i++) {
        long double p = expl((long double)a[i]) / a_sum;
        kl += p * (logl(p) - ((long double)b[i] - logl(b_sum)));
    }
    return kl;
}

static void draw(float *a, float *b, size_t n, float away, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) {
        float u = (float)(support_random(seed) >> 40) * 0x1p-24f, w = (float)(support_random(seed) >> 40) * 0x1p-24f;
        a[i] = 12 * u * u * u - 4;
        b[i] = a[i] + away * (w - 0.5f);
    }
}

TEST(metrics, wide_rows_agree_with_the_textbook_and_the_bound_lies_below)
{
    enum { WIDE = 129280 };
    static float a[WIDE + 3], b[WIDE + 3];
    static const size_t widths[] = {1, 2, 63, 64, 65, 4096, WIDE};
    uint64_t seed = 5;

    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        for (float away = 1e-3f; away < 5; away *= 30) {
            size_t n = widths[i];
            draw(a, b, n + 3, away, &seed);
            a[n] = a[n + 1] = b[n] = 1e30f; /* padding, which is not to be looked at */
            ct_case("%zu wide, %g away", n, (double)away);
            struct position p = compare(a, b, n, NO_TOKEN);
            double want = (double)divergence(a, b, n);
            EXPECT_NEAR_F64(want, p.kl, 1e-12 + 1e-10 * want);
            EXPECT_TRUE(p.kl_bound >= 0 && p.kl_bound <= p.kl);
            EXPECT_TRUE(n > 64 || p.kl - p.kl_bound < 1e-12 + 1e-6 * p.kl);
            EXPECT_TRUE(n < 1000 || p.kl_bound < p.kl);
            EXPECT_FALSE(p.scored);
        }
}

TEST(metrics, a_golden_row_gives_the_bound_of_the_full_comparison)
{
    static float a[4096], b[4096];
    uint64_t seed = 6;

    for (int round = 0; round < 20; round++) {
        struct top_logprobs t = {0};
        struct position golden = {0};
        struct err e = {0};
        double nll = 0;
        draw(a, b, 4096, 0.5f, &seed);
        struct position full = compare(a, b, 4096, 77);
        ASSERT_OK(position_record(&t, &nll, a, 4096, 77, &e), e);
        ASSERT_OK(position_compare_golden(&golden, &t, nll, b, 4096, 77, &e), e);
        EXPECT_EQ_U64(64, t.count);
        EXPECT_NEAR_F64(full.kl_bound, golden.kl_bound, 1e-6 * full.kl_bound + 1e-10);
        EXPECT_TRUE(isnan(golden.kl));
        EXPECT_NEAR_F64(full.nll_ref, golden.nll_ref, 1e-12);
        EXPECT_NEAR_F64(full.nll_cand, golden.nll_cand, 1e-12);
        EXPECT_TRUE(full.top1 == golden.top1 && full.top5 == golden.top5);
        EXPECT_NEAR_F64((double)full.margin, (double)golden.margin, 1e-6);
        double sum = exp64((double)t.rest);
        for (uint32_t i = 0; i < t.count; i++)
            sum += exp64((double)t.logprobs[i]);
        EXPECT_NEAR_F64(1, sum, 1e-6);
    }
}

TEST(metrics, the_largest_come_in_falling_order_and_ties_by_lower_id)
{
    struct top t = {0};
    static float x[300];

    for (size_t i = 0; i < 300; i++)
        x[i] = (float)(i * 7919 % 100); /* each value three times */
    top_find(&t, x, 300, TOP_MAX);
    ASSERT_EQ_U64(TOP_MAX, t.count);
    for (uint32_t i = 0; i < TOP_MAX; i++) {
        EXPECT_EQ_F32((float)(99 - i / 3), t.logits[i]);
        EXPECT_EQ_F32(t.logits[i], x[t.ids[i]]);
        EXPECT_TRUE(i % 3 == 0 || t.ids[i] > t.ids[i - 1]);
    }
    top_find(&t, x, 2, TOP_MAX);
    EXPECT_EQ_U64(2, t.count);
    x[299] = 200; /* in what is left behind whole spans */
    top_find(&t, x, 300, 5);
    ASSERT_EQ_U64(5, t.count);
    EXPECT_EQ_U64(299, t.ids[0]);
    for (uint32_t i = 1; i < 5; i++)
        EXPECT_EQ_F32((float)(99 - (i - 1) / 3), t.logits[i]);
    EXPECT_TRUE(t.ids[1] < t.ids[2] && t.ids[2] < t.ids[3]);
}

TEST(metrics, a_row_that_is_not_finite_is_refused)
{
    float good[20] = {0}, bad[20] = {0};
    struct position p;
    struct err e = {0};

    bad[19] = NAN;
    EXPECT_FALSE(position_compare(&p, good, bad, 20, 0, &e));
    EXPECT_ERR(e, ERR_FORMAT, "the candidate");
    e = (struct err){0};
    bad[19] = INFINITY;
    EXPECT_FALSE(position_compare(&p, bad, good, 20, 0, &e));
    EXPECT_ERR(e, ERR_FORMAT, "the reference");
    EXPECT_OK(position_compare(&p, bad, good, 19, 0, &e), e);
}

/* numpy: x = [3, 1, 4, 1, 5, 9, 2, 6]; np.quantile(x, q) */
TEST(metrics, quantiles_are_numpys)
{
    double x[] = {3, 1, 4, 1, 5, 9, 2, 6};

    EXPECT_NEAR_F64(3.5, median_of(x, 8), 0);
    EXPECT_NEAR_F64(6.9, quantile_sorted(x, 8, 0.9), 1e-15);
    EXPECT_NEAR_F64(8.79, quantile_sorted(x, 8, 0.99), 1e-14);
    EXPECT_NEAR_F64(9, quantile_sorted(x, 8, 1), 0);
    EXPECT_NEAR_F64(9, quantile_sorted(x + 7, 1, 0.3), 0);
    EXPECT_TRUE(isnan(quantile_sorted(x, 0, 0.5)));
}

TEST(metrics, errors_are_clustered_by_context)
{
    /* Contexts with means 1, 2, 6: sd of the means is sqrt 7, over sqrt 3. Within them nothing varies, which an
     * error that took positions for independent would mistake for knowledge. */
    static const double values[] = {1, 1, 2, 2, 6, 6}, uneven[] = {1, 4, 4, 4};
    static const size_t starts[] = {0, 2, 4, 6}, uneven_starts[] = {0, 1, 4};
    struct stat_mean m = clustered_mean(values, starts, 3);

    EXPECT_NEAR_F64(3, m.mean, 1e-15);
    EXPECT_NEAR_F64(sqrt(7.0 / 3), m.se, 1e-15);
    m = clustered_mean(uneven, uneven_starts, 2);
    EXPECT_NEAR_F64(3.25, m.mean, 1e-15);
    EXPECT_NEAR_F64(sqrt(2 * (2.25 * 2.25 + 2.25 * 2.25)) / 4, m.se, 1e-15);
    m = clustered_mean(values, starts, 1);
    EXPECT_TRUE(m.mean == 1 && isnan(m.se));
}

static const size_t two_contexts[] = {0, 3, 6};

static void fill(struct position p[6])
{
    static const double kl[] = {0.01, 0.02, 0.5, 0, 0.03, 1e-9};

    for (size_t i = 0; i < 6; i++)
        p[i] = (struct position){.kl = kl[i],
                                 .kl_bound = kl[i] / 2,
                                 .nll_ref = 1,
                                 .nll_cand = i < 3 ? 1.5 : 1.25,
                                 .margin = i % 2 ? 0.5f : 0.05f,
                                 .top5 = (uint8_t)(i % 2 ? 5 : 4),
                                 .top1 = i != 3,
                                 .scored = i % 3 != 2};
}

TEST(metrics, positions_add_up_to_a_summary)
{
    struct position p[6];
    struct outputs o;

    fill(p);
    outputs_summarize(&o, p, two_contexts, 2);
    EXPECT_TRUE(o.contexts == 2 && o.positions == 6 && o.scored == 4 && o.kl_known);
    EXPECT_NEAR_F64(0.560000001 / 6, o.kl.mean, 1e-15);
    EXPECT_NEAR_F64(0.015, o.kl.median, 1e-15);
    EXPECT_NEAR_F64(0.5, o.kl.max, 0);
    EXPECT_NEAR_F64(o.kl.mean / 2, o.kl_bound.mean, 1e-15);
    EXPECT_NEAR_F64(5.0 / 6, o.top1.mean, 1e-15);
    EXPECT_NEAR_F64(0.9, o.top5.mean, 1e-15);
    EXPECT_TRUE(o.decisive == 3 && o.decisive_flips == 1);
    EXPECT_NEAR_F64(2.718281828459045, o.ppl_ref, 1e-14);
    EXPECT_NEAR_F64(3.955076722920577, o.ppl_cand, 1e-14);   /* exp(1.375) */
    EXPECT_NEAR_F64(1.4549914146182013, o.ppl_ratio, 1e-14); /* exp(0.375) */
    EXPECT_NEAR_F64(0.375, o.log_ratio.mean, 1e-15);
    EXPECT_NEAR_F64(0.125, o.log_ratio.se, 1e-15);
    EXPECT_NEAR_F64(1.138828, o.ratio_low, 1e-6); /* exp(0.375 - 0.245) */
    EXPECT_NEAR_F64(1.858928, o.ratio_high, 1e-6);
    uint64_t all = 0;
    for (size_t b = 0; b < KL_BINS; b++)
        all += o.histogram[b];
    EXPECT_EQ_U64(6, all);
    EXPECT_EQ_U64(2, o.histogram[0]);  /* 0 and 1e-9 */
    EXPECT_EQ_U64(1, o.histogram[23]); /* 0.5 is in [10^-1/3, 1) */
}

TEST(metrics, one_context_has_no_error_and_says_so)
{
    static const size_t one[] = {0, 6};
    struct position p[6];
    struct outputs o;

    fill(p);
    outputs_summarize(&o, p, one, 1);
    EXPECT_TRUE(isnan(o.kl.se) && isnan(o.ratio_low) && isnan(o.ratio_high) && !isnan(o.ppl_ratio));
}

/* The sign test: 2 * sum(comb(18, k) for k in range(5)) / 2**18, by Python. */
TEST(metrics, two_candidates_are_compared_token_by_token)
{
    enum { CONTEXTS = 20 };
    struct position a[2 * CONTEXTS], b[2 * CONTEXTS];
    size_t starts[CONTEXTS + 1];
    struct paired out;

    for (size_t c = 0; c < CONTEXTS; c++) {
        starts[c] = 2 * c;
        for (size_t i = 2 * c; i < 2 * c + 2; i++) {
            double extra = c < 4 ? -0.1 : c < 18 ? 0.2 : 0; /* 4 against 14, and 2 ties */
            a[i] = (struct position){.kl = 1, .nll_ref = 1, .nll_cand = 2, .scored = i % 2 == 0};
            b[i] = (struct position){.kl = 1 + extra, .nll_ref = 1, .nll_cand = 2 + extra, .scored = i % 2 == 0};
        }
    }
    starts[CONTEXTS] = (size_t)2 * CONTEXTS;
    paired_summarize(&out, a, b, starts, CONTEXTS);
    EXPECT_NEAR_F64(-(14 * 0.2 - 4 * 0.1) / 20, out.kl.mean, 1e-14);
    EXPECT_NEAR_F64(out.kl.mean, out.nll.mean, 1e-14);
    EXPECT_TRUE(out.a_nearer == 14 && out.b_nearer == 4 && out.ties == 2);
    EXPECT_TRUE(out.a_nearer_positions == 28 && out.b_nearer_positions == 8);
    EXPECT_NEAR_F64(0.0308837890625, out.sign_p, 1e-14);
    paired_summarize(&out, a, a, starts, CONTEXTS);
    EXPECT_TRUE(out.kl.mean == 0 && out.kl.se == 0 && out.ties == CONTEXTS && out.sign_p == 1);
}
