#include "convert/recipe.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "tests/ct.h"
#include "tests/rows_support.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* V3.2 (it has every role) with fewer layers and experts: 0 and 1 dense, 2 to 4 with experts, 5 for MTP. */
static struct model small_model(void)
{
    struct model m = models[MODEL_V32];

    m.layers = 5;
    m.first_dense = 2;
    m.experts = 8;
    m.top_k = 2;
    m.groups = 2;
    m.topk_groups = 1;
    return m;
}

static bool parse(struct recipe *r, const char *text, struct err *e)
{
    *e = (struct err){0};
    return recipe_parse(r, "mine", text, strlen(text), e);
}

/* ---- the language ---- */

#define RULES(rules) "{\"rules\": [" rules "]}"
#define STAR         "\"match\": \"*\", "

static const struct {
    const char *text, *want; /* the message ends in this */
} refusals[] = {
    {"", "the text ends where a value should be"},
    {"[]", "an array, not an object"},
    {"{}", "recipe 'mine': key 'rules' is missing"},
    {"{\"rules\": {}}", "key 'rules' is an object, not a list"},
    {"{\"rules\": []}", "key 'rules' is an empty list"},
    {"{\"widths\": 4.5, \"rules\": []}", "key 'widths' is a number, not an object"},
    {"{\"widths\": {\"bits\": 4.5}, \"rules\": []}",
     "key 'widths' has 'bits'; known are target_bpw, statistics_sha256"},
    {"{\"widths\": {\"target_bpw\": 4.5}, \"rules\": []}", "key 'widths': 'statistics_sha256' is missing"},
    {"{\"name\": \"x\", \"rule\": []}", "unknown key 'rule'; known are name, description, widths, rules"},
    {"{\"name\": \"\", \"rules\": []}", "key 'name' is empty"},
    {"{\"name\": 1, \"rules\": []}", "key 'name' is a number, not a string"},
    {"{\"description\": null, \"rules\": []}", "key 'description' is null, not a string"},
    {RULES("1"), "rule 1: a number, not an object"},
    {RULES("{\"scheme\": \"bf16\"}"), "rule 1: key 'match' is missing"},
    {RULES("{\"match\": \"*\"}"), "rule 1: key 'scheme' is missing"},
    {RULES("{" STAR "\"scheme\": \"q4_k\"}"),
     "rule 1: key 'scheme' is 'q4_k'; known are keep, bf16, f16, f32, fp8, fp8-ue8m0, fp8-channel, "
     "fp8-static, int4"},
    {RULES("{" STAR "\"scheme\": 4}"), "rule 1: key 'scheme' is a number, not a string"},
    {RULES("{" STAR "\"scheme\": \"bf16\"}, {" STAR "\"scheme\": \"keep\", \"colour\": 1}"),
     "rule 2: unknown key 'colour'; known with scheme 'keep' are match, layers, scheme"},
    {RULES("{" STAR "\"scheme\": \"int4\", \"bits\": 4}"),
     "unknown key 'bits'; known with scheme 'int4' are match, layers, scheme, group, asymmetric, method, "
     "positive_scales"},
    {RULES("{" STAR "\"scheme\": \"bf16\", \"group\": 32}"),
     "misplaced key 'group'; known with scheme 'bf16' are match, layers, scheme"},
    {RULES("{" STAR "\"scheme\": \"fp8\", \"method\": \"search\"}"),
     "key 'method' is 'search'; known are absmax, ldlq"},
    {RULES("{" STAR "\"scheme\": \"bf16\", \"method\": \"absmax\"}"),
     "misplaced key 'method'; known with scheme 'bf16' are match, layers, scheme"},
    {RULES("{\"match\": [], \"scheme\": \"bf16\"}"), "key 'match' is an empty list"},
    {RULES("{\"match\": 1, \"scheme\": \"bf16\"}"), "key 'match' is a number, not a string or a list of strings"},
    {RULES("{\"match\": [\"*\", null], \"scheme\": \"bf16\"}"), "key 'match' is null, not a string"},
    {RULES("{\"match\": \"experts\", \"scheme\": \"bf16\"}"),
     "key 'match' has 'experts'; known are '*', 're:' patterns, the groups embed, head, norm, attention, dense_mlp, "
     "shared_expert, routed_expert, router, mtp, indexer, other, and the roles in them"},
    {RULES("{\"match\": \"unknown\", \"scheme\": \"bf16\"}"), "key 'match' has 'unknown'"},
    {RULES("{\"match\": \"re:(\", \"scheme\": \"bf16\"}"), "key 'match': pattern '('"},
    {RULES("{" STAR "\"layers\": 3, \"scheme\": \"bf16\"}"), "key 'layers' is a number, not a string such as \"0-2\""},
    {RULES("{" STAR "\"layers\": \"\", \"scheme\": \"bf16\"}"), "key 'layers' is ''; it is a list"},
    {RULES("{" STAR "\"layers\": \"5-3\", \"scheme\": \"bf16\"}"), "key 'layers' is '5-3'"},
    {RULES("{" STAR "\"layers\": \"1,\", \"scheme\": \"bf16\"}"), "key 'layers' is '1,'"},
    {RULES("{" STAR "\"layers\": \"-3\", \"scheme\": \"bf16\"}"), "key 'layers' is '-3'"},
    {RULES("{" STAR "\"layers\": \"mtpx\", \"scheme\": \"bf16\"}"), "key 'layers' is 'mtpx'"},
    {RULES("{" STAR "\"layers\": \"99999999999999999999\", \"scheme\": \"bf16\"}"),
     "key 'layers' is '99999999999999999999'"},
    {RULES("{" STAR "\"scheme\": \"int4\", \"group\": 48}"),
     "key 'group' is another number; known are 32, 64, 128, \"channel\""},
    {RULES("{" STAR "\"scheme\": \"int4\", \"group\": \"row\"}"), "key 'group' is a string; known are 32, 64, 128"},
    {RULES("{" STAR "\"scheme\": \"int4\", \"group\": true}"), "key 'group' is a boolean"},
    {RULES("{" STAR "\"scheme\": \"int4\", \"asymmetric\": 1}"), "key 'asymmetric' is a number, not true or false"},
    {RULES("{" STAR "\"scheme\": \"int4\", \"method\": \"awq\"}"),
     "key 'method' is 'awq'; known are absmax, search, gptq, ldlq"},
    {RULES("{" STAR "\"scheme\": \"int4\", \"method\": \"absmax\", \"positive_scales\": true}"),
     "key 'positive_scales' needs method 'search'"},
    {RULES("{" STAR "\"scheme\": \"fp8\", \"layout\": \"modelopt\"}"),
     "key 'layout' is 'modelopt'; known are deepseek, compressed-tensors"},
    {RULES("{" STAR "\"scheme\": \"fp8-channel\", \"layout\": \"deepseek\"}"),
     "key 'layout' is 'deepseek'; known are compressed-tensors"},
    {RULES("{" STAR "\"scheme\": \"fp8\", \"scale_dtype\": \"e8m0\"}"), "key 'scale_dtype' is 'e8m0'; known are f32"},
    {RULES("{" STAR "\"scheme\": \"fp8-ue8m0\", \"scale_dtype\": \"bf16\"}"),
     "key 'scale_dtype' is 'bf16'; known are f32, e8m0"},
    {RULES("{" STAR "\"scheme\": \"fp8-ue8m0\", \"scale_dtype\": \"e8m0\", \"layout\": \"compressed-tensors\"}"),
     "key 'scale_dtype' is 'e8m0', which layout 'compressed-tensors' does not have"},
    {RULES("{\"match\": \"router\", \"scheme\": \"int4\"}"),
     "key 'match' has 'router', which no engine loads as 'int4'"},
    {RULES("{\"match\": \"embed\", \"scheme\": \"fp8\"}"), "key 'match' has 'embed', which no engine loads as 'fp8'"},
    {RULES("{" STAR "\"scheme\": \"bf16\", \"scheme\": \"f16\"}"), "scheme"},
};

