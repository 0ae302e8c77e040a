/* What recipes make of a model's weights: the built-in ones, the targets of convert, and rules one after the other. */
#include <stdio.h>
#include <string.h>

#include "convert/recipe.h"
#include "tests/ct.h"
#include "tests/rows_support.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define RULES(rules) "{\"rules\": [" rules "]}"
#define STAR         "\"match\": \"*\", "

/* ---- built-in recipes ---- */

static const char *const columns[] = {
    "model.embed_tokens",
    "lm_head",
    "model.layers.2.input_layernorm",
    "model.layers.2.self_attn.q_a_proj",
    "model.layers.2.self_attn.kv_a_proj_with_mqa",
    "model.layers.2.self_attn.kv_b_proj",
    "model.layers.2.self_attn.o_proj",
    "model.layers.2.self_attn.indexer.wq_b",
    "model.layers.2.self_attn.indexer.weights_proj",
    "model.layers.0.mlp.gate_proj",
    "model.layers.2.mlp.gate",
    "model.layers.2.mlp.gate.e_score_correction_bias",
    "model.layers.2.mlp.shared_experts.up_proj",
    "model.layers.2.mlp.experts.7.down_proj",
    "model.layers.5.mlp.experts.0.gate_proj",
    "model.layers.5.eh_proj",
    "model.layers.5.enorm",
    "model.layers.5.shared_head.head",
};

#define KEPT  "BF16 copy"
#define BIAS  "F32 copy"
#define ROUND "BF16 round"
#define INT4  "int4 g128 search"
#define INT4A "int4 g128 absmax"
#define FP8   "fp8 128x128 copy"
#define FP8CT "fp8 128x128 ct copy"
#define POW2  "fp8 128x128 pow2 absmax"
#define CHAN  "fp8 channel absmax"
#define F16   "F16 round"
#define F32   "F32 round"

/* From a source in DeepSeek's FP8. */
static const struct {
    const char *recipe;
    const char *want[COUNT(columns)];
} choices[] = {
    /* clang-format off */
    /*               embed head  norm  q_a    kv_a   kv_b   o      wq_b   iw    dense  gate  bias  shared expert  mtp    eh    enorm head */
    {"int4-fast",   {KEPT, KEPT, KEPT, ROUND, ROUND, ROUND, ROUND, ROUND, KEPT, ROUND, KEPT, BIAS, ROUND, INT4,  INT4,  KEPT, KEPT, KEPT}},
    {"W4A16",       {KEPT, KEPT, KEPT, ROUND, ROUND, ROUND, ROUND, ROUND, KEPT, ROUND, KEPT, BIAS, ROUND, INT4,  INT4,  KEPT, KEPT, KEPT}},
    {"int4-absmax", {KEPT, KEPT, KEPT, ROUND, ROUND, ROUND, ROUND, ROUND, KEPT, ROUND, KEPT, BIAS, ROUND, INT4A, INT4A, KEPT, KEPT, KEPT}},
    {"int4-fp8",    {KEPT, KEPT, KEPT, FP8CT, FP8CT, FP8CT, FP8CT, FP8CT, KEPT, FP8CT, KEPT, BIAS, FP8CT, INT4,  INT4,  KEPT, KEPT, KEPT}},
    {"int4-all",    {KEPT, KEPT, KEPT, INT4,  INT4,  ROUND, INT4,  ROUND, KEPT, INT4,  KEPT, BIAS, INT4,  INT4,  INT4,  KEPT, KEPT, KEPT}},
    {"fp8",         {KEPT, KEPT, KEPT, FP8,   FP8,   FP8,   FP8,   FP8,   KEPT, FP8,   KEPT, BIAS, FP8,   FP8,   FP8,   KEPT, KEPT, KEPT}},
    {"fp8-ue8m0",   {KEPT, KEPT, KEPT, POW2,  POW2,  POW2,  POW2,  POW2,  KEPT, POW2,  KEPT, BIAS, POW2,  POW2,  POW2,  KEPT, KEPT, KEPT}},
    {"fp8-block",   {KEPT, KEPT, KEPT, FP8CT, FP8CT, FP8CT, FP8CT, FP8CT, KEPT, FP8CT, KEPT, BIAS, FP8CT, FP8CT, FP8CT, KEPT, KEPT, KEPT}},
    {"FP8_BLOCK",   {KEPT, KEPT, KEPT, FP8CT, FP8CT, FP8CT, FP8CT, FP8CT, KEPT, FP8CT, KEPT, BIAS, FP8CT, FP8CT, FP8CT, KEPT, KEPT, KEPT}},
    {"to:bf16",     {KEPT, KEPT, KEPT, ROUND, ROUND, ROUND, ROUND, ROUND, KEPT, ROUND, KEPT, BIAS, ROUND, ROUND, ROUND, KEPT, KEPT, KEPT}},
    {"to:f16",      {F16,  F16,  KEPT, F16,   F16,   F16,   F16,   F16,   F16,  F16,   KEPT, BIAS, F16,   F16,   F16,   F16,  KEPT, F16}},
    {"to:f32",      {F32,  F32,  KEPT, F32,   F32,   F32,   F32,   F32,   F32,  F32,   KEPT, BIAS, F32,   F32,   F32,   F32,  KEPT, F32}},
    {"to:fp8",      {KEPT, KEPT, KEPT, FP8,   FP8,   FP8,   FP8,   FP8,   KEPT, FP8,   KEPT, BIAS, FP8,   FP8,   FP8,   KEPT, KEPT, KEPT}},
    {"to:fp8-ue8m0",{KEPT, KEPT, KEPT, POW2,  POW2,  POW2,  POW2,  POW2,  KEPT, POW2,  KEPT, BIAS, POW2,  POW2,  POW2,  KEPT, KEPT, KEPT}},
    {"to:fp8-channel",{KEPT,KEPT,KEPT, CHAN,  CHAN,  CHAN,  CHAN,  CHAN,  KEPT, CHAN,  KEPT, BIAS, CHAN,  CHAN,  CHAN,  KEPT, KEPT, KEPT}},
    {"to:int4",     {KEPT, KEPT, KEPT, ROUND, ROUND, ROUND, ROUND, ROUND, KEPT, ROUND, KEPT, BIAS, ROUND, INT4,  INT4,  KEPT, KEPT, KEPT}},
    /* clang-format on */
};

