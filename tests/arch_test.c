#include "formats/arch.h"

#include <stdio.h>
#include <string.h>

#include "tests/ckpt_support.h"
#include "tests/ct.h"

static bool parse(struct arch *arch, struct arena *a, const char *text, struct err *e)
{
    return arch_parse(arch, a, text, strlen(text), e);
}

static void expect_sizes(const struct model *m, const struct arch *a)
{
    EXPECT_EQ_U64(m->vocab, a->vocab_size);
    EXPECT_EQ_U64(m->hidden, a->hidden_size);
    EXPECT_EQ_U64(m->layers, a->layers);
    EXPECT_EQ_U64(m->mtp, a->mtp_layers);
    EXPECT_EQ_U64(m->heads, a->heads);
    EXPECT_EQ_U64(m->q_lora, a->q_lora_rank);
    EXPECT_EQ_U64(m->kv_lora, a->kv_lora_rank);
    EXPECT_EQ_U64(m->nope, a->qk_nope_dim);
    EXPECT_EQ_U64(m->rope, a->qk_rope_dim);
    EXPECT_EQ_U64(m->v, a->v_dim);
    EXPECT_EQ_U64(m->intermediate, a->intermediate_size);
    EXPECT_EQ_U64(m->moe_intermediate, a->moe_intermediate_size);
    EXPECT_EQ_U64(m->max_positions, a->max_positions);
}

static void expect_routing(const struct model *m, const struct arch *a)
{
    EXPECT_EQ_U64(m->experts, a->experts);
    EXPECT_EQ_U64(m->shared, a->shared_experts);
    EXPECT_EQ_U64(m->top_k, a->experts_per_token);
    EXPECT_EQ_U64(m->first_dense, a->first_dense_layers);
    EXPECT_EQ_U64(m->groups, a->groups);
    EXPECT_EQ_U64(m->topk_groups, a->topk_groups);
    EXPECT_TRUE((strcmp(m->scoring, "sigmoid") == 0) == (a->scoring == SCORING_SIGMOID));
    EXPECT_TRUE((strcmp(m->topk, "noaux_tc") == 0) == (a->topk == TOPK_NOAUX_TC));
    EXPECT_TRUE((strcmp(m->topk, "greedy") == 0) == (a->topk == TOPK_GREEDY));
    EXPECT_TRUE(m->norm_topk == a->norm_topk_prob);
    EXPECT_NEAR_F64(m->scaling, a->routed_scaling, 0);
}

static void expect_rope(const struct model *m, const struct arch *a)
{
    EXPECT_NEAR_F64(m->eps, a->rms_norm_eps, 0);
    EXPECT_NEAR_F64(m->theta, a->rope_theta, 0);
    EXPECT_TRUE(a->yarn == (m->yarn_factor > 0));
    EXPECT_NEAR_F64(m->yarn_factor, a->yarn_factor, 0);
    EXPECT_NEAR_F64(m->beta_fast, a->yarn_beta_fast, 0);
    EXPECT_NEAR_F64(m->beta_slow, a->yarn_beta_slow, 0);
    EXPECT_NEAR_F64(m->mscale, a->yarn_mscale_all_dim, 0);
    EXPECT_TRUE(a->yarn_has_mscale == a->yarn && a->yarn_has_mscale_all_dim == a->yarn);
    EXPECT_EQ_U64(a->yarn ? 4096 : 0, a->yarn_original_positions);
}

TEST(arch, published_configs_are_read_as_published)
{
    for (size_t i = 0; i < MODEL_COUNT; i++) {
        struct arena a = {0};
        struct arch arch;
        struct err e = {0};

        ct_case("%s", models[i].name);
        ASSERT_OK(parse(&arch, &a, model_config(&a, &models[i]), &e), e);
        EXPECT_STR_EQ(models[i].model_type, arch.model_type);
        EXPECT_STR_EQ("bfloat16", arch.torch_dtype);
        expect_sizes(&models[i], &arch);
        expect_routing(&models[i], &arch);
        expect_rope(&models[i], &arch);
        arena_release(&a);
    }
}

