#include "formats/weight.h"

#include <stdio.h>
#include <string.h>

#include "tests/ckpt_support.h"
#include "tests/ct.h"

#define FP8(k, s) .kind = (k), .dtype = DTYPE_F8_E4M3, .scale = (s)
#define BLOCK(s)  FP8(SCHEME_FP8_BLOCK, s), .block_rows = 128, .block_cols = 128
#define INT4(g)   .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = (g)

static const char *const fp8_channel_text =
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\",\"config_groups\":{\"g\":{\"weights\":"
    "{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\"}}}}";

static bool only_experts(enum role role)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_DOWN;
}

/* The tiny model's config with another quantization. */
static bool tiny_arch(struct arch *arch, struct arena *a, const char *quantization, const char **config)
{
    struct model m = models[MODEL_TINY];
    struct err e = {0};

    m.quantization = quantization;
    *config = model_config(a, &m);
    return arch_parse(arch, a, *config, strlen(*config), &e);
}

/* ---- whole models, as they are published ---- */

struct storage {
    const char *name;
    struct scheme scheme;
    const char *quantization;
    bool experts_only;
};

static const struct storage storages[] = {
    {"bf16", {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16}, NULL, false},
    {"f16", {.kind = SCHEME_PLAIN, .dtype = DTYPE_F16}, NULL, false},
    {"fp8 of V3", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, false},
    {"fp8 of V3.1", {BLOCK(SCALE_F32_POW2)}, QUANT_FP8_UE8M0_TEXT, false},
    {"fp8 with e8m0 bytes", {BLOCK(SCALE_E8M0)}, QUANT_FP8_UE8M0_TEXT, false},
    {"fp8 with bf16 scales, of compressed-tensors",
     {BLOCK(SCALE_BF16), .compressed_tensors = true},
     fp8_channel_text,
     false},
    {"fp8 by channel", {FP8(SCHEME_FP8_CHANNEL, SCALE_BF16)}, fp8_channel_text, false},
    {"fp8 by channel with f32 scales", {FP8(SCHEME_FP8_CHANNEL, SCALE_F32)}, fp8_channel_text, false},
    {"fp8 by tensor", {FP8(SCHEME_FP8_TENSOR, SCALE_F32)}, fp8_channel_text, false},
    {"int4 of Kimi-K2.5", {INT4(32)}, QUANT_INT4_TEXT(32), true},
    {"int4 everywhere", {INT4(64), .shape_i64 = true}, QUANT_INT4_TEXT(64), false},
    {"int4 by channel", {INT4(0), .shape_i64 = true}, QUANT_INT4_TEXT(null), false},
    {"int4 of one group a row", {INT4(128), .shape_i64 = true}, QUANT_INT4_TEXT(128), true},
    {"int4 with zero points", {INT4(32), .asymmetric = true, .shape_i64 = true}, QUANT_INT4_TEXT(32), false},
};

static void expect_storage(const struct weights *ws, const struct storage *want)
{
    static const struct scheme plain = {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16};
    char got_text[SCHEME_TEXT], want_text[SCHEME_TEXT];

    for (size_t i = 0; i < ws->count; i++) {
        const struct weight *w = &ws->items[i];
        bool quantized = want->experts_only ? only_experts(w->id.role) : role_get(w->id.role)->quantizable;
        const struct scheme *s = quantized ? &want->scheme : &plain;
        if (w->id.role == ROLE_ROUTER_BIAS || scheme_same_storage(s, &w->stored))
            continue;
        ct_case("%s: %s", want->name, w->name);
        EXPECT_STR_EQ(scheme_text(s, want_text), scheme_text(&w->stored, got_text));
        EXPECT_EQ_I64(s->kind, w->stored.kind);
        return;
    }
}

static void expect_parts(const struct weights *ws, const char *case_name)
{
    for (size_t i = 0; i < ws->count; i++) {
        const struct weight *w = &ws->items[i];
        struct part_layout parts[PART_COUNT];
        uint64_t rows, cols;
        struct err e = {0};
        ct_case("%s: %s", case_name, w->name);
        ASSERT_TRUE(w->id.role != ROLE_UNKNOWN);
        EXPECT_TRUE(weights_find(ws, w->name) == w);
        if (!arch_shape(&(struct arch){0}, w->id.role, &rows, &cols) && w->parts[PART_CODES]->rank < 2)
            continue;
        ASSERT_OK(scheme_layout(&w->stored, w->rows, w->cols, parts, &e), e);
        for (enum part part = 0; part < PART_COUNT; part++) {
            ASSERT_TRUE(parts[part].present == (w->parts[part] != NULL));
            if (w->parts[part])
                EXPECT_EQ_U64(parts[part].bytes, w->parts[part]->bytes);
        }
    }
}