static void expect_choice(const char *want, const struct choice *c)
{
    char scheme[SCHEME_TEXT], got[2 * SCHEME_TEXT];

    if (!c)
        return;
    snprintf(got, sizeof got, "%s %s", scheme_text(&c->scheme, scheme), scheme_method_name(c->scheme.method));
    EXPECT_STR_EQ(want, got);
}

TEST(recipe_choice, each_builtin_gives_each_role_its_scheme)
{
    struct model m = rows_small_model();
    struct rows rows = {0};
    struct err e = {0};

    rows_model(&rows, &m, &stored_fp8);
    for (size_t i = 0; i < COUNT(choices); i++) {
        EXPECT_OK(rows_choose(&rows, choices[i].recipe, &e), e);
        for (size_t c = 0; c < COUNT(columns); c++) {
            ct_case("%s: %s", choices[i].recipe, columns[c]);
            expect_choice(choices[i].want[c], rows_choice(&rows, columns[c]));
        }
    }
    rows_release(&rows);
}

TEST(recipe_choice, every_builtin_is_found_by_name_has_a_line_of_description_and_keeps_fused_modules_together)
{
    const struct scheme *const sources[] = {&stored_fp8, &stored_bf16};
    struct model m = rows_small_model();
    struct err e = {0};

    for (size_t s = 0; s < COUNT(sources); s++) {
        struct rows rows = {0};
        rows_model(&rows, &m, sources[s]);
        for (size_t i = 0; recipe_builtin_name(i); i++) {
            struct recipe r = {0};
            ct_case("%s, source %zu", recipe_builtin_name(i), s);
            EXPECT_OK(recipe_load(&r, recipe_builtin_name(i), &e), e);
            EXPECT_STR_EQ(recipe_builtin_name(i), r.name ? r.name : "");
            EXPECT_STR_EQ(recipe_builtin_description(i), r.description ? r.description : "");
            EXPECT_TRUE(strchr(recipe_builtin_description(i), '\n') == NULL);
            recipe_release(&r);
            EXPECT_OK(rows_choose(&rows, recipe_builtin_name(i), &e), e);
            EXPECT_OK(engine_check_fused(rows.items, rows.count, &e), e);
        }
        rows_release(&rows);
    }
}

