#include "verify/layer_metrics.h"

#include <math.h>

#include "tests/ct.h"

TEST(layer_metrics, errors_are_relative_to_what_the_layer_added)
{
    /* 3-4-5: in (0, 0), out (3, 4), other (3, 9): error 5, update 5, state 5. Then a token with a huge state whose
     * layer added (1, 0) and missed it by a tenth. */
    static const float in[] = {0, 0, 1000, 0}, out[] = {3, 4, 1001, 0}, other[] = {3, 9, 1001, 0.1f};
    struct state_error s[2];

    for (size_t t = 0; t < 2; t++)
        state_compare(&s[t], in + 2 * t, out + 2 * t, other + 2 * t, 2);
    EXPECT_NEAR_F64(25, s[0].error2, 0);
    EXPECT_NEAR_F64(25, s[0].update2, 0);
    EXPECT_NEAR_F64(9 + 36, s[0].dot, 0);
    EXPECT_NEAR_F64(1, state_error_of_update(s, 1), 1e-15);
    EXPECT_NEAR_F64(sqrt(1.01 / 2), state_error_of_update(s, 2), 1e-8);
    EXPECT_NEAR_F64(sqrt((1 + 1e-2 / 1001 / 1001) / 2), state_error_of_state(s, 2), 1e-8);
    EXPECT_NEAR_F64(45 / (5 * sqrt(90)), state_cosine(s, 1), 1e-15);
}

TEST(layer_metrics, zero_states_have_no_surprise)
{
    static const float zero[3] = {0}, one[] = {1, 0, 0};
    struct state_error s;

    state_compare(&s, NULL, zero, zero, 3);
    EXPECT_TRUE(state_error_of_update(&s, 1) == 0 && state_error_of_state(&s, 1) == 0 && state_cosine(&s, 1) == 1);
    state_compare(&s, one, one, one, 3); /* a layer that adds nothing */
    EXPECT_TRUE(state_error_of_update(&s, 1) == 0 && state_cosine(&s, 1) == 1);
    state_compare(&s, one, one, zero, 3);
    EXPECT_TRUE(state_error_of_update(&s, 1) == 1 && state_cosine(&s, 1) == 0);
    state_compare(&s, zero, zero, one, 3);
    EXPECT_TRUE(isinf(state_error_of_update(&s, 1)));
}

TEST(layer_metrics, states_are_the_same_when_every_bit_is)
{
    static const float zero[] = {1, 0}, minus[] = {1, -0.0f};
    struct state_error s[2];

    state_compare(&s[0], NULL, zero, zero, 2);
    state_compare(&s[1], zero, zero, minus, 2);
    EXPECT_TRUE(s[0].same && !s[1].same && s[1].error2 == 0);
    EXPECT_TRUE(states_same(s, 1) && !states_same(s, 2));
}

TEST(layer_metrics, every_column_counts_once)
{
    float a[40], b[40];

    for (size_t i = 0; i < 40; i++) {
        a[i] = 1;
        b[i] = 2;
    }
    for (size_t n = 0; n <= 40; n++) {
        struct state_error s;
        ct_case("%zu", n);
        state_compare(&s, NULL, a, b, n);
        EXPECT_TRUE(s.error2 == (double)n && s.ref2 == (double)n && s.other2 == 4.0 * (double)n &&
                    s.dot == 2.0 * (double)n && s.update2 == 0);
    }
}

TEST(layer_metrics, routing_is_compared_as_sets)
{
    static const uint32_t ref[] = {0, 1, 2, 3, /**/ 0, 1, 2, 3, /**/ 4, 5, 6, 7};
    static const uint32_t other[] = {0, 1, 2, 3, /**/ 0, 2, 3, 9, /**/ 0, 1, 2, 3};
    struct routing_agreement r;
    uint64_t load[10] = {0};

    routing_compare(&r, ref, other, 3, 4);
    EXPECT_TRUE(r.tokens == 3 && r.changed == 2);
    EXPECT_NEAR_F64((1 + 0.75 + 0) / 3, r.overlap, 1e-15);
    EXPECT_NEAR_F64((1 + 0.6 + 0) / 3, r.jaccard, 1e-15);
    routing_count(load, other, 3, 4);
    EXPECT_TRUE(load[0] == 3 && load[1] == 2 && load[9] == 1 && load[4] == 0);
}