TEST(weight, each_way_of_storing_a_model_is_recognised_from_its_tensors)
{
    for (size_t i = 0; i < sizeof storages / sizeof storages[0]; i++)
        for (int read_shapes = 0; read_shapes < 2; read_shapes++) {
            const struct storage *s = &storages[i];
            struct ckpt_maker m = {0};
            struct source source;
            struct arch arch;
            struct err e = {0};
            const char *dir = ct_temp_dir();

            ct_case("%s", s->name);
            ASSERT_TRUE(tiny_arch(&arch, &m.arena, s->quantization, &m.config));
            ckpt_model(&m, &arch, &s->scheme, s->experts_only ? only_experts : NULL);
            ckpt_write(&m, dir);
            ASSERT_OK(source_open(&source, dir, read_shapes == 1, &e), e);
            EXPECT_TRUE(source.weights.count > 70);
            expect_storage(&source.weights, s);
            expect_parts(&source.weights, s->name);
            source_close(&source);
            source_close(&source);
            ckpt_release(&m);
        }
}

TEST(weight, weights_come_by_the_place_of_their_codes_and_are_found_by_name)
{
    static const struct scheme fp8 = {BLOCK(SCALE_F32)};
    struct ckpt_maker m = {0};
    struct source s;
    struct arch arch;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(tiny_arch(&arch, &m.arena, QUANT_FP8_TEXT, &m.config));
    ckpt_model(&m, &arch, &fp8, NULL);
    for (size_t i = 0; i < m.count; i++)
        m.tensors[i].shard = (uint32_t)(i % 3); /* scales apart from codes, codes back and forth */
    ckpt_write(&m, dir);
    ASSERT_OK(source_open(&s, dir, true, &e), e);
    for (size_t i = 1; i < s.weights.count; i++) {
        const struct tensor *a = s.weights.items[i - 1].parts[PART_CODES], *b = s.weights.items[i].parts[PART_CODES];
        EXPECT_TRUE(a->shard < b->shard || (a->shard == b->shard && a->offset < b->offset));
    }
    const struct weight *w = weights_find(&s.weights, "model.layers.1.mlp.experts.2.up_proj.weight");
    ASSERT_TRUE(w != NULL);
    EXPECT_STR_EQ("model.layers.1.mlp.experts.2.up_proj", w->module);
    EXPECT_EQ_I64(ROLE_EXPERT_UP, w->id.role);
    EXPECT_EQ_U64(128, w->rows);
    EXPECT_EQ_U64(256, w->cols);
    EXPECT_TRUE(w->parts[PART_SCALE]->shard != w->parts[PART_CODES]->shard);
    EXPECT_TRUE(weights_find(&s.weights, "model.layers.1.mlp.experts.2.up_proj.weight_scale_inv") == NULL);
    ASSERT_TRUE(weights_find(&s.weights, "model.layers.1.mlp.gate.e_score_correction_bias") != NULL);
    source_close(&s);
    ckpt_release(&m);
}

/* ---- single defects ---- */

#define E0   "model.layers.1.mlp.experts.0.down_proj"      /* [256, 128] */
#define KV_A "model.layers.0.self_attn.kv_a_proj_with_mqa" /* [96, 256] */

struct addition {
    const char *name;
    enum dtype_id dtype;
    uint32_t rank;
    uint64_t dims[3];
    int64_t numbers[2]; /* the contents of an I64 or I32 pair */
};

