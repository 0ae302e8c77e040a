#include "verify/fingerprint.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "convert/proof.h"
#include "formats/base/file.h"
#include "quant/kernel.h"
#include "tests/convert_support.h"
#include "tests/ct.h"
#include "tests/plan_support.h"

#define SAMPLE "samples/tiny-v3"

static void fingerprint_text(const char *dir, const struct fingerprint_options *o, struct buf *text)
{
    struct manifest m = {.tool_version = "", .kernel_class = "", .recipe_text = "{}", .config_sha256 = ""};
    struct source s = {0};
    struct arena a = {0};
    struct err e = {0};

    EXPECT_OK(source_open(&s, dir, true, &e), e);
    if (e.code == ERR_NONE)
        EXPECT_OK(fingerprint_make(&m.fingerprint, &a, &s, o, &e), e);
    if (e.code == ERR_NONE)
        manifest_write(text, &m);
    source_close(&s);
    arena_release(&a);
}

TEST(fingerprint, threads_and_memory_change_no_digit)
{
    static const struct fingerprint_options runs[] = {
        {.threads = 1, .quiet = true},
        {.threads = 3, .quiet = true},
        {.threads = 2, .memory_bytes = 16u << 20, .quiet = true},
    };
    struct buf want = {0};

    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        struct buf got = {0};
        ct_case("%zu", i);
        fingerprint_text(SAMPLE, &runs[i], i == 0 ? &want : &got);
        if (i > 0)
            EXPECT_STR_EQ(want.data, got.data ? got.data : "");
        buf_release(&got);
    }
    buf_release(&want);
}

/* At each position the best come first, and together they are at most certain. */
TEST(fingerprint, log_probabilities_descend_and_sum_to_less_than_one)
{
    struct fingerprint_options o = {.quiet = true};
    struct manifest_fingerprint *f = NULL;
    struct source s = {0};
    struct arena a = {0};
    struct err e = {0};

    ASSERT_OK(source_open(&s, SAMPLE, true, &e), e);
    EXPECT_OK(fingerprint_make(&f, &a, &s, &o, &e), e);
    EXPECT_EQ_U64(FINGERPRINT_TOKENS, f ? f->position_count : 0);
    EXPECT_EQ_U64(FINGERPRINT_TOKENS - 1, f ? f->mtp_count : 0);
    EXPECT_EQ_U64(4, f ? f->routing_count : 0); /* three main layers, and the MTP layer */
    EXPECT_EQ_U64((FINGERPRINT_TOKENS - 1) * 4, f ? f->routing[3].expert_count : 0);
    for (size_t t = 0; f && t < f->position_count + f->mtp_count; t++) {
        const struct manifest_position *p = t < f->position_count ? &f->positions[t] : &f->mtp[t - f->position_count];
        double sum = 0;
        ct_case("position %zu", t);
        EXPECT_EQ_U64(FINGERPRINT_TOP, p->id_count);
        for (size_t i = 0; i < p->id_count; i++) {
            EXPECT_TRUE(i == 0 || p->logprobs[i] <= p->logprobs[i - 1]);
            sum += __builtin_exp(p->logprobs[i]);
        }
        EXPECT_TRUE(sum > 0.05 && sum <= 1);
    }
    source_close(&s);
    arena_release(&a);
}

/* The text ends in the middle of a word that the trained model has seen: the prompt is read as text, not as noise. */
TEST(fingerprint, the_prompt_is_text_where_there_is_a_tokenizer_and_seeded_ids_where_there_is_none)
{
    struct fingerprint_options o = {.quiet = true};
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *bare = path_join(&a, dir, "bare");
    double first[2] = {0};

    ASSERT_OK(support_convert(SAMPLE, bare, &(struct conversion_case){.recipe = "bf16"}, &e), e);
    ASSERT_TRUE(remove(path_join(&a, bare, "tokenizer.json")) == 0);
    for (size_t i = 0; i < 2; i++) {
        struct manifest_fingerprint *f = NULL;
        struct source s = {0};
        ct_case("%s", i == 0 ? "text" : "seeded");
        EXPECT_OK(source_open(&s, i == 0 ? SAMPLE : bare, true, &e), e);
        EXPECT_OK(fingerprint_make(&f, &a, &s, &o, &e), e);
        for (size_t t = 0; f && t + 1 < f->position_count; t++)
            for (size_t k = 0; k < f->positions[t].id_count; k++)
                first[i] += f->positions[t].ids[k] == f->prompt[t + 1];
        source_close(&s);
    }
    EXPECT_TRUE(first[0] >= 12); /* the next token is among the first sixteen far more often than by chance */
    EXPECT_TRUE(first[1] <= 4);
    arena_release(&a);
}