TEST(arch, model_types_name_their_family)
{
    static const enum arch_family want[MODEL_COUNT] = {
        [MODEL_V3] = ARCH_DEEPSEEK_V3,      [MODEL_V31] = ARCH_DEEPSEEK_V3,  [MODEL_V32] = ARCH_DEEPSEEK_V3,
        [MODEL_V2_LITE] = ARCH_DEEPSEEK_V2, [MODEL_V2] = ARCH_DEEPSEEK_V2,   [MODEL_KIMI_K2] = ARCH_KIMI_K2,
        [MODEL_KIMI_K25] = ARCH_KIMI_K2,    [MODEL_TINY] = ARCH_DEEPSEEK_V3, [MODEL_MOONLIGHT] = ARCH_DEEPSEEK_V3,
    };

    for (size_t i = 0; i < MODEL_COUNT; i++) {
        struct arena a = {0};
        struct arch arch;
        struct err e = {0};
        ct_case("%s", models[i].name);
        ASSERT_OK(parse(&arch, &a, model_config(&a, &models[i]), &e), e);
        EXPECT_EQ_I64(want[i], arch.family);
        arena_release(&a);
    }
}

TEST(arch, quantization_configs_say_method_blocks_bits_and_groups)
{
    static const struct row {
        const char *name, *text;
        enum arch_quant quant;
        uint64_t block_rows, block_cols, bits, group;
        bool ue8m0;
        const char *format;
    } rows[] = {
        /* clang-format off */
        {"none", NULL, QUANT_NONE, 0, 0, 0, 0, false, NULL},
        {"null", "null", QUANT_NONE, 0, 0, 0, 0, false, NULL},
        {"fp8 of V3", QUANT_FP8_TEXT, QUANT_FP8, 128, 128, 0, 0, false, NULL},
        {"fp8 of V3.1", QUANT_FP8_UE8M0_TEXT, QUANT_FP8, 128, 128, 0, 0, true, NULL},
        {"fp8 without blocks", "{\"quant_method\":\"fp8\",\"weight_block_size\":null}", QUANT_FP8, 0, 0, 0, 0, false,
         NULL},
        {"int4 group 32", QUANT_INT4_TEXT(32), QUANT_COMPRESSED_TENSORS, 0, 0, 4, 32, false, "pack-quantized"},
        {"int4 by channel", QUANT_INT4_TEXT(null), QUANT_COMPRESSED_TENSORS, 0, 0, 4, 0, false, "pack-quantized"},
        {"int4 by channel as -1", QUANT_INT4_TEXT(-1), QUANT_COMPRESSED_TENSORS, 0, 0, 4, 0, false, "pack-quantized"},
        {"block fp8 of compressed-tensors",
         "{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\",\"config_groups\":{\"g\":{\"weights\":"
         "{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\",\"block_structure\":[64,32]}}}}",
         QUANT_COMPRESSED_TENSORS, 64, 32, 0, 0, false, "float-quantized"},
        {"mixed",
         "{\"quant_method\":\"compressed-tensors\",\"format\":\"mixed-precision\",\"config_groups\":{\"a\":{\"weights\":"
         "{\"num_bits\":8,\"type\":\"float\"}},\"b\":{\"weights\":{\"num_bits\":4,\"type\":\"int\",\"group_size\":64}}}}",
         QUANT_COMPRESSED_TENSORS, 0, 0, 4, 64, false, "mixed-precision"},
        {"another method", "{\"quant_method\":\"gptq\",\"bits\":4}", QUANT_OTHER, 0, 0, 0, 0, false, "gptq"},
        /* clang-format on */
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *r = &rows[i];
        struct model m = models[MODEL_V3];
        struct arena a = {0};
        struct arch arch;
        struct err e = {0};

        ct_case("%s", r->name);
        m.quantization = r->text;
        ASSERT_OK(parse(&arch, &a, model_config(&a, &m), &e), e);
        EXPECT_EQ_I64(r->quant, arch.quant);
        EXPECT_EQ_U64(r->block_rows, arch.quant_block_rows);
        EXPECT_EQ_U64(r->block_cols, arch.quant_block_cols);
        EXPECT_EQ_U64(r->bits, arch.quant_bits);
        EXPECT_EQ_U64(r->group, arch.quant_group_cols);
        EXPECT_TRUE(r->ue8m0 == arch.quant_ue8m0);
        EXPECT_TRUE((r->format == NULL) == (arch.quant_format == NULL));
        if (r->format && arch.quant_format)
            EXPECT_STR_EQ(r->format, arch.quant_format);
        arena_release(&a);
    }
}

