#include "quant/shrink.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

enum { COLS = 70, LAYER = 4000 };

static const struct shrink_options usual = {.mu = 2, .mu_alone = 2, .pseudo_tokens = SHRINK_PSEUDO_TOKENS};

/* The formulas of quant/shrink.h once more, in float64 and without thought for memory. */
struct plain {
    double to_prior, to_diagonal, noise;
    double d[COLS], c2[COLS][COLS];
};

static double norm(const double c[COLS][COLS])
{
    double sum = 0;

    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++)
            sum += i == j ? 0 : c[i][j] * c[i][j];
    return sum;
}

static void correlate(double c[COLS][COLS], const struct moments *m)
{
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++) {
            double d = (double)m->sum[i * m->stride + i] * (double)m->sum[j * m->stride + j];
            c[i][j] = d > 0 ? (double)m->sum[i * m->stride + j] / sqrt(d) : 0;
        }
}

static double noise(const struct moments *m, const double c[COLS][COLS])
{
    double n = (double)m->tokens;

    return fmax(0, (m->spread / n - norm(c)) / (n - 1));
}

static void plain_shrink(struct plain *p, const struct moments *own, const struct moments *prior)
{
    static double c[COLS][COLS], ca[COLS][COLS], apart[COLS][COLS], c1[COLS][COLS];
    double n = (double)own->tokens, v1;

    correlate(c, own);
    correlate(ca, prior);
    for (size_t i = 0; i < COLS; i++) {
        size_t at = i * own->stride + i;
        p->d[i] = ((double)own->sum[at] + 32 * (double)prior->sum[at] / (double)prior->tokens) / (n + 32);
        for (size_t j = 0; j < COLS; j++)
            apart[i][j] = c[i][j] - ca[i][j];
    }
    p->noise = noise(own, c);
    p->to_prior = fmin(1, 2 * p->noise / norm(apart));
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++)
            c1[i][j] = (1 - p->to_prior) * c[i][j] + p->to_prior * ca[i][j];
    v1 = (1 - p->to_prior) * (1 - p->to_prior) * p->noise + p->to_prior * p->to_prior * noise(prior, ca);
    p->to_diagonal = fmin(0.98, 2 * v1 / norm(c1));
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++)
            p->c2[i][j] = i == j ? 1.0001 : (1 - p->to_diagonal) * c1[i][j];
}

/* Own tokens that mix differently from the layer's. */
struct scene {
    float *x;
    struct moments own, layer;
    void *memory;
};

static void scene_make(struct scene *s, size_t tokens)
{
    s->x = malloc(LAYER * COLS * sizeof *s->x);
    ldlq_inputs(s->x, LAYER, COLS, 5);
    ldlq_moments(&s->layer, kernel_at(0), s->x, LAYER, COLS);
    for (size_t t = 0; t < tokens; t++)
        for (size_t c = 1; c < COLS; c++)
            s->x[t * COLS + c] = s->x[t * COLS + c] + 0.5f * s->x[t * COLS + c - 1];
    ldlq_moments(&s->own, kernel_at(0), s->x, tokens, COLS);
    s->memory = mem_aligned(shrink_bytes(COLS));
}

static void scene_drop(struct scene *s)
{
    free(s->x);
    mem_free(s->own.sum);
    mem_free(s->layer.sum);
    mem_free(s->memory);
}

TEST(shrink, intensities_and_matrix_are_those_of_the_formulas)
{
    static const size_t tokens[] = {2, 10, 40, 300, 4000};
    static struct plain want;
    double last = 2;

    for (size_t c = 0; c < sizeof tokens / sizeof tokens[0]; c++) {
        struct scene s;
        struct shrunk got;
        float row[128];

        ct_case("%zu tokens", tokens[c]);
        scene_make(&s, tokens[c]);
        plain_shrink(&want, &s.own, &s.layer);
        ASSERT_TRUE(shrink_moments(&got, &s.own, &s.layer, &usual, s.memory));
        EXPECT_NEAR_F64(want.noise, got.noise, 1e-4 * want.noise + 1e-6);
        EXPECT_NEAR_F64(want.to_prior, got.to_prior, 1e-4);
        EXPECT_NEAR_F64(want.to_diagonal, got.to_diagonal, 1e-4);
        EXPECT_TRUE(got.to_prior < last);
        for (size_t i = 0; i < COLS; i++) {
            EXPECT_NEAR_F64(1, (double)got.variance[i] / want.d[i], 1e-6);
            shrink_row(&got, i, row);
            for (size_t j = 0; j < COLS; j++)
                EXPECT_NEAR_F64(want.c2[i][j], (double)row[j], 1e-4);
            for (size_t j = COLS; j < 96; j++)
                EXPECT_EQ_F32(0, row[j]);
        }
        last = got.to_prior + 1e-9;
        scene_drop(&s);
    }
}

