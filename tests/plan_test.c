#include "convert/plan.h"

#include <string.h>

#include "formats/base/file.h"
#include "samples/generate/v3_layout.h"
#include "tests/plan_support.h"

#define MIXED                                                                                                          \
    "[{\"match\": \"routed_expert\", \"scheme\": \"int4\", \"group\": 32, \"asymmetric\": true, \"method\": "          \
    "\"absmax\"},"                                                                                                     \
    "{\"match\": \"attention\", \"scheme\": \"fp8\"}, {\"match\": \"shared_expert\", \"scheme\": \"f16\"},"            \
    "{\"match\": \"*\", \"scheme\": \"keep\"}]"

static const struct {
    const char *name;
    const struct scheme *from;
    const char *recipe;
} conversions[] = {
    {"fp8 to f32", &support_fp8, "f32"},
    {"fp8 to fp8", &support_fp8, "fp8"},
    {"fp8 to channels", &support_fp8, "fp8-channel"},
    {"fp8 to int4", &support_fp8, "int4:g32:asym"},
    {"fp8 to everything", &support_fp8, MIXED},
    {"one scale to bf16", &support_fp8_tensor, "bf16"},
    {"one scale to blocks", &support_fp8_tensor, "fp8"},
    {"one scale kept", &support_fp8_tensor, "[{\"match\": \"*\", \"scheme\": \"keep\"}]"},
    {"int4 to bf16", &support_kimi_int4, "bf16"},
    {"int4 to int4", &support_kimi_int4, "int4:g64"},
    {"int4 kept", &support_kimi_int4, "[{\"match\": \"*\", \"scheme\": \"keep\"}]"},
    {"bf16 to fp8", &support_bf16, "fp8-ue8m0"},
};

TEST(plan, every_tensor_has_one_row_and_one_place_and_jobs_cover_it_once)
{
    for (size_t i = 0; i < sizeof conversions / sizeof conversions[0]; i++) {
        struct conversion_case c = {.recipe = conversions[i].recipe,
                                    .options = {.keep_unknown = true, .shard_bytes = 300000}};
        struct ckpt_maker m;
        struct planned p;
        struct err e = {0};
        const char *dir = ct_temp_dir();

        ct_case("%s", conversions[i].name);
        ASSERT_TRUE(support_model(&m, conversions[i].from));
        support_odd_tensors(&m);
        ckpt_write(&m, dir);
        EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
        support_check_layout(&p.plan);
        support_check_jobs(&p.plan);
        EXPECT_EQ_U64(p.source.weights.count, p.plan.weight_count);
        planned_close(&p);
        ckpt_release(&m);
    }
}

TEST(plan, matrices_of_many_jobs_are_covered_once)
{
    static const char *const recipes[] = {"bf16", "fp8", "int4:g64:asym"};
    struct model wide = models[MODEL_TINY];
    struct ckpt_maker m = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();

    wide.layers = 1;
    wide.mtp = 0;
    wide.first_dense = 1;
    wide.intermediate = 70000; /* twice the weights of a job, and a bit; not a multiple of 128 */
    ASSERT_TRUE(support_model_of(&m, &wide, &support_fp8));
    ckpt_write(&m, dir);
    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++) {
        struct conversion_case c = {.recipe = recipes[i]};
        struct planned p;
        ct_case("%s", recipes[i]);
        EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
        EXPECT_TRUE(p.plan.job_count > p.plan.weight_count);
        support_check_layout(&p.plan);
        support_check_jobs(&p.plan);
        planned_close(&p);
    }
    ckpt_release(&m);
}

/* 91,991 tensors and 689 GB, as sparse files. */
TEST(plan, a_full_size_model_is_laid_out)
{
    struct conversion_case c = {.recipe = "int4:g128"};
    struct v3_layout l;
    struct planned p;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    v3_layout_published(&l);
    ASSERT_OK(v3_layout_write(&l, dir, &e), e);
    EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
    support_check_layout(&p.plan);
    support_check_jobs(&p.plan);
    /* An expert matrix: 2048 * 7168 codes of 4 bits, a BF16 scale per 128, a shape of 16 bytes. 59 * 256 experts. */
    uint64_t expert = 3 * (2048 * 7168 / 2 + 2048 * 7168 / 128 * 2 + 16), all = 59 * 256 * expert;
    EXPECT_TRUE(p.plan.outputs[0].tensor_bytes > all && p.plan.outputs[0].tensor_bytes < all + 60000000000);
    for (size_t i = 0; i < p.plan.outputs[0].shard_count; i++)
        EXPECT_TRUE(p.plan.outputs[0].shards[i].bytes <= 5000000000);
    planned_close(&p);
}

