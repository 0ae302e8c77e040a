#include "convert/eplb.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/ct.h"

/* The example of the EPLB repository's README: maps and counts as its own program gives them (commit and run by an
 * independent hand, and again by a second version). */
static const float loads[2][12] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                   {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};

static const struct {
    const char *name;
    uint64_t groups;
    bool hierarchical;
    uint32_t slots[2][16];
} cases[] = {
    {"hierarchical",
     4,
     true,
     {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}, {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}}},
    {"global, as 3 groups do not divide over 2 nodes",
     3,
     false,
     {{10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1}, {1, 10, 2, 4, 5, 11, 5, 0, 6, 7, 6, 3, 8, 8, 9, 7}}},
};

TEST(eplb, the_published_example_is_placed_alike)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct eplb_shape s = {.experts = 12, .replicas = 16, .groups = cases[i].groups, .nodes = 2, .ranks = 8};
        struct err e = {0};
        ct_case("%s", cases[i].name);
        ASSERT_OK(eplb_check(&s, &e), e);
        EXPECT_TRUE(cases[i].hierarchical == eplb_is_hierarchical(&s));
        for (size_t layer = 0; layer < 2; layer++) {
            uint32_t slots[16], replica[16], counts[12];
            eplb_place(&s, loads[layer], slots, replica, counts);
            EXPECT_MEM_EQ(cases[i].slots[layer], slots, sizeof slots);
        }
    }
}

TEST(eplb, replicas_are_counted_and_numbered_as_published)
{
    static const uint32_t want_counts[2][12] = {{1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1},
                                                {1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 1}};
    /* layer 0: the slots of each expert, by replica */
    static const int want_slots[12][2] = {{12, -1}, {15, 13}, {11, -1}, {6, -1}, {7, 5},  {0, 2},
                                          {1, -1},  {3, -1},  {4, -1},  {9, -1}, {8, 10}, {14, -1}};
    struct eplb_shape s = {.experts = 12, .replicas = 16, .groups = 4, .nodes = 2, .ranks = 8};
    uint32_t slots[16], replica[16], counts[12];

    for (size_t layer = 2; layer-- > 0;) {
        eplb_place(&s, loads[layer], slots, replica, counts);
        EXPECT_MEM_EQ(want_counts[layer], counts, sizeof counts);
    }
    for (int i = 0; i < 16; i++) {
        ct_case("slot %d", i);
        EXPECT_EQ_I64(i, want_slots[slots[i]][replica[i]]);
    }
}

/* What holds of any placement: every expert is somewhere, its replicas are numbered, groups stay on one node. */
TEST(eplb, every_expert_has_a_place_and_groups_stay_together)
{
    static const struct eplb_shape shapes[] = {
        {256, 256, 8, 1, 8}, {256, 288, 8, 4, 32}, {256, 320, 8, 8, 64}, {384, 416, 1, 4, 32},
        {64, 64, 1, 1, 1},   {64, 72, 8, 3, 9},    {16, 32, 4, 4, 32},
    };
    uint32_t x = 7;

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const struct eplb_shape *s = &shapes[i];
        float load[384];
        uint32_t slots[416], replica[416], counts[384], seen[384][32] = {0}, trivial[416], t_replica[416],
                                                        t_counts[384];
        int node_of_group[8];
        struct err e = {0};

        ct_case("shape %zu", i);
        ASSERT_OK(eplb_check(s, &e), e);
        memset(node_of_group, -1, sizeof node_of_group);
        for (size_t k = 0; k < s->experts; k++) {
            x = x * 1664525u + 1013904223u;
            load[k] = (float)(x >> 16) / (float)(1 + k % 37);
        }
        eplb_place(s, load, slots, replica, counts);
        for (size_t k = 0; k < s->replicas; k++) {
            ASSERT_TRUE(slots[k] < s->experts && replica[k] < counts[slots[k]] && counts[slots[k]] <= 32);
            EXPECT_EQ_U64(0, seen[slots[k]][replica[k]]++);
            int node = (int)(k * s->nodes / s->replicas);
            int *home = &node_of_group[slots[k] * s->groups / s->experts];
            if (eplb_is_hierarchical(s)) {
                EXPECT_TRUE(*home == -1 || *home == node);
                *home = node;
            }
        }
        for (size_t k = 0; k < s->experts; k++)
            for (size_t r = 0; r < counts[k]; r++)
                EXPECT_EQ_U64(1, seen[k][r]);
        eplb_trivial(s, trivial, t_replica, t_counts);
        EXPECT_TRUE(eplb_imbalance(s, load, slots, counts) <= eplb_imbalance(s, load, trivial, t_counts) + 1e-6);
    }
}

TEST(eplb, shapes_that_do_not_divide_are_refused_with_their_numbers)
{
    static const struct {
        struct eplb_shape shape;
        const char *want;
    } bad[] = {
        {{256, 256, 8, 1, 24}, "256 experts and 0 redundant ones do not divide over 24 ranks"},
        {{256, 272, 8, 1, 32}, "256 experts and 16 redundant ones do not divide over 32 ranks"},
        {{256, 256, 8, 3, 32}, "32 ranks do not divide over 3 nodes"},
        {{256, 255, 8, 1, 5}, "255 slots are fewer than 256 experts"},
        {{256, 256, 7, 1, 8}, "256 experts do not divide into 7 groups"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = {0};
        ct_case("%s", bad[i].want);
        EXPECT_FALSE(eplb_check(&bad[i].shape, &e));
        EXPECT_STR_EQ(bad[i].want, e.text);
    }
}

TEST(eplb, imbalance_is_the_largest_rank_over_the_mean)
{
    struct eplb_shape s = {.experts = 4, .replicas = 4, .groups = 1, .nodes = 1, .ranks = 2};
    const float load[4] = {4, 0, 1, 1}, none[4] = {0};
    uint32_t slots[4], replica[4], counts[4];

    eplb_trivial(&s, slots, replica, counts);
    EXPECT_NEAR_F64(4.0 / 3, eplb_imbalance(&s, load, slots, counts), 1e-12);
    EXPECT_NEAR_F64(1, eplb_imbalance(&s, none, slots, counts), 0);
}