static const struct {
    const char *name, *want;
} bad_names[] = {
    {"w4a16", "unknown recipe 'w4a16'; known are int4, int4-best, int4-fast, int4-absmax, int4-fp8, int4-all, fp8, "
              "fp8-ue8m0, fp8-ue8m0-ldlq, fp8-static, fp8-block"},
    {"", "unknown recipe ''"},
};

TEST(recipe_choice, a_name_that_is_not_known_is_a_usage_error_with_those_that_are)
{
    for (size_t i = 0; i < COUNT(bad_names); i++) {
        struct recipe r = {0};
        struct err e = {0};
        ct_case("%s", bad_names[i].name);
        EXPECT_FALSE(recipe_load(&r, bad_names[i].name, &e));
        EXPECT_ERR(e, ERR_USAGE, bad_names[i].want);
        recipe_release(&r);
    }
}

static const struct {
    const char *to, *want; /* scheme of an expert; NULL: refused */
} targets[] = {
    {"int4", "int4 g128 search"},
    {"int4:g32", "int4 g32 search"},
    {"int4:g64:absmax", "int4 g64 absmax"},
    {"int4:absmax:asym:g128", "int4 g128 asym absmax"},
    {"int4:", NULL},
    {"int4:g32:", NULL},
    {"int4:g16", NULL},
    {"int4:g32:g64", NULL},
    {"int4:asym:asym", NULL},
    {"int4g32", NULL},
    {"BF16", NULL},
    {"", NULL},
};

TEST(recipe_choice, a_target_of_convert_is_a_recipe)
{
    struct model m = rows_small_model();
    struct rows rows = {0};

    rows_model(&rows, &m, &stored_bf16);
    for (size_t i = 0; i < COUNT(targets); i++) {
        struct recipe r = {0};
        struct err e = {0};
        struct choice c = {0};
        ct_case("%s", targets[i].to);
        EXPECT_TRUE(recipe_to(&r, targets[i].to, &e) == (targets[i].want != NULL));
        if (!targets[i].want)
            EXPECT_ERR(e, ERR_USAGE, "known are bf16, f16, f32, fp8, fp8-ue8m0, fp8-channel, int4");
        for (size_t w = 0; targets[i].want && w < rows.count; w++)
            if (rows.weights[w].id.role == ROLE_EXPERT_UP) {
                EXPECT_OK(recipe_choose(&r, &rows.arena, &rows.arch, &rows.weights[w], &c, &e), e);
                expect_choice(targets[i].want, &c);
            }
        recipe_release(&r);
    }
    rows_release(&rows);
}

TEST(recipe_choice, every_name_that_completion_offers_is_a_target)
{
    size_t count = 0;

    for (; recipe_to_name(count); count++) {
        struct recipe r = {0};
        struct err e = {0};
        ct_case("%s", recipe_to_name(count));
        EXPECT_OK(recipe_to(&r, recipe_to_name(count), &e), e);
        recipe_release(&r);
    }
    EXPECT_TRUE(count > 6);
}

/* ---- choosing ---- */

#define DENSE_0 "model.layers.0.mlp.up_proj"
#define Q_A_1   "model.layers.1.self_attn.q_a_proj"
#define UP_3    "model.layers.3.mlp.experts.2.up_proj"
#define UP_MTP  "model.layers.5.mlp.experts.2.up_proj"
#define ROUTER  "model.layers.3.mlp.gate"
#define ENORM   "model.layers.5.enorm"
#define HEAD    "lm_head"