/* A tiny model of one storage, a tensor taken out, others put in. */
static const struct defect {
    const char *name;
    struct scheme scheme;
    const char *quantization;
    const char *drop, *drop_too;
    struct addition add[2];
    enum err_code code; /* ERR_NONE: accepted */
    const char *part;
} defects[] = {
    /* clang-format off */
    {"codes without scale", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight_scale_inv", NULL, {{0}},
     ERR_FORMAT, "tensor '" E0 ".weight' holds F8_E4M3 codes, but there is no"},
    {"a scale without codes", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight", NULL, {{0}},
     ERR_FORMAT, "tensor '" E0 ".weight_scale_inv' belongs to no weight"},
    {"a scale beside bf16", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight", NULL,
     {{E0 ".weight", DTYPE_BF16, 2, {256, 128}, {0}}}, ERR_FORMAT, "is BF16, which '" E0 ".weight_scale_inv'"},
    {"a grid of another shape", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight_scale_inv", NULL,
     {{E0 ".weight_scale_inv", DTYPE_F32, 2, {1, 2}, {0}}}, ERR_FORMAT, "is [1, 2], not the [2, 1]"},
    {"a grid rounded down", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, KV_A ".weight_scale_inv", NULL,
     {{KV_A ".weight_scale_inv", DTYPE_F32, 2, {0, 2}, {0}}}, ERR_FORMAT, "is [0, 2], not the [1, 2]"},
    {"a grid of another block size", {BLOCK(SCALE_F32)},
     "{\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]}", NULL, NULL, {{0}},
     ERR_FORMAT, "in blocks of 64 x 128"},
    {"a flat scale_inv", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight_scale_inv", NULL,
     {{E0 ".weight_scale_inv", DTYPE_F32, 1, {1}, {0}}}, ERR_FORMAT, "is [1], not the [2, 1]"},
    {"scales of whole numbers", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight_scale_inv", NULL,
     {{E0 ".weight_scale_inv", DTYPE_I32, 2, {2, 1}, {0}}}, ERR_UNSUPPORTED, "is I32, not F32"},
    {"two scales", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, NULL, NULL,
     {{E0 ".weight_scale", DTYPE_F32, 2, {2, 1}, {0}}}, ERR_FORMAT, "has two scales"},
    {"e5m2 codes", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight", NULL,
     {{E0 ".weight", DTYPE_F8_E5M2, 2, {256, 128}, {0}}}, ERR_UNSUPPORTED, "is F8_E5M2, not F8_E4M3"},
    {"fnuz codes", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight", NULL,
     {{E0 ".weight", DTYPE_F8_E4M3FNUZ, 2, {256, 128}, {0}}}, ERR_UNSUPPORTED, "is F8_E4M3FNUZ, not F8_E4M3"},
    {"int8 codes", {FP8(SCHEME_FP8_CHANNEL, SCALE_F32)}, NULL, E0 ".weight", NULL,
     {{E0 ".weight", DTYPE_I8, 2, {256, 128}, {0}}}, ERR_UNSUPPORTED, "is I8, which"},
    {"a shape that config.json does not promise", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight",
     E0 ".weight_scale_inv", {{E0 ".weight", DTYPE_BF16, 2, {128, 256}, {0}}}, ERR_FORMAT,
     "is [128, 256], not the [256, 128] that config.json promises"},
    {"a matrix of three dimensions", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, E0 ".weight", E0 ".weight_scale_inv",
     {{E0 ".weight", DTYPE_BF16, 3, {2, 128, 128}, {0}}}, ERR_FORMAT, "is [2, 128, 128], not the [256, 128]"},
    {"channel scales as a vector", {FP8(SCHEME_FP8_CHANNEL, SCALE_F32)}, NULL, E0 ".weight_scale", NULL,
     {{E0 ".weight_scale", DTYPE_F32, 1, {256}, {0}}}, ERR_NONE, NULL},
    {"a tensor's scale as a scalar", {FP8(SCHEME_FP8_TENSOR, SCALE_F32)}, NULL, E0 ".weight_scale", NULL,
     {{E0 ".weight_scale", DTYPE_F32, 0, {0}, {0}}}, ERR_NONE, NULL},
    {"channel scales in e8m0", {FP8(SCHEME_FP8_CHANNEL, SCALE_F32)}, NULL, E0 ".weight_scale", NULL,
     {{E0 ".weight_scale", DTYPE_F8_E8M0, 2, {256, 1}, {0}}}, ERR_UNSUPPORTED, "is F8_E8M0, not F32, BF16 or F16"},
    {"a static activation scale", {FP8(SCHEME_FP8_CHANNEL, SCALE_F32)}, NULL, NULL, NULL,
     {{E0 ".input_scale", DTYPE_F32, 1, {1}, {0}}}, ERR_NONE, NULL},
    {"an activation scale of nothing", {FP8(SCHEME_FP8_CHANNEL, SCALE_F32)}, NULL, E0 ".weight", E0 ".weight_scale",
     {{E0 ".input_scale", DTYPE_F32, 1, {1}, {0}}}, ERR_FORMAT, "'" E0 ".input_scale' belongs to no weight"},
    {"a bias", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, NULL, NULL, {{KV_A ".bias", DTYPE_BF16, 1, {96}, {0}}},
     ERR_NONE, NULL},
    {"a stale rotary cache", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, NULL, NULL,
     {{"model.layers.0.self_attn.rotary_emb.inv_freq", DTYPE_BF16, 1, {56}, {0}}}, ERR_NONE, NULL},
    {"names of no known role", {BLOCK(SCALE_F32)}, QUANT_FP8_TEXT, NULL, NULL,
     {{"vision.patch.weight", DTYPE_F8_E5M2, 3, {2, 3, 4}, {0}}, {"vision.patch.weight_scale", DTYPE_F32, 1, {1}, {0}}},
     ERR_NONE, NULL},

    {"packed and plain codes of one module", {INT4(32)}, QUANT_INT4_TEXT(32), NULL, NULL,
     {{E0 ".weight", DTYPE_BF16, 2, {256, 128}, {0}}}, ERR_FORMAT, "has both '" E0 ".weight"},
    {"packed codes without scale", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_scale", NULL, {{0}},
     ERR_FORMAT, "there is no '" E0 ".weight_scale'"},
    {"packed codes without shape", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_shape", NULL, {{0}},
     ERR_FORMAT, "has no '" E0 ".weight_shape'"},
    {"zero points without codes", {INT4(32), .asymmetric = true}, QUANT_INT4_TEXT(32), E0 ".weight_packed", NULL, {{0}},
     ERR_FORMAT, "belongs to no weight"},
    {"columns in activation order", {INT4(32)}, QUANT_INT4_TEXT(32), NULL, NULL,
     {{E0 ".weight_g_idx", DTYPE_I32, 1, {128}, {0}}}, ERR_UNSUPPORTED, "tensor '" E0 ".weight_g_idx'"},
    {"codes of 8 bits by their words", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_packed", NULL,
     {{E0 ".weight_packed", DTYPE_I32, 2, {256, 32}, {0}}}, ERR_UNSUPPORTED,
     "tensor '" E0 ".weight_packed' holds 8-bit codes"},
    {"packed codes of another type", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_packed", NULL,
     {{E0 ".weight_packed", DTYPE_U8, 2, {256, 64}, {0}}}, ERR_UNSUPPORTED, "is U8, not I32"},
    {"too few rows of codes", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_packed", NULL,
     {{E0 ".weight_packed", DTYPE_I32, 2, {255, 16}, {0}}}, ERR_FORMAT, "is [255, 16], not the [256, 16]"},
    {"a weight_shape that config.json does not promise", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_shape", NULL,
     {{E0 ".weight_shape", DTYPE_I64, 1, {2}, {256, 127}}}, ERR_FORMAT,
     "says [256, 127], but config.json promises [256, 128]"},
    {"a negative weight_shape", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_shape", NULL,
     {{E0 ".weight_shape", DTYPE_I64, 1, {2}, {-256, 128}}}, ERR_FORMAT, "holds -256"},
    {"a weight_shape of three numbers", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_shape", NULL,
     {{E0 ".weight_shape", DTYPE_I32, 1, {3}, {0}}}, ERR_FORMAT, "is [3], not the [2]"},
    {"a weight_shape of floats", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_shape", NULL,
     {{E0 ".weight_shape", DTYPE_F32, 1, {2}, {0}}}, ERR_UNSUPPORTED, "is F32, not I32 or I64"},
    {"scales that do not divide the columns", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_scale", NULL,
     {{E0 ".weight_scale", DTYPE_BF16, 2, {256, 3}, {0}}}, ERR_FORMAT, "is [256, 3], which does not divide [256, 128]"},
    {"no scales at all in a row", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_scale", NULL,
     {{E0 ".weight_scale", DTYPE_BF16, 2, {256, 0}, {0}}}, ERR_FORMAT, "does not divide"},
    {"zero points of another shape", {INT4(32), .asymmetric = true}, QUANT_INT4_TEXT(32), E0 ".weight_zero_point", NULL,
     {{E0 ".weight_zero_point", DTYPE_I32, 2, {256, 4}, {0}}}, ERR_FORMAT, "is [256, 4], not the [32, 4]"},
    {"scales in f16", {INT4(32)}, QUANT_INT4_TEXT(32), E0 ".weight_scale", NULL,
     {{E0 ".weight_scale", DTYPE_F16, 2, {256, 4}, {0}}}, ERR_NONE, NULL},
    {"groups of another size than config.json's", {INT4(32)}, QUANT_INT4_TEXT(64), NULL, NULL, {{0}}, ERR_NONE, NULL},
    {"codes of 8 bits by config.json", {INT4(32)},
     "{\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":8,\"type\":\"int\"}}}}",
     NULL, NULL, {{0}}, ERR_UNSUPPORTED, "holds 8-bit codes by config.json"},
    {"another quantization method", {BLOCK(SCALE_F32)}, "{\"quant_method\":\"awq\"}", NULL, NULL, {{0}},
     ERR_UNSUPPORTED, "quantization method 'awq' cannot be read"},
    /* clang-format on */
};

