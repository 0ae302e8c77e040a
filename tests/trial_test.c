#include "quant/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/channels.h"
#include "quant/vecmath.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

enum { HIDDEN = 128, INNER = 128, LAYER = 340, SAMPLE = 90 };

/* A layer's inputs, of which the first `tokens` go to an expert; BF16 matrices. */
struct scene {
    float *x;
    struct moments prior;
    struct expert_layer layer;
    struct coded_matrix w[EXPERT_PARTS];
    struct coded mlp[EXPERT_PARTS];
    struct expert_job job;
};

static bool read_x(void *ctx, size_t first, size_t count, float *x, struct err *e)
{
    const struct scene *s = ctx;

    (void)e;
    memcpy(x, s->x + first * HIDDEN, count * HIDDEN * sizeof *x);
    return true;
}

static void scene_make(struct scene *s, size_t tokens)
{
    const struct kernel *k = kernel_get();

    *s = (struct scene){.x = malloc(LAYER * HIDDEN * sizeof *s->x)};
    ldlq_inputs(s->x, LAYER, HIDDEN, 80);
    ldlq_moments(&s->prior, k, s->x, LAYER, HIDDEN);
    s->layer = (struct expert_layer){&s->prior, s->x + (LAYER - SAMPLE) * HIDDEN, SAMPLE};
    for (size_t p = 0; p < EXPERT_PARTS; p++) {
        ldlq_weights(&s->w[p], p == EXPERT_DOWN ? HIDDEN : INNER, p == EXPERT_DOWN ? INNER : HIDDEN, 81 + p);
        s->mlp[p] = (struct coded){s->w[p].scheme, s->w[p].rows, s->w[p].cols, s->w[p].parts};
    }
    s->job = (struct expert_job){.kernel = k,
                                 .layer = &s->layer,
                                 .mlp = s->mlp,
                                 .options = calibrated_defaults(METHOD_LDLQ),
                                 .tokens = tokens,
                                 .inputs = read_x,
                                 .ctx = s};
}

static void scene_drop(struct scene *s)
{
    free(s->x);
    mem_free(s->prior.sum);
    for (size_t p = 0; p < EXPERT_PARTS; p++)
        coded_release(&s->w[p]);
}

static struct scheme int4(uint32_t group)
{
    struct scheme s = scheme_of_int4(group, false);

    s.method = METHOD_LDLQ;
    return s;
}

/* Its loss and energy when expert_round rounds that part alone, the others as they are stored. */
static struct loss round_alone(struct scene *s, enum expert_part part, const struct scheme *to)
{
    struct expert_job job = s->job;
    struct coded out[EXPERT_PARTS];
    struct expert_result result;
    struct err e = {0};

    for (enum expert_part p = 0; p < EXPERT_PARTS; p++) {
        job.to[p] = s->mlp[p].scheme;
        job.to[p].method = METHOD_COPY;
    }
    job.to[part] = *to;
    void *memory = mem_aligned(expert_memory_bytes(&job)), *output = mem_aligned(expert_place_output(&job, NULL, NULL));
    expert_place_output(&job, out, output);
    EXPECT_OK(expert_round(&job, out, memory, &result, &e), e);
    mem_free(memory);
    mem_free(output);
    return result.parts[part].loss;
}

