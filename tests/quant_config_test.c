#include "convert/quant_config.h"

#include <inttypes.h>
#include <string.h>

#include "convert/quant_modules.h"
#include "formats/json.h"
#include "tests/ct.h"
#include "tests/rows_support.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct model small_model(void)
{
    struct model m = rows_small_model();

    m.quantization = QUANT_FP8_TEXT;
    return m;
}

/* The output's config.json of a model under a recipe. */
static bool write(struct rows *rows, struct buf *out, const struct model *m, const struct scheme *linear,
                  const char *recipe, struct err *e)
{
    *e = (struct err){0};
    rows_model(rows, m, linear);
    return rows_choose(rows, recipe, e) &&
           quant_config_write(out, &rows->arch, rows->config, strlen(rows->config), rows->items, rows->count, e);
}

/* ---- JSON by path, as compact text ---- */

static void put_value(struct buf *out, const struct json_doc *d, const struct json *v)
{
    bool object = json_type(v) == JSON_OBJECT;
    const char *comma = "";

    switch (json_type(v)) {
    case JSON_NULL:
        buf_puts(out, "null");
        return;
    case JSON_BOOL:
        buf_puts(out, json_bool(v) ? "true" : "false");
        return;
    case JSON_NUMBER:
        buf_printf(out, "%g", json_double(d, v));
        return;
    case JSON_STRING:
        json_quote(out, json_string(v));
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    buf_puts(out, object ? "{" : "[");
    for (const struct json *m = json_first(v); m; m = json_next(m), comma = ",") {
        buf_puts(out, comma);
        if (object) {
            json_quote(out, json_key(m));
            buf_puts(out, ":");
        }
        put_value(out, d, m);
    }
    buf_puts(out, object ? "}" : "]");
}

/* "a/b" of the document; "absent" when it is not there. In the arena. */
static const char *field(struct arena *a, const char *text, size_t bytes, const char *path)
{
    struct json_doc d = {0};
    struct err e = {0};
    struct buf out = {0};

    EXPECT_OK(json_parse(&d, text, bytes, JSON_STRICT, &e), e);
    const struct json *v = d.root;
    for (const char *p = path; v && *p;) {
        size_t key_bytes = strcspn(p, "/");
        v = json_get(v, arena_strndup(a, p, key_bytes));
        p += key_bytes + (p[key_bytes] == '/');
    }
    if (v)
        put_value(&out, &d, v);
    else
        buf_puts(&out, "absent");
    const char *found = arena_strdup(a, out.data);
    buf_release(&out);
    json_release(&d);
    return found;
}

/* ---- what each recipe's config.json says ---- */

#define Q "quantization_config/"
#define W "{\"num_bits\":"
#define INT4_WEIGHTS(symmetric, strategy, group)                                                                       \
    W "4,\"type\":\"int\",\"symmetric\":" symmetric ",\"strategy\":\"" strategy "\",\"group_size\":" group             \
      ",\"dynamic\":false,\"actorder\":null,\"block_structure\":null,\"observer\":\"minmax\",\"observer_kwargs\":{}}"
#define FP8_WEIGHTS(strategy, block)                                                                                   \
    W "8,\"type\":\"float\",\"symmetric\":true,\"strategy\":\"" strategy                                               \
      "\",\"group_size\":null,\"dynamic\":false,\"actorder\":null,\"block_structure\":" block                          \
      ",\"observer\":\"minmax\",\"observer_kwargs\":{}}"
#define FP8_ACTIVATIONS(strategy, group)                                                                               \
    W "8,\"type\":\"float\",\"symmetric\":true,\"strategy\":\"" strategy "\",\"group_size\":" group                    \
      ",\"dynamic\":true,\"actorder\":null,\"block_structure\":null,\"observer\":null,\"observer_kwargs\":{}}"

#define DENSE        "\"re:.*mlp\\\\.(gate|up|gate_up|down)_proj$\""
#define SHARED       "\"re:.*mlp\\\\.shared_experts\\\\..*\""
#define ATTN         "\"re:.*self_attn\\\\..*\""
#define EXPERT       "\"re:.*mlp\\\\.experts\\\\..*\""
#define KV_B         "\"re:.*self_attn\\\\.kv_b_proj$\""
#define INDEX        "\"re:.*self_attn\\\\.indexer\\\\..*\""
#define IDX_W        "\"re:.*self_attn\\\\.indexer\\\\.weights_proj$\""
#define ROUTER       "\"re:.*mlp\\\\.gate$\""
#define REST         "\"model.layers.5.eh_proj\",\"model.layers.5.shared_head.head\",\"lm_head\""
#define RULES(rules) "{\"rules\": [" rules "]}"

static const struct {
    const char *recipe, *path, *want;
} goldens[] = {
    {"int4-fast", Q "quant_method", "\"compressed-tensors\""},
    {"int4-fast", Q "format", "\"pack-quantized\""},
    {"int4-fast", Q "quantization_status", "\"compressed\""},
    {"int4-fast", Q "kv_cache_scheme", "null"},
    {"int4-fast", Q "config_groups/group_0/targets", "[\"Linear\"]"},
    {"int4-fast", Q "config_groups/group_0/weights", INT4_WEIGHTS("true", "group", "128")},
    {"int4-fast", Q "config_groups/group_0/input_activations", "null"},
    {"int4-fast", Q "config_groups/group_0/output_activations", "null"},
    {"int4-fast", Q "config_groups/group_0/format", "absent"},
    {"int4-fast", Q "config_groups/group_1", "absent"},
    {"int4-fast", Q "ignore", "[" ATTN "," SHARED "," DENSE "," ROUTER "," REST "]"},
    {"int4-fast", Q "weight_block_size", "absent"},
    {"to:int4:g32:asym", Q "config_groups/group_0/weights", INT4_WEIGHTS("false", "group", "32")},
    {RULES("{\"match\": \"*\", \"scheme\": \"int4\", \"group\": \"channel\"}"), Q "config_groups/group_0/weights",
     INT4_WEIGHTS("true", "channel", "null")},
    {"int4-all", Q "format", "\"pack-quantized\""},
    {"int4-all", Q "ignore", "[" INDEX "," KV_B "," ROUTER "," REST "]"},
    {"int4-fp8", Q "format", "\"mixed-precision\""},
    {"int4-fp8", Q "config_groups/group_0/format", "\"pack-quantized\""},
    {"int4-fp8", Q "config_groups/group_0/targets", "[" EXPERT "]"},
    {"int4-fp8", Q "config_groups/group_0/weights", INT4_WEIGHTS("true", "group", "128")},
    {"int4-fp8", Q "config_groups/group_0/input_activations", "null"},
    {"int4-fp8", Q "config_groups/group_1/format", "\"float-quantized\""},
    {"int4-fp8", Q "config_groups/group_1/targets",
     "[" SHARED "," DENSE ",\"re:.*self_attn\\\\.q_a_proj$\",\"re:.*self_attn\\\\.q_b_proj$\","
     "\"re:.*self_attn\\\\.kv_a_proj_with_mqa$\"," KV_B ",\"re:.*self_attn\\\\.o_proj$\","
     "\"re:.*self_attn\\\\.indexer\\\\.(wq_b|wk)$\"]"},
    {"int4-fp8", Q "config_groups/group_1/weights", FP8_WEIGHTS("block", "[128,128]")},
    {"int4-fp8", Q "config_groups/group_1/input_activations", FP8_ACTIVATIONS("group", "128")},
    {"int4-fp8", Q "ignore", "[" IDX_W "," ROUTER "," REST "]"},
    {"fp8-block", Q "format", "\"float-quantized\""},
    {"fp8-block", Q "config_groups/group_0/targets", "[\"Linear\"]"},
    {"fp8-block", Q "config_groups/group_0/weights", FP8_WEIGHTS("block", "[128,128]")},
    {"fp8-block", Q "ignore", "[" IDX_W "," ROUTER "," REST "]"},
    {"to:fp8-channel", Q "format", "\"float-quantized\""},
    {"to:fp8-channel", Q "config_groups/group_0/weights", FP8_WEIGHTS("channel", "null")},
    {"to:fp8-channel", Q "config_groups/group_0/input_activations", FP8_ACTIVATIONS("token", "null")},
    {"fp8-ue8m0", "quantization_config",
     "{\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"quant_method\":\"fp8\",\"weight_block_size\":[128,128],"
     "\"scale_fmt\":\"ue8m0\"}"},
    {"fp8", "quantization_config", QUANT_FP8_TEXT},
    {"to:bf16", "quantization_config", "absent"},
    {"to:f32", "quantization_config", "absent"},
    /* dtype */
    {"to:bf16", "torch_dtype", "\"bfloat16\""},
    {"to:f16", "torch_dtype", "\"float16\""},
    {"to:f32", "torch_dtype", "\"float32\""},
    {"int4-fast", "torch_dtype", "\"bfloat16\""},
    {"fp8", "torch_dtype", "\"bfloat16\""},
    {RULES("{\"match\": \"head\", \"scheme\": \"f32\"}, {\"match\": \"*\", \"scheme\": \"f16\"}"), "torch_dtype",
     "\"bfloat16\""},
    /* several groups of one format, several layers */
    {RULES("{\"match\": \"routed_expert\", \"layers\": \"2,4\", \"scheme\": \"int4\", \"group\": 32},"
           "{\"match\": \"routed_expert\", \"layers\": \"3\", \"scheme\": \"int4\"}, {\"match\": \"*\", \"scheme\": "
           "\"bf16\"}"),
     Q "format", "\"pack-quantized\""},
    {RULES("{\"match\": \"routed_expert\", \"layers\": \"2,4\", \"scheme\": \"int4\", \"group\": 32},"
           "{\"match\": \"routed_expert\", \"layers\": \"3\", \"scheme\": \"int4\"}, {\"match\": \"*\", \"scheme\": "
           "\"bf16\"}"),
     Q "config_groups/group_0/targets", "[\"re:model\\\\.layers\\\\.(2|4)\\\\.mlp\\\\.experts\\\\..*\"]"},
    {RULES("{\"match\": \"routed_expert\", \"layers\": \"2,4\", \"scheme\": \"int4\", \"group\": 32},"
           "{\"match\": \"routed_expert\", \"layers\": \"3\", \"scheme\": \"int4\"}, {\"match\": \"*\", \"scheme\": "
           "\"bf16\"}"),
     Q "config_groups/group_1/targets", "[\"re:model\\\\.layers\\\\.3\\\\.mlp\\\\.experts\\\\..*\"]"},
    {RULES("{\"match\": \"routed_expert\", \"layers\": \"2,4\", \"scheme\": \"int4\", \"group\": 32},"
           "{\"match\": \"routed_expert\", \"layers\": \"3\", \"scheme\": \"int4\"}, {\"match\": \"*\", \"scheme\": "
           "\"bf16\"}"),
     Q "ignore",
     "[" ATTN ",\"re:model\\\\.layers\\\\.5\\\\.mlp\\\\.experts\\\\..*\"," SHARED "," DENSE "," ROUTER "," REST "]"},
    {RULES("{\"match\": \"*\", \"layers\": \"2-4\", \"scheme\": \"int4\"}, {\"match\": \"*\", \"scheme\": \"bf16\"}"),
     Q "ignore",
     "[\"re:model\\\\.layers\\\\.(0|1|5)\\\\.self_attn\\\\..*\",\"re:model\\\\.layers\\\\.5\\\\.mlp\\\\.experts\\\\..*"
     "\","
     "\"re:model\\\\.layers\\\\.5\\\\.mlp\\\\.shared_experts\\\\..*\"," DENSE "," IDX_W "," ROUTER "," REST "]"},
};

TEST(quant_config, each_recipe_is_described_field_by_field)
{
    struct model m = small_model();

    for (size_t i = 0; i < COUNT(goldens); i++) {
        struct rows rows = {0};
        struct buf out = {0};
        struct err e;
        ct_case("%s: %s", goldens[i].recipe, goldens[i].path);
        EXPECT_OK(write(&rows, &out, &m, &stored_fp8, goldens[i].recipe, &e), e);
        EXPECT_STR_EQ(goldens[i].want, field(&rows.arena, out.data, out.bytes, goldens[i].path));
        buf_release(&out);
        rows_release(&rows);
    }
}

TEST(quant_config, keys_of_a_weights_object_are_those_that_the_strict_reader_knows)
{
    static const char *const known[] = {
        "num_bits",        "type",    "symmetric", "group_size", "strategy",
        "block_structure", "dynamic", "actorder",  "observer",   "observer_kwargs",
    };
    struct model m = small_model();
    struct rows rows = {0};
    struct buf out = {0};
    struct json_doc d = {0};
    struct err e;

    ASSERT_OK(write(&rows, &out, &m, &stored_fp8, "int4-fp8", &e), e);
    ASSERT_OK(json_parse(&d, out.data, out.bytes, JSON_STRICT, &e), e);
    const struct json *groups = json_get(json_get(d.root, "quantization_config"), "config_groups");
    EXPECT_EQ_U64(2, json_count(groups));
    for (const struct json *g = json_first(groups); g; g = json_next(g))
        for (const struct json *k = json_first(json_get(g, "weights")); k; k = json_next(k)) {
            bool found = false;
            for (size_t i = 0; i < COUNT(known); i++)
                found |= strcmp(known[i], json_key(k)) == 0;
            ct_case("%s of %s", json_key(k), json_key(g));
            EXPECT_TRUE(found);
        }
    json_release(&d);
    buf_release(&out);
    rows_release(&rows);
}

/* ---- skip lists of DeepSeek's layout ---- */

TEST(quant_config, skip_lists_come_only_where_the_set_is_not_deepseeks_own)
{
    static const char recipe[] = RULES(
        "{\"match\": [\"kv_b_proj\", \"mtp\"], \"scheme\": \"bf16\"}, {\"match\": \"*\", \"scheme\": \"fp8-ue8m0\"}");
    struct model m = small_model();
    struct rows rows = {0};
    struct buf out = {0};
    struct err e;

    ASSERT_OK(write(&rows, &out, &m, &stored_fp8, recipe, &e), e);
    const char *ignored = field(&rows.arena, out.data, out.bytes, Q "ignored_layers");
    const char *skipped = field(&rows.arena, out.data, out.bytes, Q "modules_to_not_convert");
    EXPECT_STR_EQ(ignored, skipped);
    EXPECT_STR_HAS(ignored, "\"model.layers.3.self_attn.kv_b_proj\"");
    EXPECT_STR_HAS(ignored, "\"model.layers.3.self_attn.indexer.weights_proj\"");
    EXPECT_STR_HAS(ignored, "\"model.layers.3.mlp.gate\"");
    EXPECT_STR_HAS(ignored, "\"lm_head\"");
    EXPECT_TRUE(strstr(ignored, "o_proj") == NULL);
    EXPECT_TRUE(strstr(ignored, "embed") == NULL);
    EXPECT_TRUE(strstr(ignored, "norm") == NULL);
    EXPECT_TRUE(strstr(ignored, "re:") == NULL);
    EXPECT_STR_EQ("\"ue8m0\"", field(&rows.arena, out.data, out.bytes, Q "scale_fmt"));
    buf_release(&out);
    rows_release(&rows);
}

/* ---- the lists, against every module ---- */

/* What a list says of modules, by our own reading of Python's rules: a regex from the start of the name. */
static void expect_ignored(const struct rows *rows, const struct buf *config)
{
    struct json_doc d = {0};
    struct name_list ignore = {0};
    struct err e = {0};

    ASSERT_OK(json_parse(&d, config->data, config->bytes, JSON_STRICT, &e), e);
    const struct json *quant = json_get(d.root, "quantization_config");
    EXPECT_TRUE(quant != NULL);
    for (const struct json *m = quant ? json_first(json_get(quant, "ignore")) : NULL; m; m = json_next(m))
        EXPECT_OK(name_list_add(&ignore, json_string(m), &e), e);
    for (size_t i = 0; i < rows->count; i++) {
        const struct weight *w = &rows->weights[i];
        if (!role_get(w->id.role)->linear)
            continue;
        bool quantized = scheme_is_quantized(&rows->schemes[i]), ignored = name_list_match(&ignore, w->module);
        if (quantized == ignored)
            EXPECT_STR_EQ(quantized ? "quantized" : "ignored", w->module);
    }
    name_list_release(&ignore);
    json_release(&d);
}

static const char *const list_recipes[] = {
    "int4-fast",
    "int4-fp8",
    "int4-all",
    "fp8-block",
    "to:fp8-channel",
    RULES("{\"match\": \"routed_expert\", \"layers\": \"2-20\", \"scheme\": \"int4\"}, {\"match\": \"*\", \"scheme\": "
          "\"bf16\"}"),
    RULES("{\"match\": \"*\", \"layers\": \"mtp\", \"scheme\": \"bf16\"}, {\"match\": \"*\", \"scheme\": \"int4\", "
          "\"group\": "
          "32}"),
    RULES("{\"match\": \"shared_expert\", \"layers\": \"2,4-\", \"scheme\": \"int4\"}, {\"match\": \"o_proj\", "
          "\"layers\": "
          "\"0-\", \"scheme\": \"bf16\"}"),
    RULES("{\"match\": [\"dense_mlp\", \"head\"], \"scheme\": \"int4\"}, {\"match\": \"*\", \"scheme\": \"bf16\"}"),
    RULES("{\"match\": \"re:.*experts\\\\.[0-2]\\\\.\", \"scheme\": \"bf16\"}, {\"match\": \"routed_expert\", "
          "\"scheme\": "
          "\"int4\"}, {\"match\": \"*\", \"scheme\": \"bf16\"}"),
};

TEST(quant_config, every_linear_module_of_every_model_is_either_quantized_or_ignored)
{
    static const int sizes[] = {MODEL_V3, MODEL_V32, MODEL_V2_LITE, MODEL_MOONLIGHT, MODEL_TINY};

    for (size_t s = 0; s < COUNT(sizes); s++)
        for (size_t i = 0; i < COUNT(list_recipes); i++) {
            struct model m = models[sizes[s]];
            struct rows rows = {0};
            struct buf out = {0};
            struct err e;
            m.experts = m.experts > 16 ? 16 : m.experts;
            m.groups = m.topk_groups = 1;
            m.top_k = 2;
            ct_case("%s: %s", m.name, list_recipes[i]);
            EXPECT_OK(write(&rows, &out, &m, &stored_bf16, list_recipes[i], &e), e);
            expect_ignored(&rows, &out);
            buf_release(&out);
            rows_release(&rows);
        }
}

TEST(quant_config, the_lists_of_a_full_v3_are_a_few_patterns)
{
    struct rows rows = {0};
    struct buf out = {0};
    struct err e;

    ASSERT_OK(write(&rows, &out, &models[MODEL_V3], &stored_fp8, "int4-fp8", &e), e);
    EXPECT_TRUE(rows.count > 40000);
    EXPECT_TRUE(out.bytes < strlen(rows.config) + 4000);
    expect_ignored(&rows, &out);
    buf_release(&out);
    rows_release(&rows);
}

/* mlp.gate is the start of mlp.gate_proj, so the router's pattern needs its end. */
TEST(quant_config, the_routers_pattern_does_not_match_the_dense_gate)
{
    struct model m = small_model();
    struct rows rows = {0};
    struct buf out = {0};
    struct err e;

    ASSERT_OK(write(&rows, &out, &m, &stored_fp8, "int4-all", &e), e);
    EXPECT_STR_HAS(field(&rows.arena, out.data, out.bytes, Q "ignore"), ROUTER);
    expect_ignored(&rows, &out);
    buf_release(&out);
    rows_release(&rows);
}

static void replace(struct buf *text, const char *from, const char *to)
{
    struct buf out = {0};
    const char *at = strstr(text->data, from);

    ASSERT_TRUE(at != NULL);
    buf_add(&out, text->data, (size_t)(at - text->data));
    buf_puts(&out, to);
    buf_puts(&out, at + strlen(from));
    buf_release(text);
    *text = out;
}

static const struct {
    const char *recipe, *from, *to, *want;
} wrong_texts[] = {
    {"int4-fast", ROUTER, "\"re:.*mlp\\\\.gateway$\"",
     "'model.layers.2.mlp.gate' is BF16, and quantization_config has it not in ignore"},
    {"int4-all", ROUTER, "\"re:.*mlp\\\\.gate\"",
     "'model.layers.0.mlp.gate_proj' is int4 g128, and quantization_config has it in ignore"},
    {"int4-fp8", EXPERT, "\"re:mlp\\\\.experts\\\\..*\"", "is int4 g128, and quantization_config has it in no group"},
    {"int4-fp8", EXPERT, ATTN, "in a group of another scheme"},
    {"int4-fast", "\"group_size\": 128", "\"group_size\": 64", "in a group of another scheme"},
    {"fp8-ue8m0", "\"scale_fmt\"", "\"ignored_layers\": [\"model.layers.2.self_attn.o_proj\"], \"scale_fmt\"",
     "has it not quantized"},
};

TEST(quant_config, a_text_that_would_load_other_than_it_is_written_is_found)
{
    struct model m = small_model();

    for (size_t i = 0; i < COUNT(wrong_texts); i++) {
        struct rows rows = {0};
        struct buf out = {0};
        struct err e;
        ct_case("%s: %s", wrong_texts[i].recipe, wrong_texts[i].to);
        EXPECT_OK(write(&rows, &out, &m, &stored_fp8, wrong_texts[i].recipe, &e), e);
        EXPECT_OK(quant_config_check(out.data, out.bytes, rows.items, rows.count, &e), e);
        replace(&out, wrong_texts[i].from, wrong_texts[i].to);
        EXPECT_FALSE(quant_config_check(out.data, out.bytes, rows.items, rows.count, &e));
        EXPECT_ERR(e, ERR_FORMAT, wrong_texts[i].want);
        buf_release(&out);
        rows_release(&rows);
    }
}

/* ---- what stays as it was ---- */

#define OTHER_INT4 QUANT_INT4_TEXT(32)

static const struct {
    const char *name;
    const struct scheme *stored;
    const char *quantization, *recipe;
} unchanged[] = {
    {"FP8 copied", &stored_fp8, QUANT_FP8_TEXT, "fp8"},
    {"FP8 with keys of its own", &stored_fp8,
     "{\"quant_method\":\"fp8\",  \"activation_scheme\":\"dynamic\", \"weight_block_size\":[128,128], \"x\": 1e0}",
     "fp8"},
    {"BF16 copied", &stored_bf16, NULL, "to:bf16"},
    {"int4 kept", &stored_int4_g32, OTHER_INT4, RULES("{\"match\": \"*\", \"scheme\": \"keep\"}")},
};

TEST(quant_config, where_no_quantization_changes_every_byte_of_the_source_stays)
{
    for (size_t i = 0; i < COUNT(unchanged); i++) {
        struct model m = small_model();
        struct rows rows = {0};
        struct buf out = {0};
        struct err e;
        ct_case("%s", unchanged[i].name);
        m.quantization = unchanged[i].quantization;
        EXPECT_OK(write(&rows, &out, &m, unchanged[i].stored, unchanged[i].recipe, &e), e);
        EXPECT_STR_EQ(rows.config, out.data ? out.data : "");
        buf_release(&out);
        rows_release(&rows);
    }
}

/* A recipe that changes only dtypes of the float matrices leaves the int4's words alone. */
TEST(quant_config, int4_that_is_kept_keeps_its_text_beside_a_change_of_dtype)
{
    struct model m = small_model();
    struct rows rows = {0};
    struct buf out = {0};
    struct err e;

    m.quantization = OTHER_INT4;
    ASSERT_OK(write(&rows, &out, &m, &stored_int4_g32,
                    RULES("{\"match\": [\"embed\", \"head\", \"mtp\", \"indexer_weights\"], \"scheme\": \"f16\"}"), &e),
              e);
    EXPECT_STR_HAS(out.data, OTHER_INT4);
    EXPECT_STR_EQ("\"float16\"", field(&rows.arena, out.data, out.bytes, "torch_dtype"));
    buf_release(&out);
    rows_release(&rows);
}

/* One module, so that the text around it is what matters. */
static const struct {
    const char *name, *source, *recipe, *want;
} splices[] = {
    {"taken out at the end", "{\n  \"a\": 1.50,\n  \"quantization_config\": {\"b\": [1]}\n}\n", "to:bf16",
     "{\n  \"a\": 1.50\n}\n"},
    {"taken out in the middle", "{\"a\": 1, \"quantization_config\" : {\"b\": [1]} , \"c\":\"\\u0041\"}", "to:bf16",
     "{\"a\": 1 , \"c\":\"\\u0041\"}"},
    {"taken out in front", "{\"quantization_config\": {}, \"c\": 2}", "to:bf16", "{ \"c\": 2}"},
    {"taken out alone", "{ \"quantization_config\": {} }", "to:bf16", "{ }"},
    {"replaced", "{\n \"quantization_config\": {\"b\": [1]},\n \"z\": \"quantization_config\"\n}", "fp8-ue8m0",
     "{\n \"quantization_config\": {\n   \"activation_scheme\": \"dynamic\",\n   \"fmt\": \"e4m3\",\n   "
     "\"quant_method\": "
     "\"fp8\",\n   \"weight_block_size\": [128,128],\n   \"scale_fmt\": \"ue8m0\"\n },\n \"z\": "
     "\"quantization_config\"\n}"},
    {"replaced in one line", "{\"quantization_config\":{},\"z\":1}", "fp8-ue8m0",
     "{\"quantization_config\":{\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"quant_method\":\"fp8\","
     "\"weight_block_size\":[128,128],\"scale_fmt\":\"ue8m0\"},\"z\":1}"},
    {"added", "{\n  \"a\": {}\n}\n", "fp8-ue8m0",
     "{\n  \"a\": {},\n  \"quantization_config\": {\n    \"activation_scheme\": \"dynamic\",\n    \"fmt\": \"e4m3\",\n "
     "   "
     "\"quant_method\": \"fp8\",\n    \"weight_block_size\": [128,128],\n    \"scale_fmt\": \"ue8m0\"\n  }\n}\n"},
    {"added to nothing", "{}", "fp8-ue8m0",
     "{\"quantization_config\":{\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"quant_method\":\"fp8\","
     "\"weight_block_size\":[128,128],\"scale_fmt\":\"ue8m0\"}}"},
    {"both words for the dtype", "{\"torch_dtype\": \"bfloat16\", \"dtype\":\"bfloat16\", \"n\": 1e5}", "to:f16",
     "{\"torch_dtype\": \"float16\", \"dtype\":\"float16\", \"n\": 1e5}"},
    {"a dtype inside another object", "{\"x\": {\"torch_dtype\": \"bfloat16\"}}", "to:f16",
     "{\"x\": {\"torch_dtype\": \"bfloat16\"}}"},
};

TEST(quant_config, bytes_around_a_change_stay)
{
    for (size_t i = 0; i < COUNT(splices); i++) {
        struct model m = small_model();
        struct rows rows = {0};
        struct buf out = {0};
        struct err e = {0};
        ct_case("%s", splices[i].name);
        bool had = strstr(splices[i].source, "\"quantization_config\"") != NULL;
        m.quantization = had ? QUANT_FP8_TEXT : NULL;
        rows_model(&rows, &m, &stored_bf16);
        rows.count = 0;
        rows_add(&rows, "model.layers.0.self_attn.q_a_proj", 256, 256, had ? &stored_fp8 : &stored_bf16);
        EXPECT_OK(rows_choose(&rows, splices[i].recipe, &e), e);
        EXPECT_OK(quant_config_write(&out, &rows.arch, splices[i].source, strlen(splices[i].source), rows.items,
                                     rows.count, &e),
                  e);
        EXPECT_STR_EQ(splices[i].want, out.data ? out.data : "");
        buf_release(&out);
        rows_release(&rows);
    }
}

/* ---- refusals ---- */

static const struct scheme stored_tensor = {.kind = SCHEME_FP8_TENSOR, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32};

static const struct {
    const char *name;
    const struct scheme *stored;
    const char *recipe, *want;
} refusals[] = {
    {"two layouts", &stored_fp8, RULES("{\"match\": \"routed_expert\", \"scheme\": \"int4\"}"),
     "is int4 g128, and config.json names one method for all; layout 'compressed-tensors' holds both"},
    {"two layouts of FP8", &stored_fp8,
     RULES("{\"match\": \"o_proj\", \"scheme\": \"fp8\", \"layout\": \"compressed-tensors\"}"),
     "layout 'compressed-tensors' holds both"},
    {"per-tensor FP8 beside a change", &stored_tensor, RULES("{\"match\": \"routed_expert\", \"scheme\": \"bf16\"}"),
     "keeps per-tensor FP8, which can stay only where no linear layer changes"},
};

TEST(quant_config, what_one_config_cannot_say_is_refused)
{
    for (size_t i = 0; i < COUNT(refusals); i++) {
        struct model m = small_model();
        struct rows rows = {0};
        struct buf out = {0};
        struct err e;
        ct_case("%s", refusals[i].name);
        EXPECT_FALSE(write(&rows, &out, &m, refusals[i].stored, refusals[i].recipe, &e));
        EXPECT_ERR(e, ERR_UNSUPPORTED, refusals[i].want);
        EXPECT_EQ_U64(0, out.bytes);
        buf_release(&out);
        rows_release(&rows);
    }
}

TEST(quant_config, a_matrix_of_unknown_role_is_ignored_by_its_name)
{
    struct model m = small_model();
    struct rows rows = {0};
    struct buf out = {0};
    struct err e = {0};

    rows_model(&rows, &m, &stored_fp8);
    rows_add(&rows, "vision.blocks.0.fc", 256, 256, &stored_bf16);
    ASSERT_OK(rows_choose(&rows, "int4-fast", &e), e);
    ASSERT_OK(quant_config_write(&out, &rows.arch, rows.config, strlen(rows.config), rows.items, rows.count, &e), e);
    EXPECT_STR_HAS(field(&rows.arena, out.data, out.bytes, Q "ignore"), "\"vision.blocks.0.fc\"");
    buf_release(&out);
    rows_release(&rows);
}
