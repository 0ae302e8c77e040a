#include <stdio.h>
#include <string.h>

#include "formats/arch.h"
#include "tests/ckpt_support.h"
#include "tests/ct.h"

static bool open_arch(struct arch *arch, struct arena *a, size_t model)
{
    const char *text = model_config(a, &models[model]);
    struct err e = {0};

    return arch_parse(arch, a, text, strlen(text), &e);
}

/* V3: 61 layers and one of MTP, 3 dense, 256 experts. */
static const struct row {
    const char *name;
    enum role role;
    enum name_part part;
    int64_t layer, expert;
    const char *module;
} rows[] = {
    /* clang-format off */
    {"model.embed_tokens.weight", ROLE_EMBED, NAME_WEIGHT, -1, -1, "model.embed_tokens"},
    {"lm_head.weight", ROLE_HEAD, NAME_WEIGHT, -1, -1, "lm_head"},
    {"model.norm.weight", ROLE_NORM, NAME_WEIGHT, -1, -1, "model.norm"},
    {"model.layers.0.input_layernorm.weight", ROLE_NORM, NAME_WEIGHT, 0, -1, "model.layers.0.input_layernorm"},
    {"model.layers.60.post_attention_layernorm.weight", ROLE_NORM, NAME_WEIGHT, 60, -1,
     "model.layers.60.post_attention_layernorm"},
    {"model.layers.1.self_attn.q_proj.weight", ROLE_Q_PROJ, NAME_WEIGHT, 1, -1, "model.layers.1.self_attn.q_proj"},
    {"model.layers.1.self_attn.q_a_proj.weight", ROLE_Q_A_PROJ, NAME_WEIGHT, 1, -1, "model.layers.1.self_attn.q_a_proj"},
    {"model.layers.1.self_attn.q_a_proj.bias", ROLE_Q_A_PROJ, NAME_BIAS, 1, -1, "model.layers.1.self_attn.q_a_proj"},
    {"model.layers.1.self_attn.q_a_layernorm.weight", ROLE_NORM, NAME_WEIGHT, 1, -1,
     "model.layers.1.self_attn.q_a_layernorm"},
    {"model.layers.1.self_attn.q_b_proj.weight_scale_inv", ROLE_Q_B_PROJ, NAME_SCALE_INV, 1, -1,
     "model.layers.1.self_attn.q_b_proj"},
    {"model.layers.1.self_attn.kv_a_proj_with_mqa.weight_scale", ROLE_KV_A_PROJ, NAME_SCALE, 1, -1,
     "model.layers.1.self_attn.kv_a_proj_with_mqa"},
    {"model.layers.1.self_attn.kv_a_layernorm.weight", ROLE_NORM, NAME_WEIGHT, 1, -1,
     "model.layers.1.self_attn.kv_a_layernorm"},
    {"model.layers.1.self_attn.kv_b_proj.weight", ROLE_KV_B_PROJ, NAME_WEIGHT, 1, -1, "model.layers.1.self_attn.kv_b_proj"},
    {"model.layers.1.self_attn.o_proj.input_scale", ROLE_O_PROJ, NAME_INPUT_SCALE, 1, -1,
     "model.layers.1.self_attn.o_proj"},
    {"model.layers.1.self_attn.rotary_emb.inv_freq", ROLE_ROPE_CACHE, NAME_WEIGHT, 1, -1,
     "model.layers.1.self_attn.rotary_emb.inv_freq"},
    {"model.layers.1.self_attn.indexer.wq_b.weight", ROLE_INDEXER_PROJ, NAME_WEIGHT, 1, -1,
     "model.layers.1.self_attn.indexer.wq_b"},
    {"model.layers.1.self_attn.indexer.wk.weight_scale_inv", ROLE_INDEXER_PROJ, NAME_SCALE_INV, 1, -1,
     "model.layers.1.self_attn.indexer.wk"},
    {"model.layers.1.self_attn.indexer.weights_proj.weight", ROLE_INDEXER_WEIGHTS, NAME_WEIGHT, 1, -1,
     "model.layers.1.self_attn.indexer.weights_proj"},
    {"model.layers.1.self_attn.indexer.k_norm.weight", ROLE_NORM, NAME_WEIGHT, 1, -1,
     "model.layers.1.self_attn.indexer.k_norm"},
    {"model.layers.1.self_attn.indexer.k_norm.bias", ROLE_NORM, NAME_BIAS, 1, -1, "model.layers.1.self_attn.indexer.k_norm"},
    {"model.layers.0.mlp.gate_proj.weight", ROLE_DENSE_GATE, NAME_WEIGHT, 0, -1, "model.layers.0.mlp.gate_proj"},
    {"model.layers.0.mlp.up_proj.weight", ROLE_DENSE_UP, NAME_WEIGHT, 0, -1, "model.layers.0.mlp.up_proj"},
    {"model.layers.0.mlp.down_proj.weight", ROLE_DENSE_DOWN, NAME_WEIGHT, 0, -1, "model.layers.0.mlp.down_proj"},
    {"model.layers.3.mlp.gate.weight", ROLE_ROUTER, NAME_WEIGHT, 3, -1, "model.layers.3.mlp.gate"},
    {"model.layers.3.mlp.gate.e_score_correction_bias", ROLE_ROUTER_BIAS, NAME_WEIGHT, 3, -1,
     "model.layers.3.mlp.gate.e_score_correction_bias"},
    {"model.layers.3.mlp.shared_experts.gate_proj.weight", ROLE_SHARED_GATE, NAME_WEIGHT, 3, -1,
     "model.layers.3.mlp.shared_experts.gate_proj"},
    {"model.layers.3.mlp.shared_experts.up_proj.weight", ROLE_SHARED_UP, NAME_WEIGHT, 3, -1,
     "model.layers.3.mlp.shared_experts.up_proj"},
    {"model.layers.3.mlp.shared_experts.down_proj.weight", ROLE_SHARED_DOWN, NAME_WEIGHT, 3, -1,
     "model.layers.3.mlp.shared_experts.down_proj"},
    {"model.layers.3.mlp.experts.0.gate_proj.weight_packed", ROLE_EXPERT_GATE, NAME_PACKED, 3, 0,
     "model.layers.3.mlp.experts.0.gate_proj"},
    {"model.layers.60.mlp.experts.255.up_proj.weight_shape", ROLE_EXPERT_UP, NAME_SHAPE, 60, 255,
     "model.layers.60.mlp.experts.255.up_proj"},
    {"model.layers.60.mlp.experts.17.down_proj.weight_zero_point", ROLE_EXPERT_DOWN, NAME_ZERO_POINT, 60, 17,
     "model.layers.60.mlp.experts.17.down_proj"},
    {"model.layers.60.mlp.experts.17.down_proj.weight_g_idx", ROLE_EXPERT_DOWN, NAME_G_IDX, 60, 17,
     "model.layers.60.mlp.experts.17.down_proj"},
    {"model.layers.61.mlp.experts.17.down_proj.weight", ROLE_EXPERT_DOWN, NAME_WEIGHT, 61, 17,
     "model.layers.61.mlp.experts.17.down_proj"},
    {"model.layers.61.enorm.weight", ROLE_MTP_NORM, NAME_WEIGHT, 61, -1, "model.layers.61.enorm"},
    {"model.layers.61.hnorm.weight", ROLE_MTP_NORM, NAME_WEIGHT, 61, -1, "model.layers.61.hnorm"},
    {"model.layers.61.eh_proj.weight", ROLE_MTP_PROJ, NAME_WEIGHT, 61, -1, "model.layers.61.eh_proj"},
    {"model.layers.61.embed_tokens.weight", ROLE_MTP_EMBED, NAME_WEIGHT, 61, -1, "model.layers.61.embed_tokens"},
    {"model.layers.61.shared_head.norm.weight", ROLE_MTP_NORM, NAME_WEIGHT, 61, -1, "model.layers.61.shared_head.norm"},
    {"model.layers.61.shared_head.head.weight", ROLE_MTP_HEAD, NAME_WEIGHT, 61, -1, "model.layers.61.shared_head.head"},
    {"language_model.lm_head.weight", ROLE_HEAD, NAME_WEIGHT, -1, -1, "language_model.lm_head"},
    {"language_model.model.layers.3.mlp.experts.1.up_proj.weight_packed", ROLE_EXPERT_UP, NAME_PACKED, 3, 1,
     "language_model.model.layers.3.mlp.experts.1.up_proj"},
    /* clang-format on */
};