#define LAYERS 12u

static size_t first_outlier(const double *errors, const double *floors, const char *kinds, size_t layers)
{
    bool moe[LAYERS] = {0}, out[LAYERS] = {0};

    for (size_t i = 0; i < layers; i++)
        moe[i] = kinds[i] == 'm';
    size_t first = outliers_find(out, errors, floors, moe, layers);
    for (size_t i = 0; i < first && i < layers; i++)
        EXPECT_FALSE(out[i]);
    EXPECT_TRUE(first == NO_LAYER || out[first]);
    return first;
}

TEST(layer_metrics, the_layer_that_stands_out_is_found)
{
    static const double floor3[LAYERS] = {3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3};
    static const struct {
        const char *name, *kinds;
        double errors[LAYERS];
        size_t want;
    } cases[] = {
        {"one damaged of twelve", "dddmmmmmmmmm", {.1, .11, .1, .2, .21, .19, .2, .9, .22, .2, .21, .2}, 7},
        {"none", "dddmmmmmmmmm", {.1, .11, .1, .2, .21, .19, .2, .25, .22, .2, .21, .2}, NO_LAYER},
        {"a dense one, with too few of its kind",
         "dddmmmmmmmmm",
         {.1, .9, .1, .2, .21, .19, .2, .2, .22, .2, .2, .2},
         1},
        {"dense layers kept finer than the others",
         "dddmmmmmmmmm",
         {0, 0, 0, .2, .2, .2, .2, .2, .2, .2, .2, .2},
         NO_LAYER},
        {"of two, the first", "mmmmmmmmmmmm", {.2, .2, .21, 1.5, .2, .2, .2, .9, .22, .2, .21, .2}, 3},
        {"errors that vary much by nature",
         "mmmmmmmmmmmm",
         {.1, .5, .2, .9, .3, .05, .6, .15, .4, .8, .25, .7},
         NO_LAYER},
        {"below the BF16 floor is no damage",
         "mmmmmmmmmmmm",
         {1e-4, 1e-4, 5e-3, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4},
         NO_LAYER},
        {"the same to the last bit elsewhere", "mmmmmmmmmmmm", {0, 0, 0, 0, 1e-7, 0, 0, 0, 0, 0, 0, 0}, 4},
        {"nothing differs", "mmmmmmmmmmmm", {0}, NO_LAYER},
        {"NaN", "mmmmmmmmmmmm", {.1, .1, .1, .1, .1, NAN, .1, .1, .1, .1, .1, .1}, 5},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ct_case("%s", cases[i].name);
        EXPECT_EQ_U64(cases[i].want, first_outlier(cases[i].errors, floor3, cases[i].kinds, LAYERS));
    }
}

TEST(layer_metrics, four_layers_are_enough_and_one_has_no_peers)
{
    static const double damaged[] = {2e-3, .05, .6, .06}, golden[] = {1e-3, .034, .13, .08},
                        fine[] = {2e-3, .05, .07, .06}, one[] = {5};
    static const bool moe[] = {false, true, true, true};

    EXPECT_EQ_U64(2, first_outlier(damaged, NULL, "dmmm", 4));
    EXPECT_EQ_U64(2, first_outlier(golden, NULL, "dmmm", 4));
    EXPECT_EQ_U64(NO_LAYER, first_outlier(fine, NULL, "dmmm", 4));
    EXPECT_EQ_U64(NO_LAYER, first_outlier(one, NULL, "d", 1));
    EXPECT_NEAR_F64(.05, outlier_peer_median(damaged, moe, 4, 2), 0);
    EXPECT_TRUE(isnan(outlier_peer_median(one, moe, 1, 0)));
}