TEST(trial, losses_are_those_of_rounding_each_matrix_alone)
{
    static const size_t tokens[] = {300, 100, 0}; /* many, starved, none */
    const struct scheme schemes[] = {int4(128), int4(32)};
    float weights[300];

    for (size_t i = 0; i < 300; i++)
        weights[i] = (float)(i % 7 + 1) / 8;
    for (size_t i = 0; i < 3; i++) {
        struct scene s;
        struct trial t[EXPERT_PARTS];
        struct err e = {0};

        ct_case("%zu tokens", tokens[i]);
        scene_make(&s, tokens[i]);
        s.job.options.check_rows = 0;
        s.job.weights = weights; /* 300 tokens of 128 columns count by them */
        void *memory = mem_aligned(trial_expert_bytes(&s.job, schemes, 2));
        ASSERT_OK(trial_expert(&s.job, schemes, 2, memory, t, &e), e);
        for (enum expert_part part = 0; part < EXPERT_PARTS; part++)
            for (size_t c = 0; c < 2; c++) {
                struct loss want = round_alone(&s, part, &schemes[c]);
                EXPECT_TRUE(want.error > 0);
                EXPECT_NEAR_F64(want.error, t[part].loss[c], 0);
                EXPECT_NEAR_F64(want.energy, t[part].energy, 0);
            }
        EXPECT_TRUE(t[EXPERT_GATE].loss[1] < t[EXPERT_GATE].loss[0]); /* smaller groups */
        mem_free(memory);
        scene_drop(&s);
    }
}

TEST(trial, some_rows_stand_for_all)
{
    const struct scheme scheme = int4(32);
    struct scene s;
    struct trial all[EXPERT_PARTS], some[EXPERT_PARTS];
    struct err e = {0};

    scene_make(&s, 300);
    void *memory = mem_aligned(trial_expert_bytes(&s.job, &scheme, 1));
    s.job.options.check_rows = 0;
    ASSERT_OK(trial_expert(&s.job, &scheme, 1, memory, all, &e), e);
    s.job.options.check_rows = 48;
    ASSERT_OK(trial_expert(&s.job, &scheme, 1, memory, some, &e), e);
    for (enum expert_part part = 0; part < EXPERT_PARTS; part++) {
        EXPECT_TRUE(some[part].loss[0] != all[part].loss[0]);
        EXPECT_NEAR_F64(all[part].loss[0], some[part].loss[0], 0.25 * all[part].loss[0]);
        EXPECT_NEAR_F64(all[part].energy, some[part].energy, 0.25 * all[part].energy);
    }
    mem_free(memory);
    scene_drop(&s);
}

/* By absmax, measured as loss_measure does on bytes that transform_run made. */
TEST(trial, a_scheme_that_is_not_calibrated_is_rounded_as_it_would_be)
{
    struct scheme fp8 = {.kind = SCHEME_FP8_BLOCK,
                         .dtype = DTYPE_F8_E4M3,
                         .scale = SCALE_F32,
                         .block_rows = 128,
                         .block_cols = 128,
                         .method = METHOD_ABSMAX};
    struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);
    struct scene s;
    struct coded_matrix out;
    struct calibrated c;
    struct trial t;
    struct loss want = {0};
    struct weight_error unused = {0};
    struct err e = {0};

    o.check_rows = 0;
    scene_make(&s, 0);
    const struct coded *w = &s.mlp[EXPERT_GATE];
    void *memory = mem_aligned(calibrated_bytes(HIDDEN)), *made = mem_aligned(calibrated_scratch_bytes(HIDDEN));
    calibrated_make(&c, s.job.kernel, &o, &s.prior, NULL, 1, memory, made);
    void *tried = mem_aligned(trial_bytes(w, &fp8, 1));
    ASSERT_OK(trial_run(&c, w, &fp8, 1, tried, &t, &e), e);

    coded_init(&out, &fp8, w->rows, w->cols);
    struct transform tr = {.kernel = s.job.kernel, .from = w->scheme, .to = fp8, .cols = HIDDEN};
    struct loss_matrix m = {w->scheme, fp8, w->rows, w->cols, w->parts, out.parts};
    void *scratch = mem_aligned(transform_scratch_bytes(&tr) + loss_scratch_bytes(&m));
    ASSERT_OK(transform_run(&tr, 0, w->rows, w->rows, &w->parts, &out.parts, scratch, &unused, &e), e);
    ASSERT_OK(loss_measure(s.job.kernel, &c.shrunk, &m, 0, scratch, &want, &e), e);
    EXPECT_TRUE(want.error > 0);
    EXPECT_NEAR_F64(want.error, t.loss[0], 0);
    EXPECT_NEAR_F64(want.energy, t.energy, 0);
    mem_free(scratch);
    mem_free(tried);
    mem_free(made);
    mem_free(memory);
    coded_release(&out);
    scene_drop(&s);
}