/* ---- texts with one member changed ---- */

/* The config with the line of a member replaced; NULL: taken out. Members stand one a line. */
static const char *with(struct arena *a, const char *text, const char *key, const char *value)
{
    const char *quoted = arena_printf(a, "\"%s\":", key);
    const char *at = strstr(text, quoted), *end;

    if (!at) {
        ct_true(__FILE__, __LINE__, key, true, false);
        return text;
    }
    end = strchr(at, '\n');
    bool comma = end[-1] == ',';
    if (value)
        return arena_printf(a, "%.*s%s %s%s%s", (int)(at - text), text, quoted, value, comma ? "," : "", end);
    return arena_printf(a, "%.*s\"_%s\": 0%s%s", (int)(at - text), text, key, comma ? "," : "", end);
}

TEST(arch, an_absent_size_is_refused_by_name)
{
    static const char *const keys[] = {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "first_k_dense_replace",
        "n_group",
        "topk_group",
        "max_position_embeddings",
        "routed_scaling_factor",
        "model_type",
        "factor",
        "original_max_position_embeddings",
    };
    struct arena a = {0};
    const char *text = model_config(&a, &models[MODEL_V3]);

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct arch arch;
        struct err e = {0};
        ct_case("%s", keys[i]);
        EXPECT_FALSE(parse(&arch, &a, with(&a, text, keys[i], NULL), &e));
        EXPECT_ERR(e, ERR_FORMAT, keys[i]);
        EXPECT_STR_HAS(e.text, "config.json");
    }
    arena_release(&a);
}

TEST(arch, an_absent_field_that_is_no_size_has_its_familys_meaning)
{
    static const char *const keys[] = {
        "topk_method",    "scoring_func", "norm_topk_prob",     "num_nextn_predict_layers",
        "moe_layer_freq", "rms_norm_eps", "rope_theta",         "num_key_value_heads",
        "hidden_act",     "torch_dtype",  "tie_word_embeddings"};
    static const struct row {
        size_t model;
        enum arch_topk topk;
        enum arch_scoring scoring;
        bool norm;
    } rows[] = {
        {MODEL_V2_LITE, TOPK_GREEDY, SCORING_SOFTMAX, false},
        {MODEL_V3, TOPK_NOAUX_TC, SCORING_SIGMOID, true},
        {MODEL_KIMI_K2, TOPK_NOAUX_TC, SCORING_SIGMOID, true},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct arena a = {0};
        const char *text = model_config(&a, &models[rows[i].model]);
        struct arch arch;
        struct err e = {0};
        ct_case("%s", models[rows[i].model].name);
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
            text = with(&a, text, keys[k], NULL);
        ASSERT_OK(parse(&arch, &a, text, &e), e);
        EXPECT_EQ_I64(rows[i].topk, arch.topk);
        EXPECT_EQ_I64(rows[i].scoring, arch.scoring);
        EXPECT_TRUE(rows[i].norm == arch.norm_topk_prob);
        EXPECT_EQ_U64(0, arch.mtp_layers);
        EXPECT_EQ_U64(1, arch.moe_layer_freq);
        EXPECT_NEAR_F64(1e-6, arch.rms_norm_eps, 0);
        EXPECT_NEAR_F64(10000, arch.rope_theta, 0);
        EXPECT_TRUE(arch.torch_dtype == NULL);
        arena_release(&a);
    }
}

