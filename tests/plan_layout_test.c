#include <string.h>

#include "formats/base/file.h"
#include "tests/plan_support.h"

/* Tensors of one shard, and no part of a weight in another. */
static void check_weights_are_whole(const struct plan *p)
{
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct tensor *parts = p->outputs[0].rows[i].parts;
        for (enum part part = 0; part < PART_COUNT; part++)
            if (parts[part].dtype != DTYPE_NONE)
                EXPECT_EQ_U64(parts[PART_CODES].shard, parts[part].shard);
    }
}

static size_t weights_in_shard(const struct plan *p, size_t shard)
{
    size_t count = 0;

    for (size_t i = 0; i < p->weight_count; i++)
        count += p->outputs[0].rows[i].parts[PART_CODES].dtype != DTYPE_NONE &&
                 p->outputs[0].rows[i].parts[PART_CODES].shard == shard;
    return count;
}

TEST(plan_layout, no_shard_is_past_the_limit_unless_one_weight_is)
{
    static const uint64_t limits[] = {4096, 5000, 20000, 100000, 262144, 1000000, 100000000};
    struct ckpt_maker m;
    const char *dir = ct_temp_dir();
    size_t before = SIZE_MAX;

    ASSERT_TRUE(support_model(&m, &support_fp8));
    support_odd_tensors(&m);
    ckpt_write(&m, dir);
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        struct conversion_case c = {.recipe = "int4:g32", .options = {.keep_unknown = true, .shard_bytes = limits[i]}};
        struct planned p;
        struct err e = {0};
        ct_case("%llu", (unsigned long long)limits[i]);
        EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
        const struct plan_output *o = &p.plan.outputs[0];
        for (size_t s = 0; s < o->shard_count; s++)
            EXPECT_TRUE(o->shards[s].bytes <= limits[i] || weights_in_shard(&p.plan, s) == 1);
        EXPECT_TRUE(o->shard_count <= before);
        before = o->shard_count;
        check_weights_are_whole(&p.plan);
        support_check_layout(&p.plan);
        planned_close(&p);
    }
    EXPECT_EQ_U64(1, before);
    ckpt_release(&m);
}

/* A dropped activation scale behind a weight that fills its shard opened a shard for nothing: a file of 0 bytes. */
TEST(plan_layout, a_tensor_that_is_left_out_opens_no_shard)
{
    struct conversion_case c = {.recipe = "bf16", .options = {.shard_bytes = 4096}};
    struct ckpt_maker m;
    struct planned p;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_fp8_tensor));
    ckpt_drop(&m, "lm_head.weight"); /* was last in the file; now a linear is */
    ckpt_drop(&m, "model.norm.weight");
    ckpt_drop(&m, "model.layers.3.shared_head.norm.weight");
    for (size_t i = 0; i < m.count; i++)
        if (strcmp(m.tensors[i].name, "model.layers.3.mlp.shared_experts.down_proj.weight") == 0)
            support_input_scale(&m, "model.layers.3.mlp.shared_experts.down_proj");
    ckpt_write(&m, dir);
    EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
    EXPECT_EQ_U64(1, p.plan.outputs[0].drop_count);
    support_check_layout(&p.plan);
    planned_close(&p);
    ckpt_release(&m);
}

TEST(plan_layout, kept_shards_have_the_source_s_names_and_weights)
{
    struct conversion_case c = {.recipe = "int4:g32", .options = {.keep_shards = true, .shard_bytes = 4096}};
    struct planned p;
    struct err e = {0};

    ASSERT_OK(planned_open(&p, "samples/tiny-v3", "nowhere", &c, &e), e);
    const struct checkpoint *from = &p.source.checkpoint;
    const struct plan_output *o = &p.plan.outputs[0];
    EXPECT_EQ_U64(from->shard_count, o->shard_count);
    for (size_t i = 0; i < o->shard_count; i++)
        EXPECT_STR_EQ(from->shards[i].name, o->shards[i].name);
    for (size_t i = 0; i < p.plan.weight_count; i++)
        EXPECT_STR_EQ(from->shards[p.plan.weights[i]->parts[PART_CODES]->shard].name,
                      o->shards[o->rows[i].parts[PART_CODES].shard].name);
    support_check_layout(&p.plan);
    planned_close(&p);
}

TEST(plan_layout, constants_stand_in_the_prefix_with_the_shape_s_own_type)
{
    /* Kept as it is, the shape is copied like any tensor: I32 here. Packed anew it is I64. */
    static const struct {
        const char *recipe;
        enum dtype_id dtype;
    } cases[] = {{"[{\"match\": \"*\", \"scheme\": \"keep\"}]", DTYPE_I32}, {"int4:g64", DTYPE_I64}};
    struct ckpt_maker m;
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_kimi_int4));
    ckpt_write(&m, dir);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct conversion_case c = {.recipe = cases[i].recipe};
        struct planned p;
        struct err e = {0};
        size_t seen = 0;
        ct_case("%s", cases[i].recipe);
        EXPECT_OK(planned_open(&p, dir, "nowhere", &c, &e), e);
        for (size_t w = 0; w < p.plan.weight_count; w++) {
            const struct tensor *t = &p.plan.outputs[0].rows[w].parts[PART_SHAPE];
            const struct plan_shard *s = &p.plan.outputs[0].shards[0];
            if (t->dtype == DTYPE_NONE)
                continue;
            seen++;
            EXPECT_EQ_I64(cases[i].dtype, t->dtype);
            ASSERT_TRUE(t->offset + t->bytes <= s->prefix.bytes);
            int64_t wide[2] = {0};
            int32_t narrow[2] = {0};
            memcpy(t->dtype == DTYPE_I64 ? (void *)wide : narrow, s->prefix.data + t->offset, t->bytes);
            EXPECT_EQ_U64(p.plan.weights[w]->rows, t->dtype == DTYPE_I64 ? wide[0] : narrow[0]);
            EXPECT_EQ_U64(p.plan.weights[w]->cols, t->dtype == DTYPE_I64 ? wide[1] : narrow[1]);
        }
        EXPECT_TRUE(seen > 0);
        planned_close(&p);
    }
    ckpt_release(&m);
}
