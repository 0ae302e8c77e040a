#include "convert/coverage.h"

#include "tests/ct.h"

enum { EXPERTS = 400 };

/* Expert i of 400 in layers of 100; outputs from 1 to 7. */
static void fill(struct super_expert *all)
{
    for (size_t i = 0; i < EXPERTS; i++)
        all[i] = (struct super_expert){i / 100, i % 100, (float)(1 + i % 7)};
}

/* Thresholds by numpy 1.24: median 4, percentile(99.5) 49.155, a tenth of the largest 50. */
TEST(coverage, super_experts_pass_the_quantile_and_a_tenth_of_the_largest)
{
    struct super_expert all[EXPERTS], supers[EXPERTS];
    float median = 0;

    fill(all);
    all[5].output_most = 500;
    all[133].output_most = 49; /* just below both */
    all[250].output_most = 80;
    ASSERT_EQ_U64(2, coverage_supers(all, EXPERTS, supers, &median));
    EXPECT_NEAR_F64(4, (double)median, 0);
    EXPECT_TRUE(supers[0].layer == 0 && supers[0].expert == 5 && supers[0].output_most == 500);
    EXPECT_TRUE(supers[1].layer == 2 && supers[1].expert == 50 && supers[1].output_most == 80);
}

/* numpy 1.24: percentile(99.5) is 98.56. */
TEST(coverage, the_quantile_lies_between_its_neighbours)
{
    const struct super_expert all[] = {{0, 0, 100}, {0, 1, 1}, {0, 2, 4}, {0, 3, 2}};
    struct super_expert supers[4];
    float median = 0;

    ASSERT_EQ_U64(1, coverage_supers(all, 4, supers, &median));
    EXPECT_NEAR_F64(3, (double)median, 0);
    EXPECT_EQ_U64(0, supers[0].expert);
}

TEST(coverage, experts_that_no_token_reached_do_not_count)
{
    const struct super_expert all[] = {{0, 0, 0}, {0, 1, 28}, {0, 2, 0}, {0, 3, 20}, {0, 4, 0}};
    struct super_expert supers[5];
    float median = 0;

    EXPECT_EQ_U64(0, coverage_supers(all, 5, supers, &median));
    EXPECT_NEAR_F64(24, (double)median, 0);
}

TEST(coverage, experts_that_are_alike_have_no_super_among_them)
{
    struct super_expert all[EXPERTS], supers[EXPERTS];
    float median = 0;

    for (size_t i = 0; i < EXPERTS; i++)
        all[i] = (struct super_expert){0, i, 1.0f + (float)i / EXPERTS}; /* two lie above the quantile */
    EXPECT_EQ_U64(0, coverage_supers(all, EXPERTS, supers, &median));
    EXPECT_EQ_U64(0, coverage_supers(all, 0, supers, &median));
    EXPECT_NEAR_F64(0, (double)median, 0);
}

/* What a report says of them. */
TEST(coverage, super_experts_are_named_with_their_outputs)
{
    struct super_expert supers[] = {{3, 17, 812.5f}, {4, 2, 96}};
    struct coverage c = {.supers = supers, .super_count = 2, .median_most = 3.125f};
    struct buf text = {0}, card = {0};

    coverage_print(&c, &text);
    coverage_markdown(&c, &card);
    EXPECT_STR_HAS(text.data, "super experts, whose outputs are massive: 17 of layer 3 (812), 2 of layer 4 (96); the "
                              "median expert's go up to 3.12. Engines take one scheme for all experts of a layer");
    EXPECT_STR_HAS(card.data, "17 of layer 3 (812)");
    buf_release(&text);
    buf_release(&card);
}