TEST(arch, a_dense_model_needs_no_routing)
{
    static const char *const keys[] = {"moe_intermediate_size", "n_shared_experts", "num_experts_per_tok",  "n_group",
                                       "first_k_dense_replace", "topk_group",       "routed_scaling_factor"};
    struct arena a = {0};
    const char *text = with(&a, model_config(&a, &models[MODEL_V3]), "n_routed_experts", "null");
    struct arch arch;
    struct err e = {0};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        text = with(&a, text, keys[i], NULL);
    ASSERT_OK(parse(&arch, &a, text, &e), e);
    EXPECT_EQ_U64(0, arch.experts);
    EXPECT_FALSE(arch_is_moe_layer(&arch, 60));
    arena_release(&a);
}

TEST(arch, what_does_not_fit_is_refused_by_name)
{
    static const struct row {
        const char *name, *key, *value;
        enum err_code code;
        const char *part;
    } rows[] = {
        /* clang-format off */
        {"another family", "model_type", "\"llama\"", ERR_UNSUPPORTED, "model_type 'llama' is not one of deepseek_v2"},
        {"a nested family without its inner object", "model_type", "\"kimi_k25\"", ERR_FORMAT, "text_config"},
        {"a size of another type", "hidden_size", "\"7168\"", ERR_FORMAT, "hidden_size"},
        {"a size that is no whole number", "hidden_size", "7168.5", ERR_FORMAT, "hidden_size"},
        {"a negative size", "hidden_size", "-1", ERR_FORMAT, "hidden_size"},
        {"a null size", "hidden_size", "null", ERR_FORMAT, "hidden_size"},
        {"a zero size", "hidden_size", "0", ERR_FORMAT, "'hidden_size' is 0, below 1"},
        {"an absurd size", "hidden_size", "71680000", ERR_LIMIT, "'hidden_size' is 71680000, past the limit 131072"},
        {"absurd layers", "num_hidden_layers", "1001", ERR_LIMIT, "past the limit 1000"},
        {"an activation", "hidden_act", "\"gelu\"", ERR_UNSUPPORTED, "'hidden_act' is 'gelu'"},
        {"a bias", "attention_bias", "true", ERR_UNSUPPORTED, "'attention_bias' is true"},
        {"a scoring", "scoring_func", "\"sqrtsoftplus\"", ERR_UNSUPPORTED, "'scoring_func' is 'sqrtsoftplus'"},
        {"a top-k method", "topk_method", "\"hash\"", ERR_UNSUPPORTED, "'topk_method' is 'hash'"},
        {"more chosen than there are", "num_experts_per_tok", "257", ERR_FORMAT, "257, but there are 256 experts"},
        {"uneven groups", "n_group", "7", ERR_FORMAT, "does not divide 256 experts"},
        {"more groups chosen than there are", "topk_group", "9", ERR_FORMAT, "there are 8 groups"},
        {"a truth of another type", "norm_topk_prob", "1", ERR_FORMAT, "norm_topk_prob"},
        {"a negative eps", "rms_norm_eps", "-1e-6", ERR_FORMAT, "rms_norm_eps"},
        {"another rope", "type", "\"llama3\"", ERR_UNSUPPORTED, "type 'llama3', and only yarn is known"},
        {"a rope without type", "type", NULL, ERR_FORMAT, "'rope_scaling' has no 'type'"},
        {"a factor of zero", "factor", "0", ERR_FORMAT, "'rope_scaling': 'factor'"},
        {"a config of another type", "quantization_config", "[]", ERR_FORMAT, "'quantization_config'"},
        {"a config without method", "quantization_config", "{}", ERR_FORMAT, "quant_method"},
        {"another fp8", "quantization_config", "{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", ERR_UNSUPPORTED, "e5m2"},
        {"one block number", "quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}",
         ERR_FORMAT, "'weight_block_size' is not two whole numbers"},
        {"a block of nothing", "quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]}",
         ERR_FORMAT, "'weight_block_size' is 0"},
        /* clang-format on */
    };
    struct arena a = {0};
    const char *text = model_config(&a, &models[MODEL_V3]);

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct arch arch;
        struct err e = {0};
        ct_case("%s", rows[i].name);
        EXPECT_FALSE(parse(&arch, &a, with(&a, text, rows[i].key, rows[i].value), &e));
        EXPECT_ERR(e, rows[i].code, rows[i].part);
    }
    arena_release(&a);
}

