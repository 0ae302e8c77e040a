#include "quant/expert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/vecmath.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

enum { HIDDEN = 160, INNER = 96, LAYER = 1500, SAMPLE = 300 };

/* A layer's inputs, of which the first `tokens` go to an expert. */
struct scene {
    float *x;
    struct moments prior;
    struct expert_layer layer;
    struct coded_matrix w[EXPERT_PARTS];
    struct coded mlp[EXPERT_PARTS], out[EXPERT_PARTS];
    struct expert_job job;
    void *memory, *output;
    struct expert_result result;
};

static bool read_x(void *ctx, size_t first, size_t count, float *x, struct err *e)
{
    const struct scene *s = ctx;

    (void)e;
    memcpy(x, s->x + first * HIDDEN, count * HIDDEN * sizeof *x);
    return true;
}

static void scene_make(struct scene *s, const struct kernel *k, size_t tokens, enum method gate_up, enum method down)
{
    *s = (struct scene){.x = malloc(LAYER * HIDDEN * sizeof *s->x)};
    ldlq_inputs(s->x, LAYER, HIDDEN, 80);
    ldlq_moments(&s->prior, k, s->x, LAYER, HIDDEN);
    for (size_t i = 1; i < tokens * HIDDEN; i++) /* its own correlations */
        s->x[i] = s->x[i] + 0.5f * s->x[i - 1];
    s->layer = (struct expert_layer){&s->prior, s->x + (LAYER - SAMPLE) * HIDDEN, SAMPLE};
    for (size_t p = 0; p < EXPERT_PARTS; p++) {
        ldlq_weights(&s->w[p], p == EXPERT_DOWN ? HIDDEN : INNER, p == EXPERT_DOWN ? INNER : HIDDEN, 81 + p);
        s->mlp[p] = (struct coded){s->w[p].scheme, s->w[p].rows, s->w[p].cols, s->w[p].parts};
        s->job.to[p] = scheme_of_int4(32, false);
        s->job.to[p].method = p == EXPERT_DOWN ? down : gate_up;
    }
    s->job.kernel = k;
    s->job.layer = &s->layer;
    s->job.mlp = s->mlp;
    s->job.options = calibrated_defaults(METHOD_LDLQ);
    s->job.tokens = tokens;
    s->job.inputs = read_x;
    s->job.ctx = s;
}

static bool scene_round(struct scene *s, struct err *e)
{
    s->memory = mem_aligned(expert_memory_bytes(&s->job));
    s->output = mem_aligned(expert_place_output(&s->job, NULL, NULL));
    expert_place_output(&s->job, s->out, s->output);
    return expert_round(&s->job, s->out, s->memory, &s->result, e);
}

static void scene_drop(struct scene *s)
{
    free(s->x);
    mem_free(s->prior.sum);
    mem_free(s->memory);
    mem_free(s->output);
    for (size_t p = 0; p < EXPERT_PARTS; p++)
        coded_release(&s->w[p]);
}

/* The bytes of one matrix by calibrated_round and moments of our own. */
static void expect_part(struct scene *s, enum expert_part part, const struct moments *own, const struct moments *prior)
{
    struct coded_matrix want;
    struct calibrated_options o = s->job.options;
    struct loss_matrix m = {
        .from = s->mlp[part].scheme, .to = s->job.to[part], .rows = s->mlp[part].rows, .cols = s->mlp[part].cols};
    void *memory = mem_aligned(calibrated_bytes(own->cols)),
         *scratch = mem_aligned(calibrated_scratch_bytes(own->cols));
    struct calibrated c;
    struct rounded r;
    struct err e = {0};

    o.method = m.to.method;
    coded_init(&want, &m.to, m.rows, m.cols);
    m.in = s->mlp[part].parts;
    m.out = want.parts;
    calibrated_make(&c, s->job.kernel, &o, own, prior, 1, memory, scratch);
    mem_free(scratch);
    scratch = mem_aligned(calibrated_round_scratch_bytes(&m));
    EXPECT_OK(calibrated_round(&c, &m, scratch, &r, &e), e);
    struct coded_matrix got = {m.to, m.rows, m.cols, s->out[part].parts};
    coded_expect_eq(&want, &got);
    EXPECT_NEAR_F64(r.loss.error, s->result.parts[part].loss.error, 0);
    EXPECT_EQ_I64(r.ending, s->result.parts[part].ending);
    coded_release(&want);
    mem_free(scratch);
    mem_free(memory);
}