TEST(plan, tensors_of_unknown_role_are_refused_by_name)
{
    struct conversion_case c = {.recipe = "bf16"};
    struct ckpt_maker m;
    struct planned p;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_fp8));
    ckpt_vector(&m, "model.layers.0.mystery", DTYPE_F32, 3, NULL);
    ckpt_write(&m, dir);
    EXPECT_FALSE(planned_open(&p, dir, "nowhere", &c, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED,
               "1 tensor has no place in this architecture: 'model.layers.0.mystery'; --keep-unknown");
    planned_close(&p);

    support_odd_tensors(&m);
    ckpt_write(&m, dir);
    e = (struct err){0};
    EXPECT_FALSE(planned_open(&p, dir, "nowhere", &c, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "9 tensors have no place");
    EXPECT_STR_HAS(e.text, "...");
    planned_close(&p);
    ckpt_release(&m);
}

static const struct plan_row *find_row(const struct plan *p, const char *name)
{
    for (size_t i = 0; i < p->weight_count; i++)
        if (strcmp(p->weights[i]->name, name) == 0)
            return &p->outputs[0].rows[i];
    return NULL;
}

TEST(plan, unknown_tensors_that_are_kept_stay_as_they_are)
{
    struct conversion_case c = {.recipe = "f16", .options = {.keep_unknown = true}};
    struct ckpt_maker m;
    struct planned p;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_fp8));
    support_odd_tensors(&m);
    ckpt_write(&m, dir);
    EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
    const struct plan_row *row = find_row(&p.plan, "model.layers.0.odd.cube");
    EXPECT_TRUE(row && row->scheme.method == METHOD_COPY && row->parts[PART_CODES].rank == 3);
    EXPECT_TRUE(row && row->parts[PART_CODES].dtype == DTYPE_BF16);
    planned_close(&p);
    ckpt_release(&m);
}

TEST(plan, a_stale_rotary_cache_is_left_out_with_a_reason)
{
    struct conversion_case c = {.recipe = "bf16"};
    struct ckpt_maker m;
    struct planned p;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_fp8));
    ckpt_vector(&m, "model.layers.1.self_attn.rotary_emb.inv_freq", DTYPE_F32, 16, NULL);
    ckpt_write(&m, dir);
    EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
    EXPECT_EQ_U64(1, p.plan.outputs[0].drop_count);
    if (p.plan.outputs[0].drop_count == 1) {
        EXPECT_STR_EQ("model.layers.1.self_attn.rotary_emb.inv_freq", p.plan.outputs[0].drops[0].name);
        EXPECT_STR_HAS(p.plan.outputs[0].drops[0].why, "rotary");
    }
    EXPECT_TRUE(find_row(&p.plan, "model.layers.1.self_attn.rotary_emb.inv_freq") == NULL);
    planned_close(&p);
    ckpt_release(&m);
}

TEST(plan, activation_scales_travel_beside_fp8_codes_only)
{
    static const char module[] = "model.layers.0.mlp.down_proj", name[] = "model.layers.0.mlp.down_proj.input_scale";
    static const struct {
        const char *recipe;
        bool kept;
    } cases[] = {{"[{\"match\": \"*\", \"scheme\": \"keep\"}]", true}, {"bf16", false}, {"int4:g64", false}};
    struct ckpt_maker m;
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_fp8_tensor));
    support_input_scale(&m, module);
    ckpt_write(&m, dir);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct conversion_case c = {.recipe = cases[i].recipe};
        struct planned p;
        struct err e = {0};
        ct_case("%s", cases[i].recipe);
        EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
        const struct plan_row *row = find_row(&p.plan, name);
        EXPECT_TRUE(row && (row->parts[PART_CODES].dtype == DTYPE_F32) == cases[i].kept);
        EXPECT_EQ_U64(cases[i].kept ? 0 : 1, p.plan.outputs[0].drop_count);
        if (p.plan.outputs[0].drop_count == 1)
            EXPECT_STR_EQ(name, p.plan.outputs[0].drops[0].name);
        support_check_layout(&p.plan);
        support_check_jobs(&p.plan);
        planned_close(&p);
    }
    ckpt_release(&m);
}

/* What a second output left out was recorded nowhere. */
TEST(plan, each_output_records_what_it_leaves_out)
{
    struct recipe keep = {0}, bf16 = {0};
    struct plan_target targets[] = {{.dir = "one", .recipe = &keep}, {.dir = "two", .recipe = &bf16}};
    struct plan_options options = {
        .targets = targets, .target_count = 2, .shard_bytes = 5000000000u, .allow_unfused = true};
    struct ckpt_maker m;
    struct source source = {0};
    struct plan p = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_fp8_tensor));
    support_input_scale(&m, "model.layers.0.mlp.down_proj");
    ckpt_write(&m, dir);
    ASSERT_OK(support_recipe(&keep, "[{\"match\": \"*\", \"scheme\": \"keep\"}]", &e) &&
                  support_recipe(&bf16, "bf16", &e),
              e);
    ASSERT_OK(source_open(&source, dir, true, &e) && plan_open(&p, &source, &options, &e), e);
    EXPECT_EQ_U64(0, p.outputs[0].drop_count);
    ASSERT_TRUE(p.outputs[1].drop_count == 1);
    EXPECT_STR_EQ("model.layers.0.mlp.down_proj.input_scale", p.outputs[1].drops[0].name);
    plan_close(&p);
    source_close(&source);
    recipe_release(&keep);
    recipe_release(&bf16);
    ckpt_release(&m);
}
