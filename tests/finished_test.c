#include "convert/finished.h"

#include <stdio.h>

#include "convert/bundle.h"
#include "convert/journal.h"
#include "convert/stage.h"
#include "formats/base/file.h"
#include "tests/ct.h"
#include "tests/plan_support.h"

static const struct conversion_case bf16 = {.recipe = "bf16"}, f16 = {.recipe = "f16"};

static struct arena arena;

static const char *put_model(void)
{
    const char *src = ct_temp_dir();
    struct ckpt_maker m = {0};

    if (support_model(&m, &support_fp8))
        ckpt_write(&m, src);
    ckpt_release(&m);
    return src;
}

/* To where every file stands under its name; a kill comes before the last steps. */
static void run_but_for_its_end(const char *src, const char *dst)
{
    struct planned p = {0};
    struct stage s = {0};
    struct journal j = {0};
    struct run_options options = {.threads = 1};
    struct bundle_options bundle = {0};
    struct err e = {0};

    ASSERT_OK(planned_open(&p, src, dst, &bf16, &e), e);
    struct run_result *results = run_results_new(&p.plan);
    ASSERT_OK(stage_open(&s, dst, src, false, false, &e), e);
    ASSERT_OK(journal_open(&j, stage_path(&s, JOURNAL_NAME), &p.plan, results, &e), e);
    ASSERT_OK(run_plan(&p.plan, &options, &s, &j, results, NULL, &e), e);
    ASSERT_OK(bundle_write(&p.plan, 0, results, &bundle, &s, &e), e);
    ASSERT_OK(stage_publish(&s, &e) && stage_finish(&s, &e), e);
    journal_close(&j);
    stage_release(&s, true);
    planned_close(&p);
}

TEST(finished, a_run_killed_before_its_last_steps_is_known_again_with_its_results)
{
    const char *src = put_model(), *dst = path_join(&arena, ct_temp_dir(), "dst");
    struct planned same = {0}, other = {0};
    struct err e = {0};

    run_but_for_its_end(src, dst);
    EXPECT_TRUE(finished_is_here(dst));
    ASSERT_OK(planned_open(&other, src, dst, &f16, &e), e);
    EXPECT_FALSE(finished_is_same(&other.plan, run_results_new(&other.plan)));
    ASSERT_OK(planned_open(&same, src, dst, &bf16, &e), e);
    struct run_result *results = run_results_new(&same.plan);
    EXPECT_TRUE(finished_is_same(&same.plan, results));
    char hex[65];
    support_file_hash(dst, same.plan.outputs[0].shards[0].name, hex);
    EXPECT_STR_EQ(hex, results[0].sha256[0]);

    ASSERT_OK(finished_end(&same.plan, false, &e), e);
    EXPECT_FALSE(finished_is_here(dst));
    EXPECT_FALSE(path_exists(path_join(&arena, dst, STAGE_PUBLISHED)));
    EXPECT_TRUE(path_exists(path_join(&arena, dst, "config.json")));
    planned_close(&same);
    planned_close(&other);
    arena_release(&arena);
}

/* The headers that --delete-source keeps to the end stayed beside the source for ever. */
TEST(finished, headers_go_although_the_source_cannot_be_opened_any_more)
{
    const char *src = put_model(), *dst = path_join(&arena, ct_temp_dir(), "dst");
    const char *shard = path_join(&arena, src, "model.safetensors");
    const char *header = arena_printf(&arena, "%s%s", shard, CHECKPOINT_REMOVED_SUFFIX);
    struct recipe recipe = {0}, other = {0};
    struct err e = {0};

    ASSERT_OK(support_recipe(&recipe, "bf16", &e) && support_recipe(&other, "f16", &e), e);
    struct plan_target target = {.dir = dst, .recipe = &recipe}, wrong = {.dir = dst, .recipe = &other};
    run_but_for_its_end(src, dst);
    ASSERT_OK(file_write_whole(header, "", 0, &e), e);
    EXPECT_FALSE(finished_end_without_source(src, &target, 1)); /* the source is whole */
    ASSERT_TRUE(remove(shard) == 0);
    EXPECT_FALSE(finished_end_without_source(src, &wrong, 1));
    EXPECT_TRUE(path_exists(header));
    EXPECT_TRUE(finished_end_without_source(src, &target, 1));
    EXPECT_FALSE(path_exists(header));
    EXPECT_FALSE(finished_is_here(dst));
    EXPECT_FALSE(finished_end_without_source(src, &target, 1));
    recipe_release(&recipe);
    recipe_release(&other);
    arena_release(&arena);
}