TEST(arch, the_number_of_key_value_heads_decides_nothing)
{
    struct arena a = {0};
    struct arch arch;
    struct err e = {0};

    EXPECT_OK(parse(&arch, &a, with(&a, model_config(&a, &models[MODEL_V3]), "num_key_value_heads", "1"), &e), e);
    EXPECT_EQ_U64(128, arch.heads);
    arena_release(&a);
}

static void function_of(struct arena *a, const char *text, char hex[HASH_HEX_BYTES])
{
    struct arch arch;
    struct err e = {0};

    EXPECT_OK(parse(&arch, a, text, &e), e);
    arch_function_sha256(&arch, hex);
}

/* sha256sum of the list of fields and values, written out by hand. Statistics that lie on disks carry it. */
TEST(arch, the_function_of_v3_has_one_hash)
{
    struct arena a = {0};
    char hex[HASH_HEX_BYTES];

    function_of(&a, model_config(&a, &models[MODEL_V3]), hex);
    EXPECT_STR_EQ("feb22526c269d18e0369d1ea4f02c7ae09803f022b3ce64af055855de6dd215d", hex);
    arena_release(&a);
}

TEST(arch, what_changes_the_function_changes_its_hash_and_how_it_is_stored_does_not)
{
    static const struct row {
        const char *key, *value;
        bool same;
    } rows[] = {
        /* clang-format off */
        {"quantization_config", "null", true},
        {"quantization_config", QUANT_INT4_TEXT(32), true},
        {"quantization_config", QUANT_FP8_UE8M0_TEXT, true},
        {"torch_dtype", "\"float32\"", true},
        {"max_position_embeddings", "4096", true},
        {"num_key_value_heads", "1", true},
        {"model_type", "\"kimi_k2\"", true},
        {"rope_theta", "10000.0", true},
        {"vocab_size", "129281", false},           {"hidden_size", "7167", false},
        {"num_hidden_layers", "60", false},        {"num_nextn_predict_layers", "2", false},
        {"num_attention_heads", "64", false},      {"q_lora_rank", "null", false},
        {"kv_lora_rank", "511", false},            {"qk_nope_head_dim", "64", false},
        {"qk_rope_head_dim", "32", false},         {"v_head_dim", "64", false},
        {"intermediate_size", "18433", false},     {"moe_intermediate_size", "2049", false},
        {"n_routed_experts", "128", false},        {"n_shared_experts", "2", false},
        {"num_experts_per_tok", "7", false},       {"first_k_dense_replace", "2", false},
        {"moe_layer_freq", "2", false},            {"n_group", "4", false},
        {"topk_group", "3", false},                {"scoring_func", "\"softmax\"", false},
        {"topk_method", "\"greedy\"", false},      {"norm_topk_prob", "false", false},
        {"routed_scaling_factor", "2.4", false},   {"rms_norm_eps", "1e-5", false},
        {"rope_theta", "20000", false},            {"tie_word_embeddings", "true", false},
        {"factor", "41", false},                   {"original_max_position_embeddings", "4097", false},
        {"beta_fast", "31", false},                {"beta_slow", "2", false},
        {"mscale", "0.5", false},                  {"mscale_all_dim", "null", false},
        {"type", "\"default\"", false},            {"rope_theta", "10000, \"index_topk\": 2048", false},
        /* clang-format on */
    };
    struct arena a = {0};
    const char *text = model_config(&a, &models[MODEL_V3]);
    char v3[HASH_HEX_BYTES], hex[HASH_HEX_BYTES];

    function_of(&a, text, v3);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ct_case("%s %s", rows[i].key, rows[i].value);
        function_of(&a, with(&a, text, rows[i].key, rows[i].value), hex);
        EXPECT_TRUE(rows[i].same == (strcmp(v3, hex) == 0));
    }
    arena_release(&a);
}