TEST(shrink, an_expert_that_no_token_reached_is_the_layer)
{
    struct scene s;
    struct shrunk got, layer;
    void *memory = mem_aligned(shrink_bytes(COLS));
    float a[128], b[128];

    scene_make(&s, 0);
    ASSERT_TRUE(shrink_moments(&got, &s.own, &s.layer, &usual, s.memory));
    ASSERT_TRUE(shrink_moments(&layer, &s.layer, NULL, &usual, memory));
    EXPECT_NEAR_F64(1, got.to_prior, 0);
    EXPECT_NEAR_F64(layer.to_diagonal, got.to_diagonal, 1e-9);
    for (size_t i = 0; i < COLS; i++) {
        EXPECT_NEAR_F64(1, (double)(got.variance[i] / layer.variance[i]), 1e-6);
        shrink_row(&got, i, a);
        shrink_row(&layer, i, b);
        for (size_t j = 0; j < COLS; j++)
            EXPECT_NEAR_F64((double)b[j], (double)a[j], 1e-6);
    }
    mem_free(memory);
    scene_drop(&s);
}

TEST(shrink, one_token_says_nothing_about_correlations)
{
    struct scene s;
    struct shrunk got;

    scene_make(&s, 1);
    ASSERT_TRUE(shrink_moments(&got, &s.own, &s.layer, &usual, s.memory));
    EXPECT_NEAR_F64(1, got.to_prior, 0);
    ASSERT_TRUE(shrink_moments(&got, &s.own, NULL, &usual, s.memory));
    EXPECT_NEAR_F64(0, got.to_prior, 0);
    EXPECT_NEAR_F64(0.98, got.to_diagonal, 0);
    scene_drop(&s);
}

TEST(shrink, mu_is_how_much_the_noise_counts)
{
    struct scene s;
    struct shrunk one, two;
    struct shrink_options half = {.mu = 2, .mu_alone = 1, .pseudo_tokens = 32};

    scene_make(&s, 500);
    ASSERT_TRUE(shrink_moments(&one, &s.own, NULL, &half, s.memory));
    ASSERT_TRUE(shrink_moments(&two, &s.own, NULL, &usual, s.memory));
    EXPECT_TRUE(one.to_diagonal > 0);
    EXPECT_NEAR_F64(2, two.to_diagonal / one.to_diagonal, 1e-9);
    half = (struct shrink_options){.mu = 1, .mu_alone = 2, .pseudo_tokens = 32};
    ASSERT_TRUE(shrink_moments(&one, &s.own, &s.layer, &half, s.memory));
    ASSERT_TRUE(shrink_moments(&two, &s.own, &s.layer, &usual, s.memory));
    EXPECT_TRUE(one.to_prior > 0 && two.to_prior < 1);
    EXPECT_NEAR_F64(2, two.to_prior / one.to_prior, 1e-9);
    scene_drop(&s);
}

TEST(shrink, dead_columns_stand_alone)
{
    struct scene s;
    struct shrunk got;
    float row[128];

    scene_make(&s, 200);
    for (size_t t = 0; t < LAYER; t++)
        s.x[t * COLS + 17] = 0;
    mem_free(s.own.sum);
    ldlq_moments(&s.own, kernel_at(0), s.x, 200, COLS);
    ASSERT_TRUE(shrink_moments(&got, &s.own, NULL, &usual, s.memory));
    EXPECT_EQ_U64(1, got.dead);
    EXPECT_TRUE(got.variance[17] > 0);
    shrink_row(&got, 17, row);
    for (size_t j = 0; j < COLS; j++)
        EXPECT_EQ_F32(j == 17 ? 1.0001f : 0, row[j]);
    shrink_row(&got, 16, row);
    EXPECT_EQ_F32(0, row[17]);
    EXPECT_TRUE(row[15] != 0);
    /* What the layer knows of it is not lost. */
    ASSERT_TRUE(shrink_moments(&got, &s.own, &s.layer, &usual, s.memory));
    EXPECT_EQ_U64(0, got.dead);
    scene_drop(&s);
}