static void add(struct ckpt_maker *m, const struct addition *a)
{
    const int32_t narrow[3] = {(int32_t)a->numbers[0], (int32_t)a->numbers[1], 0};
    const void *data = a->dtype == DTYPE_I64 ? (const void *)a->numbers : narrow;
    bool pair = strstr(a->name, "_shape") && a->dtype != DTYPE_F32;

    ckpt_add(m, a->name, a->dtype, a->rank, a->dims, pair ? data : NULL);
}

static bool open_defect(const struct defect *d, struct ckpt_maker *m, struct source *s, struct err *e)
{
    const char *dir = ct_temp_dir();
    struct arch arch;

    if (!tiny_arch(&arch, &m->arena, d->quantization, &m->config))
        return err_set(e, ERR_USAGE, "the case's config is wrong");
    ckpt_model(m, &arch, &d->scheme, NULL);
    if (d->drop)
        ckpt_drop(m, d->drop);
    if (d->drop_too)
        ckpt_drop(m, d->drop_too);
    for (size_t i = 0; i < 2; i++)
        if (d->add[i].name)
            add(m, &d->add[i]);
    ckpt_write(m, dir);
    return source_open(s, dir, true, e);
}

TEST(weight, what_does_not_fit_is_refused_and_names_the_tensor)
{
    for (size_t i = 0; i < sizeof defects / sizeof defects[0]; i++) {
        const struct defect *d = &defects[i];
        struct ckpt_maker m = {0};
        struct source s = {0};
        struct err e = {0};

        ct_case("%s", d->name);
        bool ok = open_defect(d, &m, &s, &e);
        if (d->code == ERR_NONE)
            EXPECT_OK(ok, e);
        else
            EXPECT_ERR(e, d->code, d->part);
        source_close(&s);
        ckpt_release(&m);
    }
}

