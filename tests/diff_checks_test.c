#include "verify/diff_checks.h"

#include <math.h>

#include "tests/ct.h"
#include "tests/diff_fixture.h"
#include "verify/diff_words.h"
#include "verify/model_match.h"

static void parse_one(struct diff_threshold t[METRIC_COUNT], enum diff_metric m, const char *text)
{
    const char *texts[METRIC_COUNT] = {NULL};
    struct err e = {0};

    texts[m] = text;
    EXPECT_OK(diff_thresholds_parse(t, texts, &e), e);
}

TEST(diff_checks, thresholds_are_numbers_or_floors)
{
    static const struct {
        const char *text;
        double value;
        bool floors;
    } cases[] = {
        {"0.02", 0.02, false}, {"1e-3", 1e-3, false}, {"0", 0, false}, {"5floor", 5, true}, {"2.5floor", 2.5, true}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct diff_threshold t[METRIC_COUNT];
        ct_case("%s", cases[i].text);
        parse_one(t, METRIC_KL, cases[i].text);
        EXPECT_TRUE(t[METRIC_KL].value == cases[i].value && t[METRIC_KL].floors == cases[i].floors);
        EXPECT_TRUE(t[METRIC_TOP1].asked == NULL);
    }
    static const char *const bad[] = {"",      "x",       "-1",    "nan",     "inf", "0x10",   "1,5",
                                      "1e999", "5 floor", "floor", "5floor2", " 5",  "5floors"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *texts[METRIC_COUNT] = {bad[i]};
        struct diff_threshold t[METRIC_COUNT];
        struct err e = {0};
        ct_case("'%s'", bad[i]);
        EXPECT_FALSE(diff_thresholds_parse(t, texts, &e));
        EXPECT_ERR(e, ERR_USAGE, "--max-kl");
    }
}

TEST(diff_checks, floors_are_distances_from_agreement)
{
    static const struct {
        enum diff_metric metric;
        double limit;
    } cases[] = {{METRIC_KL, 5 * 2.1e-5},
                 {METRIC_TOP1, 1 - 5 * (1 - 0.9971)},
                 {METRIC_PPL_RATIO, 1.002052102}, /* exp(5 * 4.1e-4) */
                 {METRIC_ROUTING, 1 - 5 * (1 - 0.9912)}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct diff_threshold t[METRIC_COUNT];
        struct diff_report r;
        struct err e = {0};
        diff_fixture_make(&r, FIXTURE_SMALL);
        r.check_count = 0;
        ct_case("%s", diff_threshold_options[cases[i].metric]);
        parse_one(t, cases[i].metric, "5floor");
        ASSERT_OK(diff_checks_run(&r, t, &e), e);
        ASSERT_EQ_U64(1, r.check_count);
        EXPECT_NEAR_F64(cases[i].limit, r.checks[0].limit, 1e-9);
        EXPECT_STR_EQ("5floor", r.checks[0].asked);
        EXPECT_TRUE(r.checks[0].at_most == (cases[i].metric == METRIC_KL || cases[i].metric == METRIC_PPL_RATIO));
        diff_report_release(&r);
    }
}

/* The fixture's floor: 1024 positions, and 3 MoE layers of 4 choices each. */
TEST(diff_checks, a_floor_that_saw_no_change_counts_as_one)
{
    static const struct {
        enum diff_metric metric;
        double limit;
    } cases[] = {{METRIC_TOP1, 1 - 5 / 1024.0}, {METRIC_ROUTING, 1 - 5 / (1024.0 * 3 * 4)}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct diff_threshold t[METRIC_COUNT];
        struct diff_report r;
        struct err e = {0};
        diff_fixture_make(&r, FIXTURE_SMALL);
        r.check_count = 0;
        r.bf16.top1 = r.bf16.routing_overlap = 1;
        ct_case("%s", diff_threshold_options[cases[i].metric]);
        parse_one(t, cases[i].metric, "5floor");
        ASSERT_OK(diff_checks_run(&r, t, &e), e);
        EXPECT_NEAR_F64(cases[i].limit, r.checks[0].limit, 1e-9);
        diff_report_release(&r);
    }
}

/* 400 floors below would be less than nothing. */
TEST(diff_checks, a_share_has_no_limit_below_zero)
{
    struct diff_threshold t[METRIC_COUNT];
    struct diff_report r;
    struct err e = {0};

    diff_fixture_make(&r, FIXTURE_SMALL);
    r.check_count = 0;
    parse_one(t, METRIC_TOP1, "400floor");
    ASSERT_OK(diff_checks_run(&r, t, &e), e);
    EXPECT_TRUE(r.checks[0].limit == 0 && r.agree);
    diff_report_release(&r);
}