TEST(arch, text_that_is_no_object_is_refused)
{
    static const char *const texts[] = {"", "[]", "7", "{\"model_type\":", "null"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct arena a = {0};
        struct arch arch;
        struct err e = {0};
        ct_case("%s", texts[i]);
        EXPECT_FALSE(parse(&arch, &a, texts[i], &e));
        EXPECT_ERR(e, ERR_FORMAT, "config.json");
        arena_release(&a);
    }
}

TEST(arch, rope_parameters_of_newer_configs_are_read)
{
    struct arena a = {0};
    const char *text = with(&a, model_config(&a, &models[MODEL_MOONLIGHT]), "rope_theta", NULL);
    struct arch arch;
    struct err e = {0};

    text =
        with(&a, text, "rope_scaling", "null, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5e4}");
    ASSERT_OK(parse(&arch, &a, text, &e), e);
    EXPECT_NEAR_F64(50000, arch.rope_theta, 0);
    EXPECT_FALSE(arch.yarn);
    arena_release(&a);
}

TEST(arch, moe_layers_follow_the_dense_ones_and_the_mtp_layer_is_one)
{
    struct arena a = {0};
    struct arch arch;
    struct err e = {0};

    ASSERT_OK(parse(&arch, &a, model_config(&a, &models[MODEL_V3]), &e), e);
    EXPECT_FALSE(arch_is_moe_layer(&arch, 2));
    EXPECT_TRUE(arch_is_moe_layer(&arch, 3));
    EXPECT_TRUE(arch_is_moe_layer(&arch, 61));
    EXPECT_EQ_U64(62, arch_layers_stored(&arch));
    arena_release(&a);
}

/* Widths chosen by layer leave two groups of int4: a matrix of one group in a row is told from a channel by either. */
TEST(arch, the_widths_of_all_integer_groups_are_known)
{
    struct model m = models[MODEL_V3];
    struct arena a = {0};
    struct arch arch;
    struct err e = {0};

    m.quantization = "{\"quant_method\":\"compressed-tensors\",\"format\":\"mixed-precision\",\"config_groups\":{"
                     "\"a\":{\"weights\":{\"num_bits\":4,\"type\":\"int\",\"group_size\":32}},"
                     "\"b\":{\"weights\":{\"num_bits\":4,\"type\":\"int\",\"group_size\":128}},"
                     "\"c\":{\"weights\":{\"num_bits\":4,\"type\":\"int\",\"group_size\":null}},"
                     "\"d\":{\"weights\":{\"num_bits\":8,\"type\":\"float\",\"block_structure\":[128,64]}}}}";
    ASSERT_OK(parse(&arch, &a, model_config(&a, &m), &e), e);
    EXPECT_EQ_U64(32, arch.quant_group_cols);
    EXPECT_TRUE(arch_has_group(&arch, 32));
    EXPECT_TRUE(arch_has_group(&arch, 128));
    EXPECT_FALSE(arch_has_group(&arch, 64));
    EXPECT_FALSE(arch_has_group(&arch, 0));
    arena_release(&a);
}
