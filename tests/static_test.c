/* Static FP8: scales of inputs, measured while the sample runs over 64 token ids. */
#include <string.h>

#include "convert/pipeline.h"
#include "formats/engine.h"
#include "tests/bundle_support.h"
#include "tests/convert_support.h"
#include "tests/ct.h"
#include "verify/forward.h"
#include "verify/layer_weights.h"

#define SAMPLE "samples/tiny-v3"
#define RULES                                                                                                          \
    "[{\"match\": \"kv_b_proj\", \"scheme\": \"bf16\"}, "                                                              \
    "{\"match\": [\"attention\", \"dense_mlp\", \"shared_expert\", \"routed_expert\"], \"scheme\": \"fp8-static\"}, "  \
    "{\"match\": \"*\", \"scheme\": \"bf16\"}]"

static const char *make(struct arena *a, const char *name, unsigned threads, uint64_t memory_bytes)
{
    const char *dir = ct_temp_dir(), *dst = path_join(a, dir, name);
    struct conversion_case c = {
        .recipe = RULES, .threads = threads, .memory_bytes = memory_bytes, .ids = support_ids(a, dir)};
    struct err e = {0};

    EXPECT_OK(support_convert(SAMPLE, dst, &c, &e), e);
    return dst;
}

static float input_scale(const struct source *s, const char *weight)
{
    const struct weight *w = weights_find(&s->weights, weight);
    struct err e = {0};
    float scale = 0;

    EXPECT_TRUE(w != NULL);
    if (w)
        EXPECT_OK(weight_input_scale(s, w, &scale, &e), e);
    return scale;
}

/* numpy in float64: the largest magnitude of the embeddings of ids 3 to 66 behind layer 0's norm is 4.2239119533582885,
 * over 448. A matrix's, likewise: the larger of q_a_proj's and kv_a_proj_with_mqa's. */