TEST(trial, what_is_stored_so_costs_nothing_and_what_does_not_fit_everything)
{
    struct scheme schemes[2] = {int4(96), {0}};
    struct scene s;
    struct trial t[EXPERT_PARTS], both[EXPERT_PARTS];
    struct err e = {0};

    scene_make(&s, 300);
    schemes[1] = s.mlp[0].scheme;
    void *memory = mem_aligned(trial_expert_bytes(&s.job, schemes, 2));
    ASSERT_OK(trial_expert(&s.job, schemes, 2, memory, t, &e), e);
    schemes[1] = int4(32);
    mem_free(memory);
    memory = mem_aligned(trial_expert_bytes(&s.job, schemes, 2));
    ASSERT_OK(trial_expert(&s.job, schemes, 2, memory, both, &e), e);
    for (enum expert_part part = 0; part < EXPERT_PARTS; part++) {
        EXPECT_TRUE(isinf(t[part].loss[0]));
        EXPECT_NEAR_F64(0, t[part].loss[1], 0);
        EXPECT_NEAR_F64(both[part].energy, t[part].energy, 0); /* known all the same */
    }
    mem_free(memory);
    scene_drop(&s);
}

TEST(trial, channels_are_those_of_what_enters_gate_and_down)
{
    struct scene s;
    struct channels x, a;
    double *sums = mem_alloc((HIDDEN + INNER) * sizeof *sums), *want = mem_alloc((HIDDEN + INNER) * sizeof *want);
    float *g, *u, *acts;
    struct channels wx, wa;
    struct err e = {0};

    scene_make(&s, 333);
    void *memory = mem_aligned(trial_channels_bytes(&s.job));
    s.job.cap = 10; /* is about moments */
    channels_init(&x, s.job.kernel, HIDDEN, sums);
    channels_init(&a, s.job.kernel, INNER, sums + HIDDEN);
    ASSERT_OK(trial_channels(&s.job, memory, &x, &a, &e), e);
    g = coded_values(&s.w[EXPERT_GATE]);
    u = coded_values(&s.w[EXPERT_UP]);
    acts = malloc(333 * INNER * sizeof *acts);
    for (size_t t = 0; t < 333; t++)
        for (size_t r = 0; r < INNER; r++) {
            double gate = 0, up = 0;
            for (size_t j = 0; j < HIDDEN; j++) {
                gate += (double)s.x[t * HIDDEN + j] * (double)g[r * HIDDEN + j];
                up += (double)s.x[t * HIDDEN + j] * (double)u[r * HIDDEN + j];
            }
            acts[t * INNER + r] = (float)(gate / (1 + exp(-gate)) * up);
        }
    channels_init(&wx, s.job.kernel, HIDDEN, want);
    channels_init(&wa, s.job.kernel, INNER, want + HIDDEN);
    channels_add(&wx, s.x, HIDDEN, 333, 1);
    channels_add(&wa, acts, INNER, 333, 1);
    EXPECT_EQ_U64(333, a.tokens);
    EXPECT_EQ_F32(wx.peak, x.peak);
    EXPECT_NEAR_F64((double)wa.peak, (double)a.peak, 0.01 * (double)wa.peak);
    EXPECT_MEM_EQ(want, sums, HIDDEN * sizeof *sums);
    for (size_t r = 0; r < INNER; r++)
        EXPECT_NEAR_F64(want[HIDDEN + r], sums[HIDDEN + r], 1e-3 * want[HIDDEN + r]);
    free(acts);
    free(g);
    free(u);
    mem_free(memory);
    mem_free(sums);
    mem_free(want);
    scene_drop(&s);
}