TEST(diff_checks, a_limit_that_is_met_exactly_holds)
{
    struct diff_threshold t[METRIC_COUNT];
    struct diff_report r;
    struct err e = {0};

    diff_fixture_make(&r, FIXTURE_SMALL);
    r.check_count = 0;
    r.candidates[0].outputs.kl.mean = 0.25;
    parse_one(t, METRIC_KL, "0.25");
    ASSERT_OK(diff_checks_run(&r, t, &e), e);
    EXPECT_TRUE(r.agree);
    r.check_count = 0;
    r.candidates[0].outputs.kl.mean = nextafter(0.25, 1);
    ASSERT_OK(diff_checks_run(&r, t, &e), e);
    EXPECT_FALSE(r.agree);
    diff_report_release(&r);
}

TEST(diff_checks, what_is_not_known_is_refused)
{
    struct diff_threshold t[METRIC_COUNT];
    struct diff_report r;
    struct err e = {0};

    diff_fixture_make(&r, FIXTURE_GOLDEN);
    parse_one(t, METRIC_ROUTING, "0.5");
    EXPECT_FALSE(diff_checks_run(&r, t, &e));
    EXPECT_ERR(e, ERR_USAGE, "golden file");
    e = (struct err){0};
    r.check_count = 0;
    r.bf16.known = false;
    parse_one(t, METRIC_KL, "5floor");
    EXPECT_FALSE(diff_checks_run(&r, t, &e));
    EXPECT_ERR(e, ERR_USAGE, "made without");
    e = (struct err){0};
    r.check_count = 0;
    parse_one(t, METRIC_KL, "1");
    EXPECT_OK(diff_checks_run(&r, t, &e), e);
    EXPECT_STR_EQ("mean KL (lower bound)", r.checks[0].what);
    diff_report_release(&r);
}

/* One token a context: there is no next one whose probability could be held against another. */
TEST(diff_checks, a_floor_of_no_perplexity_is_refused_and_not_printed)
{
    struct diff_threshold t[METRIC_COUNT];
    struct diff_report r;
    struct buf words = {0};
    struct err e = {0};

    diff_fixture_make(&r, FIXTURE_SMALL);
    r.check_count = 0;
    r.bf16.log_ratio = NAN;
    parse_one(t, METRIC_PPL_RATIO, "5floor");
    EXPECT_FALSE(diff_checks_run(&r, t, &e));
    EXPECT_ERR(e, ERR_USAGE,
               "'--max-ppl-ratio 5floor' counts noise floors, and that of the perplexity ratio is not known");
    words_floor(&r.bf16, &words);
    EXPECT_STR_EQ("KL 2.10e-05, top 1 99.71%, routing 99.12% (1,024 positions)", words.data);
    buf_release(&words);
    diff_report_release(&r);
}

/* ---- whether models go together ---- */

TEST(model_match, the_first_size_that_differs_is_named_with_both_values)
{
    struct err e = {0};

    EXPECT_OK(model_match_sizes("layers 4\nheads 8\n", "layers 4\nheads 8\n", "REF", &e), e);
    EXPECT_FALSE(model_match_sizes("layers 4\nheads 8\nexperts 16\n", "layers 4\nheads 16\nexperts 8\n", "REF", &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "'heads' is 8 in REF and 16 in CAND");
    e = (struct err){0};
    EXPECT_FALSE(model_match_sizes("layers 4\nheads 8\n", "layers 4\n", "REF", &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "'heads' is 8 in REF and absent in CAND");
    e = (struct err){0};
    EXPECT_FALSE(model_match_sizes("layers 4\n", "layers 40\n", "the golden file", &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "'layers' is 4 in the golden file and 40 in CAND");
}

TEST(model_match, every_setting_that_differs_is_said)
{
    struct buf out = {0};

    EXPECT_FALSE(model_match_settings("rope_theta 1\nyarn 1\n", "rope_theta 1\nyarn 1\n", "REF", &out));
    EXPECT_TRUE(model_match_settings("rope_theta 1\nyarn 1\nyarn_factor 8\n", "rope_theta 2\nyarn 0\n", "REF", &out));
    EXPECT_STR_EQ("rope_theta is 1 in REF and 2 in CAND; yarn is 1 in REF and 0 in CAND; yarn_factor is 8 in REF and "
                  "absent in CAND",
                  out.data);
    buf_release(&out);
}

TEST(model_match, a_vocabulary_may_be_padded_at_its_end)
{
    struct err e = {0};

    EXPECT_EQ_U64(129280, model_match_vocab(129280, 129280, "REF", &e));
    EXPECT_EQ_U64(129280, model_match_vocab(129280, 129408, "REF", &e));
    EXPECT_EQ_U64(129280, model_match_vocab(129408, 129280, "REF", &e));
    EXPECT_EQ_U64(0, model_match_vocab(129280, 163840, "REF", &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "129280 ids in REF and 163840 in CAND");
}
