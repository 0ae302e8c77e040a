#include "convert/recipe.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "tests/ct.h"
#include "tests/rows_support.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

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
        struct model m = rows_small_model();
        struct rows rows = {0};
        ct_case("%s", names[i]);
        rows_model(&rows, &m, &stored_fp8);
        EXPECT_OK(rows_choose(&rows, path_join(&a, "samples/recipes", names[i]), &e), e);
        EXPECT_OK(engine_check_fused(rows.items, rows.count, &e), e);
        rows_release(&rows);
    }
    arena_release(&a);
}
