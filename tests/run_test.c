#include "convert/run.h"

#include <string.h>

#include "formats/base/file.h"
#include "tests/ct.h"
#include "tests/plan_support.h"

static const char *put_model(const struct scheme *linear)
{
    const char *src = ct_temp_dir();
    struct ckpt_maker m = {0};

    if (support_model(&m, linear))
        ckpt_write(&m, src);
    ckpt_release(&m);
    return src;
}

/* What one worker with one buffer needs. */
static uint64_t least_memory(const char *src, const char *dst, const struct conversion_case *c)
{
    const struct run_options one = {.threads = 1};
    struct run_size size = {0};
    struct planned p = {0};
    struct err e = {0};

    EXPECT_OK(planned_open(&p, src, dst, c, &e), e);
    run_results_new(&p.plan); /* a table as well */
    EXPECT_OK(run_size(&p.plan, &one, &size, &e), e);
    planned_close(&p);
    return size.fixed_bytes + size.scratch_bytes + size.slot_bytes;
}

/* Each job of such a matrix wrote the one scale again: the shard then had more bytes than it holds, and never ended. */
TEST(run, one_scale_for_a_matrix_of_several_jobs_is_written_once)
{
    struct conversion_case c = {.recipe = "[{\"match\": \"*\", \"scheme\": \"keep\"}]"};
    struct model wide = models[MODEL_TINY];
    struct ckpt_maker m = {0};
    struct arena a = {0};
    struct err e = {0};
    const char *src = ct_temp_dir(), *dst = path_join(&a, ct_temp_dir(), "dst");
    char want[65], have[65];

    wide.layers = 1;
    wide.mtp = 0;
    wide.first_dense = 1;
    wide.intermediate = 70000;
    ASSERT_TRUE(support_model_of(&m, &wide, &support_fp8_tensor));
    ckpt_write(&m, src);
    ASSERT_OK(support_convert(src, dst, &c, &e), e);
    struct checkpoint from = {0}, to = {0};
    ASSERT_OK(checkpoint_open(&from, src, &e) && checkpoint_open(&to, dst, &e), e);
    for (size_t i = 0; i < from.tensor_count; i++) {
        const struct tensor *t = checkpoint_find(&to, from.tensors[i].name);
        ct_case("%s", from.tensors[i].name);
        ASSERT_TRUE(t != NULL);
        support_tensor_hash(&from, &from.tensors[i], want);
        support_tensor_hash(&to, t, have);
        EXPECT_STR_EQ(want, have);
    }
    checkpoint_close(&from);
    checkpoint_close(&to);
    ckpt_release(&m);
    arena_release(&a);
}

TEST(run, threads_and_memory_change_no_byte)
{
    static const char *const recipes[] = {"bf16", "int4:g32", "fp8-channel"};
    struct arena a = {0};
    struct err e = {0};
    const char *src = put_model(&support_fp8);

    for (size_t r = 0; r < sizeof recipes / sizeof recipes[0]; r++) {
        char want[65] = "", have[65];
        for (unsigned i = 0; i < 6; i++) {
            static const unsigned threads[] = {1, 2, 7, 1, 2, 7};
            struct conversion_case c = {
                .recipe = recipes[r], .threads = threads[i], .options = {.shard_bytes = 500000}};
            const char *dst = path_join(&a, ct_temp_dir(), "dst");

            ct_case("%s, %u threads, %s memory", recipes[r], threads[i], i < 3 ? "free" : "least");
            c.memory_bytes = i < 3 ? 0 : least_memory(src, dst, &c);
            ASSERT_OK(support_convert(src, dst, &c, &e), e);
            support_dir_hash(dst, have);
            if (i == 0)
                memcpy(want, have, sizeof want);
            EXPECT_STR_EQ(want, have);
        }
    }
    arena_release(&a);
}

TEST(run, a_budget_below_one_job_is_refused_with_both_numbers)
{
    struct arena a = {0};
    struct err e = {0};
    const char *src = put_model(&support_fp8), *dst = path_join(&a, ct_temp_dir(), "dst");
    struct conversion_case c = {.recipe = "bf16", .threads = 2};

    c.memory_bytes = least_memory(src, dst, &c) - 1;
    EXPECT_FALSE(support_convert(src, dst, &c, &e));
    char *number = arena_printf(&a, "%llu", (unsigned long long)c.memory_bytes);
    char *least = arena_printf(&a, "%llu", (unsigned long long)c.memory_bytes + 1);
    EXPECT_STR_HAS(e.text, number);
    EXPECT_STR_HAS(e.text, least);
    EXPECT_FALSE(path_exists(dst));
    arena_release(&a);
}

static void plant_nan(struct ckpt_maker *m, const char *name)
{
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->tensors[i].name, name) == 0) {
            ((uint16_t *)m->data[i])[5] = 0x7fc0;
            return;
        }
    EXPECT_STR_EQ("a tensor of this name", name);
}

/* ---- numbers that are copied ---- */

static const struct scheme ue8m0 = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_E8M0, .block_rows = 128, .block_cols = 128};

#define EXPERT "model.layers.1.mlp.experts.0.gate_proj"
#define KEEP   "[{\"match\": \"*\", \"scheme\": \"keep\"}]"