/* silu(x G^T) (x U^T) of the rounded gate and up, from values and not from codes. */
static float *activations(const struct scene *s, size_t tokens)
{
    struct coded_matrix part[2];
    float *w[2], *a = malloc((tokens + 1) * INNER * sizeof *a);
    float up;

    for (size_t p = 0; p < 2; p++) {
        part[p] = (struct coded_matrix){s->job.to[p], INNER, HIDDEN, s->out[p].parts};
        w[p] = coded_values(&part[p]);
    }
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < INNER; r++) {
            float *to = &a[t * INNER + r];

            *to = s->job.kernel->vec->dot(s->x + t * HIDDEN, w[0] + r * HIDDEN, HIDDEN);
            up = s->job.kernel->vec->dot(s->x + t * HIDDEN, w[1] + r * HIDDEN, HIDDEN);
            s->job.kernel->vec->silu_mul(to, to, &up, 1);
        }
    free(w[0]);
    free(w[1]);
    return a;
}

/* Rows times sqrt(omega), by the formula of quant/expert.h. */
static void weigh(float *rows, size_t tokens, size_t cols, const float *weights, double mean_square)
{
    double even = fmin(1, 2.0 * (double)cols / (double)tokens);

    for (size_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < cols; c++)
            rows[t * cols + c] *=
                (float)sqrt(even + (1 - even) * (double)weights[t] * (double)weights[t] / mean_square);
}

TEST(expert, down_is_rounded_against_what_rounded_gate_and_up_give_it)
{
    enum { TOKENS = 900 };

    for (size_t i = 0; i < kernel_count(); i++) {
        struct scene s;
        struct moments x, a;
        struct err e = {0};
        float *from;

        if (!support_exact(i))
            continue;
        scene_make(&s, kernel_at(i), TOKENS, METHOD_LDLQ, METHOD_LDLQ);
        ASSERT_OK(scene_round(&s, &e), e);
        ldlq_moments(&x, kernel_at(i), s.x, TOKENS, HIDDEN);
        expect_part(&s, EXPERT_GATE, &x, &s.prior);
        expect_part(&s, EXPERT_UP, &x, &s.prior);
        from = activations(&s, TOKENS);
        ldlq_moments(&a, kernel_at(i), from, TOKENS, INNER);
        expect_part(&s, EXPERT_DOWN, &a, NULL);
        EXPECT_EQ_U64(TOKENS, s.result.inputs[0].tokens);
        EXPECT_EQ_U64(TOKENS, s.result.inputs[1].tokens);
        EXPECT_STR_EQ("ldlq", s.result.inputs[1].text);
        EXPECT_TRUE(s.result.inputs[0].to_prior > 0 && s.result.inputs[0].to_prior < 1);
        EXPECT_NEAR_F64(0, s.result.inputs[1].to_prior, 0);
        free(from);
        mem_free(x.sum);
        mem_free(a.sum);
        scene_drop(&s);
    }
}

