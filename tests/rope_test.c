#include "verify/rope.h"

#include <math.h>

#include "tests/ct.h"

/* Published configurations; the frequencies are those of samples/training/dsv3.py, the scales worked by hand. */
struct yarn_case {
    const char *name;
    double theta, factor, beta_fast, beta_slow, all_dim; /* factor 0: no YaRN */
    double scale;                                        /* of the softmax */
    struct {
        size_t pair;
        double inverse;
    } at[6];
};

static const struct yarn_case cases[] = {
    /* clang-format off */
    {"V3", 10000, 40, 32, 1, 1, 0.1352337788608801,
     {{1, 0.749894202}, {10, 0.0562341325}, {11, 0.0390069261}, {16, 0.00549999997}, {23, 3.33380376e-05}, {31, 3.33380353e-06}}},
    {"V2-Lite", 10000, 40, 32, 1, 0.707, 0.1147213867929261,
     {{1, 0.749894202}, {12, 0.0268793609}, {19, 0.00137051358}, {22, 0.00017782794}, {31, 3.33380353e-06}}},
    {"Kimi-K2", 50000, 32, 1, 1, 1, 0.13086079996295005,
     {{9, 0.0476886109}, {19, 0.00162175996}, {20, 3.61404673e-05}, {31, 8.76441277e-07}}},
    {"Kimi-K2.5", 50000, 64, 32, 1, 1, 0.14467962580268923,
     {{9, 0.0437766574}, {19, 0.000158374998}, {20, 1.80702336e-05}, {31, 4.38220638e-07}}},
    {"Moonlight", 50000, 0, 0, 0, 0, 0.07216878364870322,
     {{1, 0.713111103}, {20, 0.00115649495}, {31, 2.80461209e-05}}},
    /* clang-format on */
};

static struct arch arch_of(const struct yarn_case *c)
{
    return (struct arch){
        .qk_nope_dim = 128,
        .qk_rope_dim = 64,
        .rope_theta = c->theta,
        .yarn = c->factor > 0,
        .yarn_factor = c->factor,
        .yarn_beta_fast = c->beta_fast,
        .yarn_beta_slow = c->beta_slow,
        .yarn_mscale = c->all_dim,
        .yarn_mscale_all_dim = c->all_dim,
        .yarn_has_mscale = c->factor > 0,
        .yarn_has_mscale_all_dim = c->factor > 0,
        .yarn_original_positions = 4096,
    };
}

TEST(rope, frequencies_and_softmax_scales_are_the_published_ones)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct yarn_case *c = &cases[i];
        struct arch a = arch_of(c);
        struct arena arena = {0};
        struct rope r;

        rope_init(&r, &arena, &a);
        ct_case("%s", c->name);
        EXPECT_EQ_U64(32, r.pairs);
        EXPECT_EQ_F32(1.0f, r.cos_scale);
        EXPECT_NEAR_F64(c->scale, r.softmax_scale, 1e-7 * c->scale);
        for (size_t j = 0; j < 6 && c->at[j].inverse > 0; j++) {
            ct_case("%s, pair %zu", c->name, c->at[j].pair);
            EXPECT_NEAR_F64(c->at[j].inverse, r.inverse[c->at[j].pair], 6e-8 * c->at[j].inverse);
        }
        arena_release(&arena);
    }
}

/* Without mscale keys cosines and sines carry it; with both keys, their ratio. */
TEST(rope, mscale_without_a_key_goes_into_cosines)
{
    struct arch a = arch_of(&cases[0]);
    struct arena arena = {0};
    struct rope r;

    a.yarn_has_mscale = a.yarn_has_mscale_all_dim = false;
    rope_init(&r, &arena, &a);
    EXPECT_NEAR_F64(1.3688879454113936, r.cos_scale, 1e-6);
    EXPECT_NEAR_F64(0.07216878364870322, r.softmax_scale, 1e-8);
    arena_release(&arena);
}

TEST(rope, turns_adjacent_pairs)
{
    static const struct {
        float inverse;
        uint64_t position;
        double a, b; /* what becomes of (1, 2) */
    } turned[] = {
        {1.0f, 5, 2.2015107, -0.3915999},
        {0.0390069261f, 1000, -1.6712788, 1.4855392},
        {0.000790569407f, 100000, 0.11951512, -2.2328718},
    };

    for (size_t i = 0; i < 3; i++) {
        float inverse[2] = {turned[i].inverse, 0.0f}, turns[4], v[4] = {1, 2, 3, 4};
        struct rope r = {.pairs = 2, .inverse = inverse, .cos_scale = 1.0f};

        ct_case("position %d", (int)turned[i].position);
        rope_turns(&r, turned[i].position, turns);
        rope_turn(&r, turns, v, false);
        EXPECT_NEAR_F64(turned[i].a, v[0], 3e-7);
        EXPECT_NEAR_F64(turned[i].b, v[1], 3e-7);
        EXPECT_EQ_F32(3.0f, v[2]); /* an angle of 0 */
        EXPECT_EQ_F32(4.0f, v[3]);
    }
}