static const struct copied {
    const char *what;
    const struct scheme *linear;
    const char *tensor;
    uint64_t row, col;
    uint32_t code;
    const char *recipe;
} copies[] = {
    {"FP8", &support_fp8, EXPERT ".weight", 3, 7, 0x7F, KEEP},
    {"FP8, of the other sign", &support_fp8, EXPERT ".weight", 0, 0, 0xFF, "fp8"},
    {"a scale in F32", &support_fp8, EXPERT ".weight_scale_inv", 0, 1, 0x7FC00000, KEEP},
    {"a scale in F32, infinite", &support_fp8, EXPERT ".weight_scale_inv", 0, 0, 0xFF800000, "fp8"},
    {"a scale of E8M0", &ue8m0, EXPERT ".weight_scale_inv", 0, 1, 0xFF, KEEP},
    {"one scale of a matrix", &support_fp8_tensor, EXPERT ".weight_scale", 0, 0, 0x7F800000, KEEP},
    {"a scale of int4", &support_kimi_int4, EXPERT ".weight_scale", 5, 1, 0x7F80, KEEP},
    {"BF16", &support_bf16, EXPERT ".weight", 4, 9, 0xFFC0, "bf16"},
    {"a norm", &support_fp8, "model.norm.weight", 0, 11, 0x7F80, "int4:g32"},
    {"the router's bias in F32", &support_fp8, "model.layers.1.mlp.gate.e_score_correction_bias", 0, 2, 0x7F800001,
     "bf16"},
    {"an activation scale", &support_fp8_tensor, EXPERT ".input_scale", 0, 0, 0x7FC00000, KEEP},
};

static bool put_code(struct ckpt_maker *m, const struct copied *c)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct tensor *t = &m->tensors[i];
        if (strcmp(t->name, c->tensor) != 0)
            continue;
        size_t bytes = dtype_get(t->dtype)->block_bytes;
        uint64_t cols = t->rank > 0 ? t->dims[t->rank - 1] : 1;
        memcpy((uint8_t *)m->data[i] + (c->row * cols + c->col) * bytes, &c->code, bytes);
        return (c->row * cols + c->col) * bytes < t->bytes;
    }
    return false;
}

static const char *put_broken(const struct copied *c)
{
    const char *src = ct_temp_dir();
    struct ckpt_maker m = {0};

    if (support_model(&m, c->linear)) {
        if (strstr(c->tensor, ".input_scale"))
            support_input_scale(&m, EXPERT);
        EXPECT_TRUE(put_code(&m, c));
        ckpt_write(&m, src);
    }
    ckpt_release(&m);
    return src;
}

TEST(run, a_copied_number_that_is_not_finite_is_refused_by_shard_tensor_row_and_column)
{
    struct arena a = {0};

    for (size_t i = 0; i < sizeof copies / sizeof copies[0]; i++) {
        const struct copied *c = &copies[i];
        struct conversion_case how = {.recipe = c->recipe, .threads = 2};
        const char *src = put_broken(c), *dst = path_join(&a, ct_temp_dir(), "dst");
        const char *want =
            arena_printf(&a, "shard 'model.safetensors', tensor '%s': value at row %llu, column %llu is not finite",
                         c->tensor, (unsigned long long)c->row, (unsigned long long)c->col);
        struct err e = {0};

        ct_case("%s", c->what);
        EXPECT_FALSE(support_convert(src, dst, &how, &e));
        EXPECT_ERR(e, ERR_FORMAT, want);
        EXPECT_FALSE(path_exists(dst));
    }
    arena_release(&a);
}

/* Nobody knows what these are: a mask may well be minus infinity. */
TEST(run, tensors_of_unknown_role_are_copied_whatever_they_hold)
{
    const float mask[2] = {-1.0f / 0.0f, 0.0f};
    struct conversion_case c = {.recipe = "bf16", .options = {.keep_unknown = true}};
    struct arena a = {0};
    struct ckpt_maker m = {0};
    struct err e = {0};
    const char *src = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_fp8));
    ckpt_vector(&m, "model.mask", DTYPE_F32, 2, mask);
    ckpt_write(&m, src);
    EXPECT_OK(support_convert(src, path_join(&a, ct_temp_dir(), "dst"), &c, &e), e);
    ckpt_release(&m);
    arena_release(&a);
}

/* Two weights are broken; whichever thread is faster, the first in the file is named. */
TEST(run, the_first_broken_weight_is_the_one_reported)
{
    const char *first = "model.layers.1.self_attn.o_proj.weight";
    const char *second = "model.layers.1.mlp.experts.0.gate_proj.weight";
    struct arena a = {0};
    struct ckpt_maker m = {0};
    const char *src = ct_temp_dir();

    ASSERT_TRUE(support_model(&m, &support_bf16));
    plant_nan(&m, first);
    plant_nan(&m, second);
    ckpt_write(&m, src);
    ckpt_release(&m);
    for (unsigned i = 0; i < 20; i++) {
        struct conversion_case c = {.recipe = "fp8", .threads = 1 + i % 7};
        const char *dst = path_join(&a, ct_temp_dir(), "dst");
        struct err e = {0};

        ct_case("run %u, %u threads", i, c.threads);
        EXPECT_FALSE(support_convert(src, dst, &c, &e));
        EXPECT_ERR(e, ERR_FORMAT, first);
        EXPECT_FALSE(path_exists(dst));
    }
    arena_release(&a);
}
