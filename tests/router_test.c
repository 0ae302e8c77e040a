#include "verify/router.h"

#include <math.h>
#include <string.h>

#include "tests/ct.h"

struct routing_case {
    const char *name;
    struct router rule;
    float logits[8], bias[8];
    uint32_t ids[4];
    float weights[4];
};

/* Worked by hand from the model's definition; the first is the example of the family's own description. */
static const struct routing_case cases[] = {
    {"two of four groups, by their two best",
     {SCORING_SIGMOID, TOPK_NOAUX_TC, 8, 3, 4, 2, true, 2.5f, NULL},
     {.2f, -.4f, 1.1f, 0, -1.5f, 2, .7f, .6f},
     {.30f, .20f, -.35f, .10f, .55f, -.30f, .05f, .05f},
     {0, 6, 7},
     {0.737566f, 0.896329f, 0.866105f}},
    {"without groups",
     {SCORING_SIGMOID, TOPK_NOAUX_TC, 8, 3, 1, 1, true, 2.5f, NULL},
     {.2f, -.4f, 1.1f, 0, -1.5f, 2, .7f, .6f},
     {.30f, .20f, -.35f, .10f, .55f, -.30f, .05f, .05f},
     {0, 4, 6},
     {0.9815328f, 0.3256558f, 1.1928114f}},
    {"negative scores stay in front of masked groups",
     {SCORING_SIGMOID, TOPK_NOAUX_TC, 8, 2, 4, 1, false, 1.0f, NULL},
     {0, 0, 0, 0, 0, 0, 0, 0},
     {-3, -3, -1, -2, -3, -3, -3, -3},
     {2, 3},
     {.5f, .5f}},
    {"ties go to the lower index",
     {SCORING_SIGMOID, TOPK_NOAUX_TC, 8, 3, 1, 1, false, 1.0f, NULL},
     {0, 0, 0, 0, 0, 0, 0, 0},
     {0, 1, 0, 1, 0, 0, 0, 0},
     {0, 1, 3},
     {.5f, .5f, .5f}},
    {"so do ties of groups",
     {SCORING_SIGMOID, TOPK_NOAUX_TC, 8, 2, 4, 1, false, 1.0f, NULL},
     {0, 0, 0, 0, 0, 0, 0, 0},
     {0, 0, 1, 0, 0, 1, 1, 0},
     {2, 3},
     {.5f, .5f}},
    {"a large bias steers and does not weigh",
     {SCORING_SIGMOID, TOPK_NOAUX_TC, 8, 1, 1, 1, false, 2.0f, NULL},
     {0, 9, 0, 0, 0, 0, 0, 0},
     {0, 0, 0, 0, 12, 0, 0, 0},
     {4},
     {1.0f}},
    {"softmax over all, groups by their best",
     {SCORING_SOFTMAX, TOPK_GROUP_LIMITED, 8, 2, 4, 2, false, 16.0f, NULL},
     {3, -9, 2, 2, 2.5f, -9, 0, 0}, /* the best of the groups: 3, 2, 2.5, 0 */
     {0},
     {0, 4},
     {16 * 0.4095212f, 16 * 0.2483872f}},
    {"greedy passes over groups",
     {SCORING_SOFTMAX, TOPK_GREEDY, 8, 2, 1, 1, false, 1.0f, NULL},
     {1, 1, 2, 3, 0, 0, 0, 0},
     {0},
     {2, 3},
     {0.2001849f, 0.5441590f}},
};

TEST(router, chooses_and_weighs_as_the_family_defines)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct routing_case *c = &cases[i];
        struct router r = c->rule;
        float scores[8], weights[4], scratch[64];
        uint32_t ids[4];

        ct_case("%s", c->name);
        ASSERT_TRUE(router_scratch_bytes(&r) <= sizeof scratch);
        r.bias = r.topk == TOPK_NOAUX_TC ? c->bias : NULL;
        router_score(&r, kernel_get(), c->logits, scores);
        router_choose(&r, scores, ids, weights, scratch);
        for (size_t j = 0; j < r.top_k; j++) {
            EXPECT_EQ_U64(c->ids[j], ids[j]);
            EXPECT_NEAR_F64(c->weights[j], weights[j], 2e-6 * c->weights[j]);
        }
    }
}

/* Groups that are let in hold fewer experts than are to be chosen: the rest are masked ones, from the lowest. */
TEST(router, fewer_experts_in_the_groups_than_are_chosen_is_no_endless_search)
{
    static const float bias[8] = {-9, -9, -9, -9, -9, -9, 0, 0};
    struct router r = {SCORING_SIGMOID, TOPK_NOAUX_TC, 8, 3, 4, 1, true, 1.0f, bias};
    float scores[8] = {0}, weights[3], scratch[64];
    uint32_t ids[3];

    router_choose(&r, scores, ids, weights, scratch);
    EXPECT_EQ_U64(0, ids[0]);
    EXPECT_EQ_U64(6, ids[1]);
    EXPECT_EQ_U64(7, ids[2]);
    EXPECT_EQ_F32(0.0f, weights[0]); /* all scores are 0: 0 / (0 + 1e-20) */
}
