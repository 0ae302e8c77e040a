#include "convert/allocate.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "formats/base/random.h"
#include "tests/ct.h"

#define UNITS_MAX 7u

/* The least loss of all choices within so many bytes; infinity: there is none. */
static double brute_force(const struct allocate_unit *units, size_t count, uint64_t budget)
{
    double best = INFINITY;
    size_t at[UNITS_MAX] = {0};

    for (size_t u = 0; u < count;) {
        uint64_t bytes = 0;
        double loss = 0;
        for (size_t i = 0; i < count; i++) {
            bytes += units[i].options[at[i]].bytes;
            loss += units[i].options[at[i]].loss;
        }
        if (bytes <= budget && loss < best)
            best = loss;
        for (u = 0; u < count && ++at[u] == units[u].option_count; u++)
            at[u] = 0;
    }
    return best;
}

static uint64_t bytes_of(const struct allocate_unit *units, size_t count)
{
    uint64_t bytes = 0;

    for (size_t u = 0; u < count; u++)
        bytes += units[u].options[units[u].chosen].bytes;
    return bytes;
}

static double largest_saving(const struct allocate_unit *units, size_t count)
{
    double most = 0;

    for (size_t u = 0; u < count; u++)
        for (size_t i = 0; i < units[u].option_count; i++)
            for (size_t k = 0; k < units[u].option_count; k++)
                if (units[u].options[i].loss - units[u].options[k].loss > most && isfinite(units[u].options[i].loss))
                    most = units[u].options[i].loss - units[u].options[k].loss;
    return most;
}

static void draw_units(struct allocate_unit *units, size_t count, struct random_state *r)
{
    memset(units, 0, count * sizeof *units);
    for (size_t u = 0; u < count; u++) {
        units[u].weights = 64;
        units[u].option_count = 1 + random_below(r, 4);
        for (size_t i = 0; i < units[u].option_count; i++)
            units[u].options[i] =
                (struct allocate_option){.bytes = 20 + random_below(r, 60), .loss = (double)random_below(r, 1000)};
    }
}

/* Between what the bound promises and what the step that did not fit allows, on cases small enough to try all. */
TEST(allocate, a_choice_is_within_its_bound_of_the_best_of_all_choices)
{
    struct random_state r = {.counter = 11};
    size_t exact = 0, tried = 0;

    for (size_t round = 0; round < 400; round++) {
        struct allocate_unit units[UNITS_MAX];
        struct allocation a;
        struct err e = {0};
        size_t count = 1 + random_below(&r, UNITS_MAX);
        double target = 3 + 7 * random_unit(&r);
        draw_units(units, count, &r);
        uint64_t budget = (uint64_t)(target * (double)(count * 64) / 8);
        double best = brute_force(units, count, budget);

        ct_case("round %zu: %zu units, %g bits", round, count, target);
        if (!allocate(units, count, target, &a, &e)) {
            EXPECT_TRUE(isinf(best));
            EXPECT_ERR(e, ERR_UNSUPPORTED, "is below the least there is");
            continue;
        }
        ASSERT_TRUE(isfinite(best));
        EXPECT_EQ_U64(bytes_of(units, count), a.bytes);
        EXPECT_TRUE(a.bytes <= budget);
        EXPECT_TRUE(a.loss >= best - 1e-9);
        EXPECT_TRUE(a.bound <= best + 1e-9);
        EXPECT_TRUE(a.loss - a.bound <= largest_saving(units, count) + 1e-9);
        tried++;
        exact += a.loss <= best + 1e-9;
    }
    EXPECT_TRUE(tried > 200);
    EXPECT_TRUE(exact * 10 > tried * 8); /* the fill finds the best of all in most small cases */
}

/* Where the budget is just what a price asks for there is no gap. */
TEST(allocate, a_corner_of_the_hull_is_met_exactly)
{
    struct random_state r = {.counter = 5};

    for (size_t round = 0; round < 50; round++) {
        struct allocate_unit units[UNITS_MAX];
        struct allocation wide, same;
        struct err e = {0};
        draw_units(units, UNITS_MAX, &r);
        ASSERT_OK(allocate(units, UNITS_MAX, 1e9, &wide, &e), e);
        ct_case("round %zu", round);
        EXPECT_NEAR_F64(wide.bound, wide.loss, 1e-9);
        EXPECT_NEAR_F64(brute_force(units, UNITS_MAX, UINT64_MAX), wide.loss, 1e-9);
        EXPECT_NEAR_F64(wide.bits_most, allocate_bits(wide.bytes, wide.weights), 1e-12);
        ASSERT_OK(allocate(units, UNITS_MAX, wide.bits_most, &same, &e), e);
        EXPECT_EQ_U64(wide.bytes, same.bytes);
    }
}

/* int4 g128, int4 g32 and FP8 of DeepSeek-V3's experts. */
static struct allocate_unit v3_unit(double g128, double g32)
{
    return (struct allocate_unit){.weights = 1024, .option_count = 3, .options = {{528, g128}, {576, g32}, {1024, 0}}};
}