TEST(shrink, nothing_to_go_by_is_said)
{
    struct scene s;
    struct shrunk got;
    struct moments none;

    scene_make(&s, 20);
    moments_init(&none, kernel_at(0), COLS, mem_aligned(moments_bytes(COLS)));
    EXPECT_FALSE(shrink_moments(&got, &none, NULL, &usual, s.memory));
    EXPECT_FALSE(shrink_moments(&got, &none, &none, &usual, s.memory));
    EXPECT_FALSE(shrink_damp(&got, &none, 0.01, s.memory));
    none.tokens = 5;
    EXPECT_FALSE(shrink_moments(&got, &none, NULL, &usual, s.memory));
    EXPECT_FALSE(shrink_damp(&got, &none, 0.01, s.memory));
    mem_free(none.sum);
    scene_drop(&s);
}

TEST(shrink, damping_adds_a_share_of_the_mean_diagonal)
{
    struct scene s;
    struct shrunk got;
    float row[128];
    double mean = 0;

    scene_make(&s, 300);
    for (size_t j = 0; j < COLS; j++)
        mean += (double)moments_variance(&s.own, j) / COLS;
    ASSERT_TRUE(shrink_damp(&got, &s.own, 0.01, s.memory));
    shrink_row(&got, 3, row);
    for (size_t j = 0; j < COLS; j++) {
        double want = (double)s.own.sum[3 * s.own.stride + j] / 300 + (j == 3 ? 0.01 * mean : 0);
        EXPECT_NEAR_F64(want, (double)row[j] * sqrt((double)got.variance[3] * (double)got.variance[j]), 1e-5);
    }
    scene_drop(&s);
}

/* ---- D alone ---- */

TEST(shrink, variances_of_sums_are_those_of_the_moments)
{
    static const size_t tokens[] = {2, 300, 4000};

    for (size_t c = 0; c < sizeof tokens / sizeof tokens[0]; c++) {
        double own[COLS], prior[COLS];
        float got[COLS];
        struct scene s;
        struct shrunk want;

        ct_case("%zu tokens", tokens[c]);
        scene_make(&s, tokens[c]);
        for (size_t j = 0; j < COLS; j++) {
            own[j] = (double)s.own.sum[j * s.own.stride + j];
            prior[j] = (double)s.layer.sum[j * s.layer.stride + j];
        }
        const struct channel_sums mine = {own, s.own.tokens}, all = {prior, s.layer.tokens};
        ASSERT_TRUE(shrink_moments(&want, &s.own, &s.layer, &usual, s.memory));
        ASSERT_TRUE(shrink_variances(got, COLS, &mine, &all, SHRINK_PSEUDO_TOKENS));
        for (size_t j = 0; j < COLS; j++)
            EXPECT_NEAR_F64((double)want.variance[j], (double)got[j], 1e-6 * (double)want.variance[j]);
        ASSERT_TRUE(shrink_moments(&want, &s.own, NULL, &usual, s.memory));
        ASSERT_TRUE(shrink_variances(got, COLS, &mine, NULL, SHRINK_PSEUDO_TOKENS));
        for (size_t j = 0; j < COLS; j++)
            EXPECT_NEAR_F64((double)want.variance[j], (double)got[j], 1e-6 * (double)want.variance[j]);
        scene_drop(&s);
    }
}

TEST(shrink, variances_without_tokens_are_the_priors_and_dead_ones_are_small)
{
    static const double sums[] = {8, 0, 4}, silent[] = {0, 0, 0};
    const struct channel_sums none = {NULL, 0}, some = {sums, 4}, nothing = {silent, 4};
    float got[3];

    ASSERT_TRUE(shrink_variances(got, 3, &none, &some, 32));
    EXPECT_EQ_F32(2, got[0]);
    EXPECT_NEAR_F64(1e-6, (double)got[1], 1e-12); /* of the mean, 1 */
    EXPECT_EQ_F32(1, got[2]);
    EXPECT_TRUE(!shrink_variances(got, 3, &none, NULL, 32));
    EXPECT_TRUE(!shrink_variances(got, 3, &none, &none, 32));
    EXPECT_TRUE(!shrink_variances(got, 3, &nothing, &nothing, 32));
}