TEST(expert, a_hot_one_is_measured_by_as_many_tokens_as_its_cap)
{
    enum { TOKENS = 1200, CAP = 500 };
    struct scene s;
    struct moments x, a;
    struct err e = {0};
    float *from;
    size_t kept = 0;

    scene_make(&s, support_best(), TOKENS, METHOD_LDLQ, METHOD_LDLQ);
    s.job.cap = CAP;
    ASSERT_OK(scene_round(&s, &e), e);
    for (size_t t = 0; t < TOKENS; t++)
        if (moments_takes(t, TOKENS, CAP))
            memmove(s.x + kept++ * HIDDEN, s.x + t * HIDDEN, HIDDEN * sizeof *s.x);
    ldlq_moments(&x, support_best(), s.x, CAP, HIDDEN);
    expect_part(&s, EXPERT_GATE, &x, &s.prior);
    from = activations(&s, CAP);
    ldlq_moments(&a, support_best(), from, CAP, INNER);
    expect_part(&s, EXPERT_DOWN, &a, NULL);
    EXPECT_EQ_U64(CAP, s.result.inputs[0].tokens);
    EXPECT_EQ_U64(CAP, s.result.inputs[1].tokens);
    free(from);
    mem_free(x.sum);
    mem_free(a.sum);
    scene_drop(&s);
}

/* Half of the tokens weigh three times as much. With 300 tokens and 160 columns all count alike, with 96 not quite. */
TEST(expert, tokens_count_by_their_routing_weights_when_there_are_many)
{
    static const size_t counts[] = {900, 300};

    for (size_t i = 0; i < 2; i++) {
        size_t n = counts[i];
        struct scene s;
        struct moments x, a;
        struct err e = {0};
        float *weights = malloc(n * sizeof *weights), *from;

        ct_case("%zu tokens", n);
        scene_make(&s, support_best(), n, METHOD_LDLQ, METHOD_LDLQ);
        for (size_t t = 0; t < n; t++)
            weights[t] = t % 2 ? 0.75f : 0.25f; /* mean square 0.3125 */
        s.job.weights = weights;
        ASSERT_OK(scene_round(&s, &e), e);
        from = activations(&s, n);
        weigh(s.x, n, HIDDEN, weights, 0.3125);
        weigh(from, n, INNER, weights, 0.3125);
        ldlq_moments(&x, support_best(), s.x, n, HIDDEN);
        ldlq_moments(&a, support_best(), from, n, INNER);
        expect_part(&s, EXPERT_GATE, &x, &s.prior);
        expect_part(&s, EXPERT_UP, &x, &s.prior);
        expect_part(&s, EXPERT_DOWN, &a, NULL);
        free(from);
        free(weights);
        mem_free(x.sum);
        mem_free(a.sum);
        scene_drop(&s);
    }
}

TEST(expert, the_textbook_knows_no_routing_weights)
{
    enum { TOKENS = 900 };
    struct scene s;
    struct moments x;
    struct err e = {0};
    float weights[TOKENS];

    scene_make(&s, support_best(), TOKENS, METHOD_GPTQ, METHOD_GPTQ);
    for (size_t t = 0; t < TOKENS; t++)
        weights[t] = t % 2 ? 0.75f : 0.25f;
    s.job.weights = weights;
    ASSERT_OK(scene_round(&s, &e), e);
    ldlq_moments(&x, support_best(), s.x, TOKENS, HIDDEN);
    expect_part(&s, EXPERT_GATE, &x, NULL);
    mem_free(x.sum);
    scene_drop(&s);
}

TEST(expert, one_that_no_token_reached_is_rounded_by_the_layer)
{
    struct scene s;
    struct moments none;
    struct err e = {0};

    scene_make(&s, support_best(), 0, METHOD_LDLQ, METHOD_LDLQ);
    ASSERT_OK(scene_round(&s, &e), e);
    moments_init(&none, support_best(), HIDDEN, mem_aligned(moments_bytes(HIDDEN)));
    expect_part(&s, EXPERT_GATE, &none, &s.prior);
    EXPECT_EQ_I64(ENDING_FEEDBACK, s.result.parts[EXPERT_DOWN].ending);
    EXPECT_STR_EQ("ldlq", s.result.inputs[1].text);
    EXPECT_EQ_U64(0, s.result.inputs[1].tokens);
    EXPECT_NEAR_F64(1, s.result.inputs[1].to_prior, 0);
    mem_free(none.sum);
    scene_drop(&s);

    /* With no layer to go by, it is searched, and says why. */
    scene_make(&s, support_best(), 0, METHOD_LDLQ, METHOD_LDLQ);
    s.layer = (struct expert_layer){0};
    ASSERT_OK(scene_round(&s, &e), e);
    EXPECT_EQ_I64(ENDING_SEARCH, s.result.parts[EXPERT_GATE].ending);
    EXPECT_EQ_I64(REASON_NO_TOKENS, s.result.parts[EXPERT_DOWN].reason);
    EXPECT_STR_EQ("search, no tokens reached it", s.result.inputs[0].text);
    scene_drop(&s);
}