static const struct defect *defect_named(const char *name)
{
    size_t i = 0;

    while (strcmp(defects[i].name, name) != 0)
        i++;
    return &defects[i];
}

TEST(weight, biases_caches_and_unknown_tensors_are_weights_of_their_own)
{
    static const struct row {
        const char *defect, *name;
        enum role role;
        enum scheme_kind kind;
        uint64_t rows, cols;
    } rows[] = {
        {"a bias", KV_A ".bias", ROLE_KV_A_PROJ, SCHEME_PLAIN, 1, 96},
        {"a stale rotary cache", "model.layers.0.self_attn.rotary_emb.inv_freq", ROLE_ROPE_CACHE, SCHEME_PLAIN, 1, 56},
        {"names of no known role", "vision.patch.weight", ROLE_UNKNOWN, SCHEME_RAW, 2, 12},
        {"names of no known role", "vision.patch.weight_scale", ROLE_UNKNOWN, SCHEME_RAW, 1, 1},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ckpt_maker m = {0};
        struct source s = {0};
        struct err e = {0};
        ct_case("%s", rows[i].name);
        ASSERT_OK(open_defect(defect_named(rows[i].defect), &m, &s, &e), e);
        const struct weight *w = weights_find(&s.weights, rows[i].name);
        ASSERT_TRUE(w != NULL);
        EXPECT_EQ_I64(rows[i].role, w->id.role);
        EXPECT_EQ_I64(rows[i].kind, w->stored.kind);
        EXPECT_EQ_U64(rows[i].rows, w->rows);
        EXPECT_EQ_U64(rows[i].cols, w->cols);
        source_close(&s);
        ckpt_release(&m);
    }
}