static const struct {
    const char *rules, *module, *want, *why;
} rule_cases[] = {
    /* the first that matches */
    {"{" STAR "\"scheme\": \"f16\"}, {" STAR "\"scheme\": \"f32\"}", Q_A_1, F16, "rule 1: *"},
    {"{\"match\": \"dense_mlp\", \"scheme\": \"f16\"}, {" STAR "\"scheme\": \"f32\"}", Q_A_1, F32, "rule 2: *"},
    {"{\"match\": [\"head\", \"attention\"], \"scheme\": \"f16\"}", Q_A_1, F16, "rule 1: attention"},
    {"{\"match\": \"attention\", \"scheme\": \"f16\"}", DENSE_0, FP8, "kept: no rule changes it"},
    {"{\"match\": \"attention\", \"scheme\": \"keep\"}, {" STAR "\"scheme\": \"f16\"}", Q_A_1, FP8,
     "rule 1: attention"},
    /* layers */
    {"{" STAR "\"layers\": \"0-2\", \"scheme\": \"f16\"}", Q_A_1, F16, "rule 1: *"},
    {"{" STAR "\"layers\": \"0-2\", \"scheme\": \"f16\"}", UP_3, FP8, "kept: no rule changes it"},
    {"{" STAR "\"layers\": \"3-\", \"scheme\": \"f16\"}", UP_3, F16, "rule 1: *"},
    {"{" STAR "\"layers\": \"3-\", \"scheme\": \"f16\"}", UP_MTP, F16, "rule 1: *"},
    {"{" STAR "\"layers\": \"5\", \"scheme\": \"f16\"}", UP_MTP, F16, "rule 1: *"},
    {"{" STAR "\"layers\": \"0,2,4\", \"scheme\": \"f16\"}", UP_3, FP8, "kept: no rule changes it"},
    {"{" STAR "\"layers\": \"mtp\", \"scheme\": \"f16\"}", UP_3, FP8, "kept: no rule changes it"},
    {"{" STAR "\"layers\": \"mtp\", \"scheme\": \"f16\"}", UP_MTP, F16, "rule 1: *"},
    {"{" STAR "\"layers\": \"0-\", \"scheme\": \"f16\"}", HEAD, KEPT, "kept: no rule changes it"},
    /* patterns are held against the module's name, from its start */
    {"{\"match\": \"re:.*\\\\.experts\\\\.[0-2]\\\\.\", \"scheme\": \"f16\"}", UP_3, F16,
     "rule 1: re:.*\\.experts\\.[0-2]\\."},
    {"{\"match\": \"re:experts\", \"scheme\": \"f16\"}", UP_3, FP8, "kept: no rule changes it"},
    {"{\"match\": \"re:model.*up_proj$\", \"scheme\": \"f16\"}", DENSE_0, F16, "rule 1: re:model.*up_proj$"},
    {"{\"match\": \"re:.*weight$\", \"scheme\": \"f16\"}", DENSE_0, FP8, "kept: no rule changes it"},
    /* what only its own name reaches */
    {"{" STAR "\"scheme\": \"f32\"}", ROUTER, KEPT, "kept: router"},
    {"{\"match\": \"re:.*gate$\", \"scheme\": \"f32\"}", ROUTER, KEPT, "kept: router"},
    {"{\"match\": [\"*\", \"router\"], \"scheme\": \"f32\"}", ROUTER, F32, "rule 1: router"},
    {"{\"match\": \"mtp\", \"scheme\": \"f32\"}", ENORM, KEPT, "kept: mtp_norm"},
    {"{\"match\": \"mtp_norm\", \"scheme\": \"f32\"}", ENORM, F32, "rule 1: mtp_norm"},
    {"{" STAR "\"scheme\": \"int4\"}", HEAD, KEPT, "kept: no rule changes it"},
    {"{\"match\": \"re:lm_head\", \"scheme\": \"int4\"}, {" STAR "\"scheme\": \"f16\"}", HEAD, F16, "rule 2: *"},
    {"{\"match\": \"head\", \"scheme\": \"int4\"}", HEAD, INT4, "rule 1: head"},
    {"{\"match\": \"kv_b_proj\", \"scheme\": \"int4\"}", "model.layers.1.self_attn.kv_b_proj", INT4,
     "rule 1: kv_b_proj"},
    /* options */
    {"{" STAR "\"scheme\": \"int4\", \"group\": \"channel\", \"asymmetric\": true}", UP_3, "int4 channel asym search",
     "rule 1: *"},
    {"{" STAR "\"scheme\": \"fp8-ue8m0\", \"scale_dtype\": \"e8m0\"}", UP_3, "fp8 128x128 e8m0 absmax", "rule 1: *"},
    {"{" STAR "\"scheme\": \"fp8-ue8m0\", \"layout\": \"compressed-tensors\"}", UP_3, "fp8 128x128 ct pow2 absmax",
     "rule 1: *"},
};

