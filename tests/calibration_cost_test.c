#include "convert/calibration_cost.h"

#include <string.h>

#include "convert/calibration_rates.h"
#include "quant/moments.h"
#include "samples/generate/v3_layout.h"
#include "tests/ct.h"

#define EXPERTS (UINT64_C(7) << ROLE_EXPERT_GATE)

static bool v3_arch(struct arch *arch, struct arena *a)
{
    struct v3_layout l = {0};
    struct err e = {0};

    v3_layout_published(&l);
    const char *config = v3_layout_config(&l, a);
    return arch_parse(arch, a, config, strlen(config), &e) || ct_err(__FILE__, __LINE__, "arch", &e, ERR_NONE, NULL);
}

static struct batch contexts(struct arena *a, size_t tokens, size_t context)
{
    struct sequence *sequences = arena_array(a, tokens / context, sizeof *sequences);

    for (size_t i = 0; i < tokens / context; i++)
        sequences[i] = (struct sequence){.first = i * context, .tokens = context};
    return (struct batch){.tokens = tokens, .sequences = sequences, .sequence_count = tokens / context};
}

/* Of a compute plan for DeepSeek-V3 that a separate program made, to its two digits: routed experts of 58 layers, with
 * moments of gate and up's input, of down's, and of all tokens of a layer. Its forward pass has embedding and head as
 * well, and runs no expert twice; it caps no moments, which matters here for those of all of 262,144 tokens alone. */
TEST(calibration_cost, deepseek_v3s_experts_take_what_the_compute_plan_says)
{
    static const struct {
        size_t tokens;
        double forward, wide, down, all, factor, solve;
    } plan[] = {
        {65536, 5.1e15, 1.6e15, 1.3e14, 2.0e14, 1.9e15, 3.6e15},
        {262144, 2.1e16, 6.3e15, 5.1e14, 7.8e14 * MOMENTS_CAP_PER_COL * 7168 / 262144, 1.9e15, 3.6e15},
    };
    struct arena a = {0};
    struct arch arch;
    uint64_t roles[62] = {0};

    ASSERT_TRUE(v3_arch(&arch, &a));
    for (size_t layer = 3; layer < 61; layer++)
        roles[layer] = EXPERTS;
    for (size_t i = 0; i < sizeof plan / sizeof plan[0]; i++) {
        struct batch b = contexts(&a, plan[i].tokens, 2048);
        struct calibration_work w;
        double head = 2 * 129280 * 7168.0 * (double)plan[i].tokens;
        ct_case("%zu tokens", plan[i].tokens);
        calibration_work_count(&w, &arch, roles, &b);
        EXPECT_NEAR_F64(plan[i].forward, w.forward + head, 0.06 * plan[i].forward);
        EXPECT_NEAR_F64(plan[i].wide + plan[i].down + plan[i].all, w.moments, 0.03 * w.moments);
        EXPECT_NEAR_F64(plan[i].factor, w.factor, 0.03 * w.factor);
        EXPECT_NEAR_F64(plan[i].solve, w.solve, 0.03 * w.solve);
        EXPECT_NEAR_F64(58 * 256 * 44040192.0, w.search, 1);
        EXPECT_NEAR_F64(0, w.alone, 0);
    }
    arena_release(&a);
}

/* By hand, in a model of one dense layer: rows x cols of down are 18432 and 7168 the other way. */
TEST(calibration_cost, a_dense_layers_linears_are_one_threads)
{
    struct arena a = {0};
    struct arch arch;
    uint64_t roles[62] = {[0] = UINT64_C(7) << ROLE_DENSE_GATE};
    struct calibration_work none, w;

    ASSERT_TRUE(v3_arch(&arch, &a));
    struct batch b = contexts(&a, 4096, 512);
    calibration_work_count(&none, &arch, (const uint64_t[62]){0}, &b);
    calibration_work_count(&w, &arch, roles, &b);
    EXPECT_NEAR_F64(0, none.moments + none.factor + none.solve + none.search + none.twice, 0);
    EXPECT_NEAR_F64(none.forward, w.forward, 1);
    EXPECT_NEAR_F64(4.0 * 18432 * 7168 * 4096, w.twice, 1e3);
    EXPECT_NEAR_F64(4096.0 * (7168.0 * 7168 + 18432.0 * 18432), w.moments, 1e3);
    EXPECT_NEAR_F64((7168.0 * 7168 * 7168 + 18432.0 * 18432 * 18432) / 3, w.factor, 1e3);
    EXPECT_NEAR_F64(2 * 18432.0 * 7168 * 7168 + 7168.0 * 18432 * 18432, w.solve, 1e3);
    EXPECT_NEAR_F64(w.solve, w.alone, 1e3);
    arena_release(&a);
}

TEST(calibration_cost, threads_share_what_is_not_alone)
{
    struct calibration_work w = {
        .forward = 100, .twice = 20, .moments = 40, .factor = 10, .solve = 60, .search = 8, .alone = 30};
    struct calibration_rates r = {.product = 10, .moments = 10, .factor = 5, .solve = 6, .search = 4};

    EXPECT_NEAR_F64(230, calibration_work_flop(&w), 1e-12);
    EXPECT_NEAR_F64(12 + 4 + 2 + 10 + 2, calibration_core_seconds(&w, &r), 1e-12);
    EXPECT_NEAR_F64(30, calibration_wall_seconds(&w, &r, 1), 1e-12);
    EXPECT_NEAR_F64(6 + 24 / 4.0, calibration_wall_seconds(&w, &r, 4), 1e-12);
}

/* Rates are positive and of this world, whatever widths the model has. */
TEST(calibration_cost, every_rate_is_measured)
{
    static const uint64_t widths[] = {1, 200, 512};

    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        struct arch arch = {.hidden_size = widths[i]};
        struct calibration_rates r;
        calibration_rates_measure(&r, &arch);
        const double rates[] = {r.product, r.moments, r.factor, r.solve};
        for (size_t k = 0; k < sizeof rates / sizeof rates[0]; k++) {
            ct_case("width %d, rate %zu", (int)widths[i], k);
            EXPECT_TRUE(rates[k] > 1e6 && rates[k] < 1e13);
        }
        EXPECT_TRUE(r.search > 1e4 && r.search < 1e11);
    }
}