TEST(weight, an_activation_scale_hangs_on_its_weight)
{
    struct ckpt_maker m = {0};
    struct source s = {0};
    struct err e = {0};

    ASSERT_OK(open_defect(defect_named("a static activation scale"), &m, &s, &e), e);
    const struct weight *w = weights_find(&s.weights, E0 ".weight");
    ASSERT_TRUE(w != NULL && w->input_scale != NULL);
    EXPECT_STR_EQ(E0 ".input_scale", w->input_scale->name);
    EXPECT_TRUE(weights_find(&s.weights, E0 ".input_scale") == NULL);
    source_close(&s);
    ckpt_release(&m);
}

TEST(weight, a_width_that_fills_no_whole_word_is_read_with_its_last_word_ragged)
{
    static const struct scheme channel = {INT4(0), .shape_i64 = true};
    struct model small = models[MODEL_TINY];
    struct ckpt_maker m = {0};
    struct source s = {0};
    struct err e = {0};
    struct arch arch;
    const char *dir = ct_temp_dir();

    small.moe_intermediate = 130;
    small.quantization = QUANT_INT4_TEXT(null);
    m.config = model_config(&m.arena, &small);
    ASSERT_OK(arch_parse(&arch, &m.arena, m.config, strlen(m.config), &e), e);
    ckpt_model(&m, &arch, &channel, NULL);
    ckpt_write(&m, dir);
    ASSERT_OK(source_open(&s, dir, true, &e), e);
    const struct weight *w = weights_find(&s.weights, E0 ".weight");
    ASSERT_TRUE(w != NULL);
    EXPECT_EQ_U64(130, w->cols);
    EXPECT_EQ_U64(17, w->parts[PART_CODES]->dims[1]);
    source_close(&s);
    ckpt_release(&m);
}

TEST(weight, a_checkpoint_without_config_is_refused)
{
    struct ckpt_maker m = {0};
    struct source s = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();

    ckpt_vector(&m, "model.norm.weight", DTYPE_BF16, 8, NULL);
    ckpt_write(&m, dir);
    EXPECT_FALSE(source_open(&s, dir, true, &e));
    EXPECT_ERR(e, ERR_FORMAT, "no config.json");
    source_close(&s);
    ckpt_release(&m);
}

TEST(weight, a_norm_or_bias_of_another_shape_is_refused)
{
    static const struct {
        const char *name;
        enum dtype_id dtype;
        uint64_t dims[3];
        uint32_t rank;
        const char *refusal;
    } cases[] = {
        {"model.norm.weight", DTYPE_BF16, {16, 16}, 2, "tensor 'model.norm.weight' is [16, 16], not a vector"},
        {"model.layers.1.input_layernorm.weight", DTYPE_BF16, {2, 128, 1}, 3, "is [2, 128, 1], not a vector"},
        {"model.layers.1.mlp.gate.e_score_correction_bias", DTYPE_F32, {2, 2}, 2, "is [2, 2], not a vector"},
        {"model.norm.weight", DTYPE_BF16, {16}, 1, "tensor 'model.norm.weight' is [16], not the ["},
        {"model.layers.1.self_attn.q_a_layernorm.weight", DTYPE_BF16, {1}, 1, "is [1], not the ["},
        {"model.layers.1.self_attn.kv_a_layernorm.weight", DTYPE_BF16, {1}, 1, "is [1], not the ["},
        {"model.layers.1.mlp.gate.e_score_correction_bias", DTYPE_F32, {3}, 1, "is [3], not the ["},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static const struct scheme fp8 = {BLOCK(SCALE_F32)};
        struct ckpt_maker m = {0};
        struct source s;
        struct arch arch;
        struct err e = {0};
        const char *dir = ct_temp_dir();
        ct_case("%s", cases[i].name);
        ASSERT_TRUE(tiny_arch(&arch, &m.arena, QUANT_FP8_TEXT, &m.config));
        ckpt_model(&m, &arch, &fp8, NULL);
        ckpt_drop(&m, cases[i].name);
        ckpt_add(&m, cases[i].name, cases[i].dtype, cases[i].rank, cases[i].dims, NULL);
        ckpt_write(&m, dir);
        EXPECT_FALSE(source_open(&s, dir, true, &e));
        EXPECT_ERR(e, ERR_FORMAT, cases[i].refusal);
        ckpt_release(&m);
    }
}