TEST(role, every_name_of_the_family_has_its_role_layer_expert_and_part)
{
    struct arena a = {0};
    struct arch arch;

    ASSERT_TRUE(open_arch(&arch, &a, MODEL_V3));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *r = &rows[i];
        struct tensor_id id;
        ct_case("%s", r->name);
        arch_identify(&arch, r->name, &id);
        EXPECT_STR_EQ(role_get(r->role)->name, role_get(id.role)->name);
        EXPECT_EQ_I64(r->part, id.part);
        EXPECT_EQ_I64(r->layer, id.layer);
        EXPECT_EQ_I64(r->expert, id.expert);
        EXPECT_EQ_U64(strlen(r->module), id.module_bytes);
    }
    arena_release(&a);
}

TEST(role, a_name_that_is_not_the_familys_is_unknown)
{
    static const char *const names[] = {
        "",
        ".weight",
        "weight",
        "model.norm",
        "model.norm.weight.weight",
        "model.layers.62.input_layernorm.weight",
        "model.layers.00.input_layernorm.weight",
        "model.layers.-1.input_layernorm.weight",
        "model.layers.18446744073709551616.input_layernorm.weight",
        "model.layers..input_layernorm.weight",
        "model.layers.1",
        "model.layers.1.",
        "model.layers.1.weight",
        "model.layers.1input_layernorm.weight",
        "model.layers.60.enorm.weight",
        "model.layers.0.embed_tokens.weight",
        "model.layers.3.mlp.experts.256.gate_proj.weight",
        "model.layers.3.mlp.experts.01.gate_proj.weight",
        "model.layers.3.mlp.experts..gate_proj.weight",
        "model.layers.3.mlp.experts.1.gate_proj.qweight",
        "model.layers.3.mlp.experts.1.gate_proj",
        "model.layers.3.mlp.experts.1.gate_proj.extra.weight",
        "model.layers.3.mlp.experts.gate_up_proj",
        "model.layers.3.mlp.gate.e_score_correction_bias.weight",
        "model.layers.3.mlp.gate.e_score_correction_bia",
        "model.layers.3.self_attn.rotary_emb.inv_freq.weight",
        "model.layers.3.lm_head.weight",
        "model.lm_head.weight",
        "Model.norm.weight",
        "vision_tower.encoder.final_layernorm.weight",
        "language_model.language_model.lm_head.weight",
    };
    struct arena a = {0};
    struct arch arch;

    ASSERT_TRUE(open_arch(&arch, &a, MODEL_V3));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct tensor_id id;
        ct_case("%s", names[i]);
        arch_identify(&arch, names[i], &id);
        EXPECT_STR_EQ("unknown", role_get(id.role)->name);
        EXPECT_EQ_I64(-1, id.layer);
        EXPECT_EQ_I64(-1, id.expert);
    }
    arena_release(&a);
}