TEST(recipe_choice, the_first_rule_that_may_touch_a_weight_decides)
{
    struct model m = rows_small_model();
    struct rows rows = {0};
    struct err e = {0};

    rows_model(&rows, &m, &stored_fp8);
    for (size_t i = 0; i < COUNT(rule_cases); i++) {
        struct buf text = {0};
        ct_case("%s: %s", rule_cases[i].rules, rule_cases[i].module);
        buf_printf(&text, "{\"rules\": [%s]}", rule_cases[i].rules);
        EXPECT_OK(rows_choose(&rows, text.data, &e), e);
        const struct choice *c = rows_choice(&rows, rule_cases[i].module);
        expect_choice(rule_cases[i].want, c);
        EXPECT_STR_EQ(rule_cases[i].why, c && c->why ? c->why : "");
        buf_release(&text);
    }
    rows_release(&rows);
}

static const struct scheme stored_pow2 = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32_POW2, .block_rows = 128, .block_cols = 128};
static const struct scheme stored_e8m0 = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_E8M0, .block_rows = 128, .block_cols = 128};
static const struct scheme stored_small_blocks = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .block_rows = 64, .block_cols = 64};
static const struct scheme stored_tensor = {.kind = SCHEME_FP8_TENSOR, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32};
static const struct scheme stored_channel = {.kind = SCHEME_FP8_CHANNEL, .dtype = DTYPE_F8_E4M3, .scale = SCALE_BF16};
static const struct scheme stored_ct_bf16 = {.kind = SCHEME_FP8_BLOCK,
                                             .dtype = DTYPE_F8_E4M3,
                                             .scale = SCALE_BF16,
                                             .block_rows = 128,
                                             .block_cols = 128,
                                             .compressed_tensors = true};
static const struct scheme stored_raw = {.kind = SCHEME_RAW, .dtype = DTYPE_F8_E5M2};

static const struct {
    const struct scheme *stored;
    const char *recipe, *want;
} copies[] = {
    {&stored_bf16, "to:bf16", "BF16 copy"},
    {&stored_bf16, "to:fp8", "fp8 128x128 absmax"},
    {&stored_bf16, "to:fp8-channel", "fp8 channel absmax"},
    {&stored_bf16, "fp8-ue8m0", "fp8 128x128 pow2 absmax"},
    {&stored_pow2, "fp8", "fp8 128x128 pow2 copy"},
    {&stored_pow2, "fp8-ue8m0", "fp8 128x128 pow2 absmax"}, /* config.json says so; V3.1's o_proj is otherwise */
    {&stored_pow2, "fp8-block", "fp8 128x128 ct pow2 copy"},
    {&stored_e8m0, "fp8", "fp8 128x128 e8m0 copy"},
    {&stored_e8m0, "fp8-ue8m0", "fp8 128x128 pow2 absmax"},
    {&stored_e8m0, "fp8-block", "fp8 128x128 ct absmax"},
    {&stored_e8m0, "{\"rules\": [{\"match\": \"*\", \"scheme\": \"fp8-ue8m0\", \"scale_dtype\": \"e8m0\"}]}",
     "fp8 128x128 e8m0 copy"},
    {&stored_small_blocks, "fp8", "fp8 128x128 absmax"},
    {&stored_tensor, "fp8", "fp8 128x128 absmax"},
    {&stored_tensor, "int4-fp8", "fp8 128x128 ct absmax"},
    {&stored_tensor, "{\"rules\": [{\"match\": \"*\", \"scheme\": \"keep\"}]}", "fp8 tensor copy"},
    {&stored_channel, "to:fp8-channel", "fp8 channel bf16 copy"},
    {&stored_ct_bf16, "fp8-block", "fp8 128x128 ct bf16 copy"},
    {&stored_ct_bf16, "fp8", "fp8 128x128 bf16 copy"},
    {&stored_int4_g32, "to:bf16", "BF16 round"},
    {&stored_int4_g32, "{\"rules\": [{\"match\": \"*\", \"scheme\": \"int4\", \"group\": 32}]}", "int4 g32 copy"},
    {&stored_int4_g32, "{\"rules\": [{\"match\": \"*\", \"scheme\": \"int4\", \"group\": 32, \"asymmetric\": true}]}",
     "int4 g32 asym search"},
    {&stored_int4_g32, "{\"rules\": [{\"match\": \"*\", \"scheme\": \"int4\"}]}", "int4 g128 search"},
    {&stored_raw, "to:bf16", "F8_E5M2 copy"},
};