TEST(recipe, a_mistake_is_refused_by_rule_key_and_what_is_known)
{
    for (size_t i = 0; i < COUNT(refusals); i++) {
        struct recipe r = {0};
        struct err e;
        ct_case("%s", refusals[i].text);
        EXPECT_FALSE(parse(&r, refusals[i].text, &e));
        EXPECT_ERR(e, ERR_FORMAT, refusals[i].want);
        EXPECT_STR_HAS(e.text, "recipe 'mine'");
        EXPECT_TRUE(r.rules == NULL);
        recipe_release(&r);
    }
}

#define KEEP_ALL "{\"match\":\"*\",\"scheme\":\"keep\"}"

static const struct {
    const char *text, *want;
} canonical[] = {
    {"{\"name\": \"a\", \"rules\": [{\"scheme\": \"bf16\", \"match\": \"*\"}]}",
     "{\"name\":\"a\",\"rules\":[{\"match\":\"*\",\"scheme\":\"bf16\"}," KEEP_ALL "]}"},
    {"/* a comment */ {\"rules\": [{\"match\": [\"*\"], \"scheme\": \"bf16\"}, // and one more\n" KEEP_ALL ",],}",
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"bf16\"}," KEEP_ALL "]}"},
    {RULES("{\"match\": [\"attention\", \"re:.*x\"], \"layers\": \"mtp,7-9,5,6,1-2\", \"scheme\": \"f32\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":[\"attention\",\"re:.*x\"],\"layers\":\"1-2,5-9,mtp\",\"scheme\":"
     "\"f32\"}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"layers\": \"4-,2,8-9\", \"scheme\": \"keep\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"layers\":\"2,4-\",\"scheme\":\"keep\"}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"scheme\": \"int4\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"int4\",\"group\":128,\"asymmetric\":false,"
     "\"method\":\"search\",\"positive_scales\":false}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"scheme\": \"int4\", \"group\": \"channel\", \"asymmetric\": true, \"method\": \"absmax\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"int4\",\"group\":\"channel\",\"asymmetric\":true,"
     "\"method\":\"absmax\",\"positive_scales\":false}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"scheme\": \"fp8\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"fp8\",\"layout\":"
     "\"deepseek\",\"scale_dtype\":\"f32\"}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"scheme\": \"fp8-ue8m0\", \"scale_dtype\": \"e8m0\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"fp8-ue8m0\",\"layout\":\"deepseek\",\"scale_dtype\":"
     "\"e8m0\"}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"scheme\": \"fp8-static\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"fp8-static\",\"layout\":\"compressed-tensors\","
     "\"scale_dtype\":\"f32\"}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"scheme\": \"fp8-channel\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"fp8-channel\",\"layout\":\"compressed-tensors\","
     "\"scale_dtype\":\"f32\"}," KEEP_ALL "]}"},
    {RULES("{" STAR "\"scheme\": \"fp8-ue8m0\", \"method\": \"ldlq\"}"),
     "{\"name\":\"mine\",\"rules\":[{\"match\":\"*\",\"scheme\":\"fp8-ue8m0\",\"layout\":\"deepseek\",\"scale_dtype\":"
     "\"f32\",\"method\":\"ldlq\"}," KEEP_ALL "]}"},
    {"{\"widths\": {\"statistics_sha256\": \"0af\", \"target_bpw\": 4.50}, \"rules\": [" KEEP_ALL "]}",
     "{\"name\":\"mine\",\"widths\":{\"target_bpw\":4.5,\"statistics_sha256\":\"0af\"},\"rules\":[" KEEP_ALL "]}"},
};

TEST(recipe, the_canonical_text_has_every_default_and_parses_to_itself)
{
    for (size_t i = 0; i < COUNT(canonical); i++) {
        struct recipe r = {0}, again = {0};
        struct err e;
        ct_case("%s", canonical[i].text);
        EXPECT_OK(parse(&r, canonical[i].text, &e), e);
        if (r.text) {
            EXPECT_STR_EQ(canonical[i].want, r.text);
            EXPECT_OK(parse(&again, r.text, &e), e);
            EXPECT_STR_EQ(r.text, again.text);
        }
        recipe_release(&r);
        recipe_release(&again);
    }
}

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

TEST(recipe, each_builtin_gives_each_role_its_scheme)
{
    struct model m = small_model();
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

TEST(recipe, every_builtin_is_found_by_name_has_a_line_of_description_and_keeps_fused_modules_together)
{
    const struct scheme *const sources[] = {&stored_fp8, &stored_bf16};
    struct model m = small_model();
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

TEST(recipe, a_name_that_is_not_known_is_a_usage_error_with_those_that_are)
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

TEST(recipe, a_target_of_convert_is_a_recipe)
{
    struct model m = small_model();
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

TEST(recipe, every_name_that_completion_offers_is_a_target)
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

TEST(recipe, the_first_rule_that_may_touch_a_weight_decides)
{
    struct model m = small_model();
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

TEST(recipe, codes_that_are_already_right_are_copied)
{
    struct model m = small_model();

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

TEST(recipe, a_width_that_the_group_does_not_divide_falls_back_to_bf16)
{
    struct model m = small_model();
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

TEST(recipe, an_expert_that_the_group_does_not_divide_is_refused_with_the_groups_that_fit)
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
        struct model m = small_model();
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

TEST(recipe, what_has_no_role_or_is_no_matrix_is_kept_by_any_rule)
{
    static const char text[] = RULES("{" STAR "\"scheme\": \"f16\"}");
    struct model m = small_model();
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

/* ---- files ---- */

TEST(recipe, a_file_is_named_by_its_name_unless_it_says_otherwise)
{
    static const char text[] = "// mine\n" RULES("{" STAR "\"scheme\": \"bf16\"}");
    struct arena a = {0};
    struct recipe r = {0};
    struct err e = {0};
    const char *path = path_join(&a, ct_temp_dir(), "edges.json");

    ASSERT_OK(file_write_whole(path, text, strlen(text), &e), e);
    ASSERT_OK(recipe_load(&r, path, &e), e);
    EXPECT_STR_EQ("edges", r.name);
    recipe_release(&r);
    EXPECT_FALSE(recipe_load(&r, "absent.json", &e));
    EXPECT_ERR(e, ERR_IO, "recipe 'absent.json'");
    recipe_release(&r);
    arena_release(&a);
}

TEST(recipe, the_samples_parse_and_keep_fused_modules_together)
{
    char **names;
    size_t count;
    struct arena a = {0};
    struct err e = {0};

    ASSERT_OK(dir_list("samples/recipes", &a, &names, &count, &e), e);
    EXPECT_TRUE(count >= 3);
    for (size_t i = 0; i < count; i++) {
        struct model m = small_model();
        struct rows rows = {0};
        ct_case("%s", names[i]);
        rows_model(&rows, &m, &stored_fp8);
        EXPECT_OK(rows_choose(&rows, path_join(&a, "samples/recipes", names[i]), &e), e);
        EXPECT_OK(engine_check_fused(rows.items, rows.count, &e), e);
        rows_release(&rows);
    }
    arena_release(&a);
}
