#include "convert/coactive.h"

#include <string.h>

#include "samples/generate/synthetic_trace.h"
#include "tests/ct.h"

static const char config[HASH_HEX_BYTES] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* V3's experts as FP8 and as int4 with groups of 128, windows of 64 MB. */
static const struct coactive_geometry fp8 = {44050944, 64000000}, int4 = {22708224, 64000000};

TEST(coactive, windows_are_counted_as_by_hand)
{
    static const struct {
        int32_t trace[3];
        uint64_t expert, window;
        double want;
    } cases[] = {
        {{0, 1, 2}, 64, 64, 3.75}, /* three windows, and four in three phases of four */
        {{0, 1, 2}, 16, 64, 1.5},  /* 48 bytes: phases 32 and 48 cut them */
        {{0, 4, 8}, 64, 64, 5.25}, /* 3, or 6 when cut */
        {{0, 1, 9}, 128, 64, 7.5}, /* 4 + 2, and 5 + 3 in three of four */
    };
    uint32_t place[10];

    for (uint32_t i = 0; i < 10; i++)
        place[i] = i;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct coactive_geometry g = {cases[i].expert, cases[i].window};
        ct_case("case %zu", i);
        EXPECT_NEAR_F64(cases[i].want, coactive_windows(cases[i].trace, 3, 0, 1, place, &g, NULL), 1e-12);
    }
}

/* A token's windows with the experts where an order puts them. */
static double windows_of(const struct routing_layer *l, const uint32_t *order, uint64_t experts, uint64_t k,
                         const struct coactive_geometry *g)
{
    uint32_t place[512];

    for (uint32_t i = 0; i < experts; i++)
        place[order[i]] = i;
    return coactive_windows(l->trace, k, 0, (size_t)l->tokens, place, g, NULL);
}

/* The structure follows from seed and layer; what is drawn behind it goes on: the second half has not been seen. */
static void learn_and_hold_out(const struct synthetic_trace *t, const struct coactive_geometry *g, uint64_t groups,
                               double *index, double *own, struct coactive_gain *gain)
{
    struct routing_stats all = {0}, learn = {0};
    uint32_t order[256], natural[256], seen[256] = {0};
    size_t half = (size_t)t->tokens / 2;

    routing_stats_init(&all, 256, 8, 4, config, true);
    routing_stats_init(&learn, 256, 8, 4, config, true);
    synthetic_trace_add(&all, 3, t);
    routing_stats_add(&learn, 3, (const uint32_t *)all.items[0].trace, all.items[0].trace_weights, half);
    coactive_order(&learn.items[0], 256, 8, groups, g, order, gain);
    for (uint32_t i = 0; i < 256; i++) {
        seen[order[i]]++;
        natural[i] = i;
    }
    for (size_t i = 0; i < 256; i++)
        EXPECT_EQ_U64(1, seen[i]);
    struct routing_layer held = all.items[0];
    held.trace += half * 8;
    held.tokens -= half;
    *index = windows_of(&held, natural, 256, 8, g);
    *own = windows_of(&held, order, 256, 8, g);
    routing_stats_release(&all);
    routing_stats_release(&learn);
}

TEST(coactive, planted_communities_are_found)
{
    static const struct {
        const char *name;
        struct synthetic_trace trace;
        uint64_t groups;
        double save[2]; /* of the windows, at least: FP8, int4 */
    } cases[] = {
        {"32 communities of 8", {4000, 32, 0.8, 0, 1, 1}, 1, {0.25, 0.35}},
        {"16 communities of 16, of unlike loads", {4000, 16, 0.9, 0.7, 1, 2}, 1, {0.24, 0.35}},
        {"32 communities inside 8 groups that stay together", {4000, 32, 0.8, 0, 8, 3}, 8, {0.2, 0.25}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (unsigned k = 0; k < 2; k++) {
            double index = 0, own = 0;
            struct coactive_gain gain;
            ct_case("%s, %s", cases[i].name, k ? "int4" : "fp8");
            learn_and_hold_out(&cases[i].trace, k ? &int4 : &fp8, cases[i].groups, &index, &own, &gain);
            EXPECT_TRUE(gain.checked && !gain.kept_index);
            EXPECT_TRUE(own <= index * (1 - cases[i].save[k]));
        }
}

/* No structure, or too little to tell: index order. */
TEST(coactive, is_never_worse_than_index_order_on_tokens_not_seen)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct synthetic_trace noise = {.tokens = 600, .communities = 1, .groups = 1, .seed = seed};
        double index = 0, own = 0;
        struct coactive_gain gain;
        noise.communities = seed % 3 ? 1 : 32;
        noise.loyalty = 0.02;
        noise.zipf = seed % 2 ? 0 : 1;
        ct_case("seed %d", (int)seed);
        learn_and_hold_out(&noise, &int4, 1, &index, &own, &gain);
        EXPECT_TRUE(own <= index);
    }
}

TEST(coactive, too_few_tokens_keep_index_order)
{
    struct synthetic_trace t = {.tokens = 60, .communities = 32, .loyalty = 0.9, .groups = 1, .seed = 1};
    double index = 0, own = 0;
    struct coactive_gain gain;

    learn_and_hold_out(&t, &int4, 1, &index, &own, &gain);
    EXPECT_TRUE(gain.kept_index && !gain.checked);
    EXPECT_NEAR_F64(index, own, 0);
}