TEST(recipe_choice, codes_that_are_already_right_are_copied)
{
    struct model m = rows_small_model();

    for (size_t i = 0; i < COUNT(copies); i++) {
        struct rows rows = {0};
        struct err e = {0};
        ct_case("case %zu: %s", i, copies[i].recipe);
        rows_model(&rows, &m, &stored_bf16);
        rows_add(&rows, "model.layers.3.self_attn.q_proj", 256, 256, copies[i].stored);
        EXPECT_OK(rows_choose(&rows, copies[i].recipe, &e), e);
        expect_choice(copies[i].want, &rows.choices[rows.count - 1]);
        rows_release(&rows);
    }
}

TEST(recipe_choice, a_width_that_the_group_does_not_divide_falls_back_to_bf16)
{
    struct model m = rows_small_model();
    struct rows rows = {0};
    struct err e = {0};

    rows_model(&rows, &m, &stored_bf16);
    rows_add(&rows, "model.layers.3.self_attn.q_proj", 256, 192, &stored_fp8);
    ASSERT_OK(rows_choose(&rows, "int4-all", &e), e);
    const struct choice *c = &rows.choices[rows.count - 1];
    expect_choice("BF16 round", c);
    EXPECT_TRUE(c->fell_back);
    EXPECT_STR_EQ("group 128 does not divide 192: BF16", c->why);
    EXPECT_FALSE(rows.choices[0].fell_back);
    rows_release(&rows);
}

TEST(recipe_choice, an_expert_that_the_group_does_not_divide_is_refused_with_the_groups_that_fit)
{
    static const struct {
        uint64_t cols;
        const char *want;
    } cases[] = {
        {192,
         "'model.layers.3.mlp.experts.0.down_proj' is 192 wide, which groups of 128 do not divide; groups that fit: "
         "32, 64, channel"},
        {96, "groups that fit: 32, channel"},
        {100, "groups that fit: channel"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct model m = rows_small_model();
        struct rows rows = {0};
        struct err e = {0};
        ct_case("%s", cases[i].want);
        rows_model(&rows, &m, &stored_bf16);
        rows_add(&rows, "model.layers.3.mlp.experts.0.down_proj", 256, cases[i].cols, &stored_fp8);
        EXPECT_FALSE(rows_choose(&rows, "int4-fast", &e));
        EXPECT_ERR(e, ERR_UNSUPPORTED, cases[i].want);
        rows_release(&rows);
    }
}

TEST(recipe_choice, what_has_no_role_or_is_no_matrix_is_kept_by_any_rule)
{
    static const char text[] = RULES("{" STAR "\"scheme\": \"f16\"}");
    struct model m = rows_small_model();
    struct rows rows = {0};
    struct err e = {0};

    rows_model(&rows, &m, &stored_bf16);
    rows_add(&rows, "vision.tower.fc", 256, 256, &stored_bf16);
    rows_add(&rows, "model.layers.3.self_attn.o_proj", 0, 256, &stored_bf16);
    ASSERT_OK(rows_choose(&rows, text, &e), e);
    expect_choice("BF16 copy", &rows.choices[rows.count - 2]);
    EXPECT_STR_EQ("kept: unknown role", rows.choices[rows.count - 2].why);
    expect_choice("BF16 copy", &rows.choices[rows.count - 1]);
    EXPECT_STR_EQ("kept: not a matrix", rows.choices[rows.count - 1].why);
    rows_release(&rows);
}