TEST(role, names_are_unique_and_found_by_name)
{
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        const struct role_info *info = role_get(role);
        ct_case("role %d", (int)role);
        ASSERT_TRUE(info->name != NULL && info->group != NULL);
        EXPECT_EQ_I64(role, role_find(info->name));
        EXPECT_FALSE(info->quantizable && (info->exact || !info->linear));
    }
    EXPECT_EQ_I64(ROLE_COUNT, role_find("experts"));
    EXPECT_EQ_I64(ROLE_COUNT, role_find(""));
}

/* ---- whole models ---- */

struct census {
    const struct arch *arch;
    bool fp8;
    size_t tensors;
    uint64_t bytes;
    char names[200]; /* the first wrong ones */
};

static void count_module(void *ctx, const char *module, enum role role, uint64_t rows_, uint64_t cols)
{
    struct census *c = ctx;
    bool quantized = c->fp8 && role_get(role)->quantizable;
    char name[200];
    struct tensor_id id;

    snprintf(name, sizeof name, "%s%s", module, role == ROLE_ROUTER_BIAS ? "" : ".weight");
    arch_identify(c->arch, name, &id);
    if (id.role != role && !c->names[0])
        snprintf(c->names, sizeof c->names, "%.150s", name);
    c->tensors += quantized ? 2 : 1;
    uint64_t elems = (rows_ ? rows_ : 1) * cols;
    c->bytes += quantized ? elems + 4 * ((rows_ + 127) / 128) * ((cols + 127) / 128)
                          : elems * (role == ROLE_ROUTER_BIAS ? 4 : 2);
}