TEST(static_fp8, scales_are_the_largest_magnitudes_over_448)
{
    struct arena a = {0};
    struct source s = {0};
    struct err e = {0};
    float scale = 0;

    ASSERT_OK(source_open(&s, make(&a, "out", 2, 0), true, &e), e);
    EXPECT_NEAR_F64(0.009428374895889036, (double)input_scale(&s, "model.layers.0.self_attn.q_a_proj.weight"), 1e-8);
    EXPECT_EQ_F32(input_scale(&s, "model.layers.0.self_attn.q_a_proj.weight"),
                  input_scale(&s, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"));
    bundle_peek(s.checkpoint.path, "model.layers.0.self_attn.q_a_proj.weight_scale", 0, &scale, sizeof scale);
    EXPECT_EQ_F32(0.0005812552408315241f, scale);
    bundle_peek(s.checkpoint.path, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale", 0, &scale, sizeof scale);
    EXPECT_EQ_F32(0.0005812552408315241f, scale);
    source_close(&s);
    arena_release(&a);
}

TEST(static_fp8, every_linear_has_one_and_what_engines_load_as_one_the_same)
{
    struct arena a = {0};
    struct source s = {0};
    struct err e = {0};
    float experts[5][2] = {{0}};
    size_t found = 0;

    ASSERT_OK(source_open(&s, make(&a, "out", 2, 0), true, &e), e);
    for (size_t i = 0; i < s.weights.count; i++) {
        const struct weight *w = &s.weights.items[i];
        EXPECT_TRUE((w->stored.kind == SCHEME_FP8_TENSOR) == (w->input_scale != NULL));
        if (!w->input_scale)
            continue;
        float scale = input_scale(&s, w->name);
        ct_case("%s", w->name);
        EXPECT_TRUE(scale > 0);
        found++;
        if (w->id.expert < 0)
            continue;
        float *layer = &experts[w->id.layer][w->id.role == ROLE_EXPERT_DOWN];
        EXPECT_TRUE(*layer == 0 || *layer == scale);
        *layer = scale;
    }
    EXPECT_EQ_U64(5 * 4 + 3 + 4 * (16 + 1) * 3, found); /* q_a, q_b, kv_a, o; dense; experts and the shared one */
    source_close(&s);
    arena_release(&a);
}

TEST(static_fp8, threads_and_memory_change_no_byte)
{
    struct arena a = {0};
    char want[65], got[65];

    support_dir_hash(make(&a, "one", 2, 0), want);
    support_dir_hash(make(&a, "two", 7, 64 << 20), got);
    EXPECT_STR_EQ(want, got);
    arena_release(&a);
}

/* ---- the forward pass ---- */

static double last_sum(const char *dir, enum emulate emulate)
{
    static const uint32_t ids[] = {5, 17, 256, 1000, 77, 12};
    static const struct sequence one = {.tokens = 6};
    struct batch b = {.ids = ids, .tokens = 6, .sequences = &one, .sequence_count = 1};
    struct forward_options o = {.threads = 2, .emulate = emulate};
    struct source s = {0};
    struct forward *f = NULL;
    struct stream in = {0}, out = {0};
    struct err e = {0};
    const float *rows = NULL;
    double sum = 0;

    EXPECT_OK(source_open(&s, dir, true, &e) && forward_open(&f, &s, &o, &e) && forward_begin(f, &b, &e) &&
                  forward_stream(f, &in, &e) && forward_stream(f, &out, &e) && forward_embed(f, &in, &e) &&
                  forward_layer(f, 0, &in, &out, NULL, &e) && stream_read(&out, 0, 6, NULL, &rows, &e),
              e);
    for (size_t i = 0; rows && i < 6 * s.arch.hidden_size; i++)
        sum += (double)rows[i] * (double)(i % 7 + 1);
    stream_close(&in);
    stream_close(&out);
    forward_close(f);
    source_close(&s);
    return sum;
}

TEST(static_fp8, the_forward_pass_takes_the_scale_when_it_emulates_activations_and_else_not)
{
    static const float coarse = 1.0f;
    struct arena a = {0};
    const char *dir = make(&a, "out", 2, 0), *copy = path_join(&a, ct_temp_dir(), "copy");

    bundle_copy(dir, copy);
    bundle_poke(copy, "model.layers.0.mlp.down_proj.input_scale", 0, &coarse, sizeof coarse);
    EXPECT_NEAR_F64(last_sum(dir, EMULATE_NONE), last_sum(copy, EMULATE_NONE), 0);
    EXPECT_TRUE(last_sum(dir, EMULATE_FP8_ACTIVATIONS) != last_sum(dir, EMULATE_NONE));
    EXPECT_TRUE(last_sum(dir, EMULATE_FP8_ACTIVATIONS) != last_sum(copy, EMULATE_FP8_ACTIVATIONS));
    arena_release(&a);
}

/* ---- another run over it ---- */

TEST(static_fp8, a_source_that_has_both_scales_is_copied)
{
    struct arena a = {0};
    struct planned p = {0};
    struct conversion_case c = {.recipe = RULES};
    struct err e = {0};

    ASSERT_OK(planned_open(&p, make(&a, "out", 2, 0), "nowhere", &c, &e), e);
    EXPECT_FALSE(plan_is_calibrated(&p.plan.outputs[0]));
    for (size_t i = 0; i < p.plan.weight_count; i++)
        EXPECT_TRUE(p.plan.outputs[0].rows[i].scheme.method == METHOD_COPY);
    planned_close(&p);
    arena_release(&a);
}

TEST(static_fp8, engines_share_scales_of_these_pairs_alone)
{
    static const enum role pairs[][2] = {{ROLE_Q_A_PROJ, ROLE_KV_A_PROJ},
                                         {ROLE_DENSE_GATE, ROLE_DENSE_UP},
                                         {ROLE_SHARED_GATE, ROLE_SHARED_UP},
                                         {ROLE_EXPERT_GATE, ROLE_EXPERT_UP}};

    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        EXPECT_TRUE(engine_scale_partner(pairs[i][0]) == pairs[i][1]);
        EXPECT_TRUE(engine_scale_partner(pairs[i][1]) == pairs[i][0]);
    }
    EXPECT_TRUE(engine_scale_partner(ROLE_EXPERT_DOWN) == ROLE_UNKNOWN);
    EXPECT_TRUE(engine_scale_partner(ROLE_O_PROJ) == ROLE_UNKNOWN);
    EXPECT_TRUE(engine_scale_partner(ROLE_Q_PROJ) == ROLE_UNKNOWN);
}