/* The layer's sample through a starved expert: less output error on tokens it has not seen than by its own few alone.
 */
TEST(expert, a_starved_one_does_better_with_the_layers_sample)
{
    double loss[2];

    for (size_t with = 0; with < 2; with++) {
        struct scene s;
        struct moments a;
        struct err e = {0};
        float *from, *w, *q;

        scene_make(&s, support_best(), 3, METHOD_SEARCH, METHOD_LDLQ);
        s.layer.sample_tokens = with ? SAMPLE : 0;
        ASSERT_OK(scene_round(&s, &e), e);
        from = activations(&s, LAYER - SAMPLE);
        ldlq_moments(&a, support_best(), from, LAYER - SAMPLE, INNER);
        struct coded_matrix down = {s.job.to[EXPERT_DOWN], HIDDEN, INNER, s.out[EXPERT_DOWN].parts};
        w = coded_values(&s.w[EXPERT_DOWN]);
        q = coded_values(&down);
        loss[with] = ldlq_energy(&a, w, q, HIDDEN) / ldlq_energy(&a, w, NULL, HIDDEN);
        free(from);
        free(w);
        free(q);
        mem_free(a.sum);
        scene_drop(&s);
    }
    EXPECT_TRUE(loss[1] < 0.9 * loss[0]);
}

TEST(expert, targets_that_need_no_moments_are_done_as_asked)
{
    struct scene s;
    struct coded_matrix want;
    struct err e = {0};
    struct weight_error err2 = {0};

    scene_make(&s, support_best(), 400, METHOD_SEARCH, METHOD_SEARCH);
    s.job.to[EXPERT_DOWN] = s.mlp[EXPERT_DOWN].scheme;
    s.job.to[EXPERT_DOWN].method = METHOD_COPY;
    ASSERT_OK(scene_round(&s, &e), e);
    for (enum expert_part part = 0; part < EXPERT_PARTS; part++) {
        struct transform t = {
            .kernel = support_best(), .from = s.mlp[part].scheme, .to = s.job.to[part], .cols = s.mlp[part].cols};
        void *scratch = mem_aligned(transform_scratch_bytes(&t) + 1);

        ct_case("part %d", part);
        coded_init(&want, &t.to, s.mlp[part].rows, s.mlp[part].cols);
        EXPECT_OK(transform_run(&t, 0, want.rows, want.rows, &s.mlp[part].parts, &want.parts, scratch, &err2, &e), e);
        struct coded_matrix got = {t.to, want.rows, want.cols, s.out[part].parts};
        coded_expect_eq(&want, &got);
        EXPECT_EQ_I64(ENDING_PLAIN, s.result.parts[part].ending);
        EXPECT_EQ_U64(0, s.result.parts[part].loss.rows);
        coded_release(&want);
        mem_free(scratch);
    }
    scene_drop(&s);
}

TEST(expert, what_cannot_be_read_or_rounded_is_named)
{
    struct scene s;
    struct err e = {0};

    scene_make(&s, support_best(), 100, METHOD_LDLQ, METHOD_LDLQ);
    ((float *)s.w[EXPERT_UP].parts.part[PART_CODES])[7 * HIDDEN + 3] = NAN;
    EXPECT_FALSE(scene_round(&s, &e));
    EXPECT_ERR(e, ERR_FORMAT, "up_proj: value at row 7, column 3 is not finite");
    scene_drop(&s);
}