TEST(role, name_lists_of_published_models_count_as_published)
{
    static const struct published {
        size_t model;
        bool fp8;
        size_t tensors, extra; /* extra: a stale rotary cache in each layer */
        uint64_t bytes;        /* 0: not published */
    } published[] = {
        {MODEL_V3, true, 91991, 0, 688574839360}, {MODEL_V2_LITE, false, 5291, 0, 0},   {MODEL_V2, false, 29102, 0, 0},
        {MODEL_KIMI_K2, true, 139644, 61, 0},     {MODEL_MOONLIGHT, false, 5317, 0, 0},
    };

    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        const struct published *p = &published[i];
        struct arena a = {0};
        struct arch arch;
        struct census c = {.arch = &arch, .fp8 = p->fp8};
        ct_case("%s", models[p->model].name);
        ASSERT_TRUE(open_arch(&arch, &a, p->model));
        model_modules(&arch, count_module, &c);
        EXPECT_STR_EQ("", c.names);
        EXPECT_EQ_U64(p->tensors, c.tensors + p->extra);
        if (p->bytes > 0)
            EXPECT_EQ_U64(p->bytes, c.bytes);
        arena_release(&a);
    }
}

/* Shapes as the census of V3 has them. */
TEST(role, shapes_follow_from_config)
{
    static const struct shape {
        enum role role;
        uint64_t rows, cols;
    } shapes[] = {
        {ROLE_EMBED, 129280, 7168},     {ROLE_HEAD, 129280, 7168},      {ROLE_Q_A_PROJ, 1536, 7168},
        {ROLE_Q_B_PROJ, 24576, 1536},   {ROLE_KV_A_PROJ, 576, 7168},    {ROLE_KV_B_PROJ, 32768, 512},
        {ROLE_O_PROJ, 7168, 16384},     {ROLE_DENSE_GATE, 18432, 7168}, {ROLE_DENSE_DOWN, 7168, 18432},
        {ROLE_SHARED_UP, 2048, 7168},   {ROLE_SHARED_DOWN, 7168, 2048}, {ROLE_EXPERT_UP, 2048, 7168},
        {ROLE_EXPERT_DOWN, 7168, 2048}, {ROLE_ROUTER, 256, 7168},       {ROLE_MTP_PROJ, 7168, 14336},
    };
    struct arena a = {0};
    struct arch arch;
    uint64_t r, c;

    ASSERT_TRUE(open_arch(&arch, &a, MODEL_V3));
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        ct_case("%s", role_get(shapes[i].role)->name);
        ASSERT_TRUE(arch_shape(&arch, shapes[i].role, &r, &c));
        EXPECT_EQ_U64(shapes[i].rows, r);
        EXPECT_EQ_U64(shapes[i].cols, c);
    }
    ct_case("roles that are no matrix, or of no known size");
    EXPECT_FALSE(arch_shape(&arch, ROLE_NORM, &r, &c));
    EXPECT_FALSE(arch_shape(&arch, ROLE_INDEXER_PROJ, &r, &c));
    EXPECT_FALSE(arch_shape(&arch, ROLE_UNKNOWN, &r, &c));
    ASSERT_TRUE(open_arch(&arch, &a, MODEL_V2_LITE));
    ct_case("two shared experts are one matrix; no q_lora_rank is one q_proj");
    ASSERT_TRUE(arch_shape(&arch, ROLE_SHARED_GATE, &r, &c));
    EXPECT_EQ_U64(2816, r);
    ASSERT_TRUE(arch_shape(&arch, ROLE_Q_PROJ, &r, &c));
    EXPECT_EQ_U64(3072, r);
    EXPECT_FALSE(arch_shape(&arch, ROLE_Q_A_PROJ, &r, &c));
    arena_release(&a);
}