/* A tokenizer that the system would not give was taken for none, and the bundle got another prompt. */
TEST(fingerprint, a_tokenizer_that_cannot_be_read_is_an_error_and_not_another_prompt)
{
    struct fingerprint_options o = {.quiet = true};
    struct manifest_fingerprint *f = NULL;
    struct arena a = {0};
    struct source s = {0};
    struct err e = {0};
    const char *dst = path_join(&a, ct_temp_dir(), "loop"), *tokenizer = path_join(&a, dst, "tokenizer.json");

    ASSERT_OK(support_convert(SAMPLE, dst, &(struct conversion_case){.recipe = "bf16"}, &e), e);
    ASSERT_TRUE(remove(tokenizer) == 0 && symlink("tokenizer.json", tokenizer) == 0);
    EXPECT_OK(source_open(&s, dst, true, &e), e);
    EXPECT_FALSE(fingerprint_make(&f, &a, &s, &o, &e));
    EXPECT_ERR(e, ERR_IO, "tokenizer.json");
    source_close(&s);
    arena_release(&a);
}

/* DeepSeek-V3's kv_a_proj has 576 rows in blocks of 128: the last slice is half a block, and met an assertion. */
TEST(fingerprint, a_matrix_that_ends_within_a_block_is_read_by_slices)
{
    struct conversion_case c = {.recipe = "[{\"match\": \"*\", \"scheme\": \"keep\"}]", .fingerprint = true};
    struct model ragged = models[MODEL_TINY];
    struct ckpt_maker m = {0};
    struct arena a = {0};
    struct err e = {0};
    const char *src = ct_temp_dir();

    ragged.kv_lora = 128; /* and 32 of rope: 160 rows */
    ASSERT_TRUE(support_model_of(&m, &ragged, &support_fp8));
    ckpt_write(&m, src);
    EXPECT_OK(support_convert(src, path_join(&a, ct_temp_dir(), "dst"), &c, &e), e);
    ckpt_release(&m);
    arena_release(&a);
}

/* What the plan foresees is what the written bundle takes. */
TEST(fingerprint, the_plan_knows_the_cost)
{
    static const char *const recipes[] = {"int4:g32:absmax", "bf16", "fp8"};

    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++) {
        struct conversion_case c = {.recipe = recipes[i]};
        struct fingerprint_cost made = {0};
        struct planned p;
        struct source s = {0};
        struct arena a = {0};
        struct err e = {0};
        const char *dst = path_join(&a, ct_temp_dir(), "out");
        ct_case("%s", recipes[i]);
        EXPECT_OK(planned_open(&p, SAMPLE, dst, &c, &e), e);
        EXPECT_OK(support_convert(SAMPLE, dst, &c, &e), e);
        EXPECT_OK(source_open(&s, dst, true, &e), e);
        EXPECT_OK(fingerprint_cost(&made, &s, 2, &e), e);
        if (e.code == ERR_NONE) {
            const struct proof *proofs = proofs_plan(&p.plan, 2, &(struct proof_wishes){0});
            EXPECT_TRUE(proofs[0].why_not == NULL);
            EXPECT_EQ_U64(made.read_bytes, proofs[0].cost.read_bytes);
            EXPECT_EQ_U64(made.memory_bytes, proofs[0].cost.memory_bytes);
            EXPECT_TRUE(made.read_bytes > 0 && made.memory_bytes > 0);
            EXPECT_OK(proofs_check_memory(proofs, 1, made.memory_bytes + 100, 100, &e), e);
            EXPECT_FALSE(proofs_check_memory(proofs, 1, made.memory_bytes + 99, 100, &e));
            EXPECT_ERR(e, ERR_MEMORY, "--no-fingerprint leaves it out");
        }
        source_close(&s);
        planned_close(&p);
        arena_release(&a);
    }
}

TEST(fingerprint, a_model_that_cannot_run_has_none_and_the_plan_says_why)
{
    struct conversion_case c = {.recipe = "bf16", .fingerprint = true};
    struct ckpt_maker m;
    struct manifest got;
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *dst = path_join(&a, dir, "out");

    ASSERT_TRUE(support_model(&m, &support_fp8));
    ckpt_drop(&m, "model.layers.1.self_attn.o_proj.weight");
    ckpt_drop(&m, "model.layers.1.self_attn.o_proj.weight_scale_inv");
    ckpt_write(&m, dir);
    EXPECT_OK(support_convert(dir, dst, &c, &e), e);
    EXPECT_OK(manifest_load(&got, &a, path_join(&a, dst, MANIFEST_NAME), &e), e);
    if (e.code == ERR_NONE) {
        EXPECT_TRUE(got.fingerprint == NULL);
        EXPECT_STR_HAS(got.no_fingerprint, "model.layers.1.self_attn.o_proj");
        EXPECT_TRUE(strstr(got.no_fingerprint, dir) == NULL); /* no path of this machine */
    }
    ckpt_release(&m);
    arena_release(&a);
}