TEST(allocate, bits_go_where_a_byte_saves_most)
{
    struct allocate_unit units[] = {v3_unit(10, 4), v3_unit(100, 40), v3_unit(1, 0.4)};
    struct allocation a;
    struct err e = {0};

    ASSERT_OK(allocate(units, 3, 4.125, &a, &e), e);
    EXPECT_EQ_U64(0, units[0].chosen);
    EXPECT_EQ_U64(0, units[1].chosen);
    EXPECT_EQ_U64(0, units[2].chosen);
    ASSERT_OK(allocate(units, 3, 4.25, &a, &e), e);
    EXPECT_EQ_U64(0, units[0].chosen);
    EXPECT_EQ_U64(1, units[1].chosen);
    EXPECT_EQ_U64(0, units[2].chosen);
    EXPECT_NEAR_F64(51, a.loss, 1e-12);
    ASSERT_OK(allocate(units, 3, 5.6, &a, &e), e);
    EXPECT_EQ_U64(1, units[0].chosen);
    EXPECT_EQ_U64(2, units[1].chosen);
    EXPECT_EQ_U64(0, units[2].chosen);
}

TEST(allocate, of_equal_units_the_lower_is_first)
{
    struct allocate_unit units[] = {v3_unit(10, 4), v3_unit(10, 4), v3_unit(10, 4)};
    struct allocation a;
    struct err e = {0};

    ASSERT_OK(allocate(units, 3, 4.375, &a, &e), e);
    EXPECT_EQ_U64(1, units[0].chosen);
    EXPECT_EQ_U64(1, units[1].chosen);
    EXPECT_EQ_U64(0, units[2].chosen);
}

TEST(allocate, what_costs_more_and_saves_nothing_is_not_taken)
{
    struct allocate_unit units[] = {
        {.weights = 8, .option_count = 3, .options = {{4, 5}, {5, 5}, {6, 7}}},
        {.weights = 8, .option_count = 3, .options = {{4, INFINITY}, {6, 2}, {6, 2}}},
    };
    struct allocation a;
    struct err e = {0};

    ASSERT_OK(allocate(units, 2, 64, &a, &e), e);
    EXPECT_EQ_U64(0, units[0].chosen);
    EXPECT_EQ_U64(1, units[1].chosen);
    EXPECT_NEAR_F64(5, a.bits_most, 1e-12);
    EXPECT_NEAR_F64(5, a.bits_least, 1e-12);
}

/* Three options on a line: the steps between them are worth the same, and the nearer is first. */
TEST(allocate, corners_on_one_line_are_met_one_by_one)
{
    static const struct {
        double target;
        size_t chosen;
    } cases[] = {{4, 0}, {5, 0}, {6, 1}, {7, 1}, {8, 2}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct allocate_unit units[] = {{.weights = 8, .option_count = 3, .options = {{4, 8}, {6, 4}, {8, 0}}}};
        struct allocation a;
        struct err e = {0};
        ct_case("target %g", cases[i].target);
        ASSERT_OK(allocate(units, 1, cases[i].target, &a, &e), e);
        EXPECT_EQ_U64(cases[i].chosen, units[0].chosen);
        EXPECT_EQ_U64(4 + 2 * cases[i].chosen, a.bytes);
    }
}

/* Moves off the hull are for the fill: 5 bytes are not a corner, but they fit. */
TEST(allocate, what_is_left_is_filled_with_what_fits)
{
    struct allocate_unit units[] = {{.weights = 8, .option_count = 3, .options = {{4, 10}, {5, 9}, {8, 0}}}};
    struct allocation a;
    struct err e = {0};

    ASSERT_OK(allocate(units, 1, 6, &a, &e), e);
    EXPECT_EQ_U64(1, units[0].chosen);
    EXPECT_NEAR_F64(9, a.loss, 1e-12);
    EXPECT_NEAR_F64(5, a.bound, 1e-12); /* half way from 10 to 0 */
}

TEST(allocate, what_cannot_be_chosen_is_refused)
{
    static const double targets[] = {4.1, 0, -1, NAN};
    struct allocate_unit none = {.weights = 8, .option_count = 1, .options = {{4, INFINITY}}};
    struct allocate_unit units[] = {v3_unit(10, 4)};
    struct allocation a;

    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        struct err e = {0};
        ct_case("target %g", targets[i]);
        EXPECT_FALSE(allocate(units, 1, targets[i], &a, &e));
        EXPECT_ERR(e, ERR_UNSUPPORTED, "is below the least there is, 4.1250");
    }
    struct err e = {0}, empty = {0};
    EXPECT_FALSE(allocate(&none, 1, 8, &a, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "unit 0 has no option");
    EXPECT_FALSE(allocate(units, 0, 8, &a, &empty));
    EXPECT_ERR(empty, ERR_UNSUPPORTED, "nothing to choose");
}
