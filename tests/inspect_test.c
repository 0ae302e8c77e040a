#include <string.h>

#include "formats/base/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "samples/generate/v3_layout.h"
#include "tests/ct.h"
#include "verify/inspect.h"

/* A checkpoint on disk, opened and looked into. */
struct look {
    struct source source;
    struct inspection in;
    struct buf text;
};

static bool look_at(struct look *k, const char *dir)
{
    struct inspect_show show = {.tensors = true};
    struct err e = {0};

    *k = (struct look){0};
    EXPECT_OK(source_open(&k->source, dir, false, &e), e);
    if (e.code != ERR_NONE)
        return false;
    inspect_run(&k->in, &k->source);
    inspect_print_text(&k->in, &show, &k->text);
    return true;
}

static void look_release(struct look *k)
{
    buf_release(&k->text);
    inspect_release(&k->in);
    source_close(&k->source);
}

static bool look_at_layout(struct look *k, const struct v3_layout *l)
{
    const char *dir = ct_temp_dir();
    struct err e = {0};

    *k = (struct look){0};
    EXPECT_OK(v3_layout_write(l, dir, &e), e);
    return e.code == ERR_NONE && look_at(k, dir);
}

static const struct inspect_row *find_row(const struct inspection *in, const char *group, const char *stored, bool mtp)
{
    for (size_t i = 0; i < in->row_count; i++)
        if (strcmp(in->rows[i].group, group) == 0 && strcmp(in->rows[i].stored, stored) == 0 && in->rows[i].mtp == mtp)
            return &in->rows[i];
    return NULL;
}

/* By hand, from the published shapes. Attention of a layer: 1536*7168 + 24576*1536 + 576*7168 + 32768*512 +
 * 7168*16384 = 187,105,280; norms 16,384; an expert 3*2048*7168 = 44,040,192; a dense MLP 396,361,728; a
 * router 256*7168 + 256. Total: 61 (attention + norms) + 3 dense + 58 (257 experts + router) + 2*129280*7168
 * + 7168. Active: the same with 9 experts and one row of the embedding. Bytes: a scale of 4 bytes for each
 * 128x128 block, two bytes for BF16, four for the bias. */
TEST(inspect, the_published_numbers_of_deepseek_v3)
{
    struct v3_layout l;
    struct look k;

    v3_layout_published(&l);
    if (!look_at_layout(&k, &l))
        goto done;
    EXPECT_EQ_U64(163, k.source.checkpoint.shard_count);
    EXPECT_EQ_U64(91991, k.source.checkpoint.tensor_count);
    EXPECT_EQ_U64(688574839360, k.source.checkpoint.tensor_bytes);
    EXPECT_EQ_U64(671026419200, k.in.main.parameters);
    EXPECT_EQ_U64(13463426304, k.in.mtp.parameters);
    EXPECT_EQ_U64(36625625600, k.in.active_parameters);
    EXPECT_EQ_U64(37668489568, k.in.active_bytes);
    EXPECT_EQ_U64(70272, k.in.kv_latent_bytes);
    EXPECT_EQ_U64(4997120, k.in.kv_heads_bytes);
    EXPECT_EQ_U64(3, k.in.dense_layers);
    EXPECT_EQ_U64(58, k.in.moe_layers);
    EXPECT_EQ_U64(1, k.in.mtp_layers_stored);
    EXPECT_EQ_U64(0, k.in.findings.count);
    EXPECT_STR_EQ("fp8 128x128", k.in.claimed);
    const struct inspect_row *experts = find_row(&k.in, "routed_expert", "fp8 128x128", false);
    EXPECT_TRUE(experts != NULL);
    if (experts) {
        EXPECT_EQ_U64(58 * 256 * 3, experts->sum.weights);
        EXPECT_EQ_U64(58ull * 256 * 44050944, experts->sum.bytes);
    }
    EXPECT_STR_HAS(k.text.data, "671.03 B, 36.63 B active per token; MTP 13.46 B more");
    EXPECT_STR_HAS(k.text.data, "163,840 tokens (YaRN x40 from 4,096)");
done:
    look_release(&k);
}

TEST(inspect, a_healthy_checkpoint_has_no_findings)
{
    static const enum v3_store stores[] = {V3_BF16, V3_FP8};

    for (size_t i = 0; i < 2; i++) {
        struct v3_layout l;
        struct look k;
        ct_case("store %zu", i);
        v3_layout_small(&l);
        l.store = stores[i];
        if (look_at_layout(&k, &l))
            EXPECT_STR_HAS(k.text.data, "ok       nothing found");
        look_release(&k);
    }
}

TEST(inspect, packed_int4_counts_weights_and_not_words)
{
    struct v3_layout l;
    struct look k;

    v3_layout_small(&l);
    l.store = V3_INT4;
    if (look_at_layout(&k, &l)) {
        const struct inspect_row *experts = find_row(&k.in, "routed_expert", "int4 g32", false);
        ASSERT_TRUE(experts != NULL);
        EXPECT_EQ_U64(2 * 8 * 3, experts->sum.weights);
        EXPECT_EQ_U64(2 * 8 * 3 * 128 * 256, experts->sum.parameters);
        /* 4 bits, a BF16 scale per 32, and the shape's two words. */
        EXPECT_EQ_U64(2 * 8 * 3 * (128 * 256 / 2 + 128 * 256 / 32 * 2 + 8), experts->sum.bytes);
        EXPECT_STR_HAS(k.in.claimed, "compressed-tensors pack-quantized: int4 g32");
        EXPECT_STR_EQ("int4 g32 (routed_expert)", k.in.stored);
        for (size_t i = 0; i < k.in.findings.count; i++)
            EXPECT_EQ_I64(SEVERITY_NOTE, rule_get(k.in.findings.items[i].rule)->severity);
    }
    look_release(&k);
}

/* ---- planted faults ---- */

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool drop_mtp(void *ctx, struct tensor *t)
{
    (void)ctx;
    return !starts(t->name, "model.layers.3.");
}

static bool drop_experts(void *ctx, struct tensor *t)
{
    (void)ctx;
    return !starts(t->name, "model.layers.2.mlp.experts.3.") && !starts(t->name, "model.layers.2.mlp.experts.4.") &&
           !starts(t->name, "model.layers.2.mlp.experts.6.up_proj");
}

static bool drop_layer(void *ctx, struct tensor *t)
{
    (void)ctx;
    return !starts(t->name, "model.layers.1.");
}

static bool drop_head(void *ctx, struct tensor *t)
{
    (void)ctx;
    return strcmp(t->name, "lm_head.weight") != 0;
}

static bool strange_name(void *ctx, struct tensor *t)
{
    (void)ctx;
    if (strcmp(t->name, "model.layers.1.input_layernorm.weight") == 0)
        t->name = "model.layers.1.surprise\x1b[2J.weight";
    return true;
}

static bool stale_cache(void *ctx, struct tensor *t)
{
    (void)ctx;
    if (strcmp(t->name, "model.layers.3.embed_tokens.weight") == 0) {
        t->name = "model.layers.1.self_attn.rotary_emb.inv_freq";
        t->rank = 1;
        t->dims[0] = 16;
    }
    return true;
}

static bool narrow_bias(void *ctx, struct tensor *t)
{
    (void)ctx;
    if (strstr(t->name, "e_score_correction_bias"))
        t->dtype = DTYPE_BF16;
    return true;
}

static bool half_norm(void *ctx, struct tensor *t)
{
    (void)ctx;
    if (strcmp(t->name, "model.layers.0.input_layernorm.weight") == 0)
        t->dtype = DTYPE_F16;
    return true;
}

static bool wide_norm(void *ctx, struct tensor *t)
{
    (void)ctx;
    if (strcmp(t->name, "model.norm.weight") == 0)
        t->dtype = DTYPE_F32;
    return true;
}

static bool plain_shared_up(void *ctx, struct tensor *t)
{
    (void)ctx;
    if (!starts(t->name, "model.layers.1.mlp.shared_experts.up_proj"))
        return true;
    t->dtype = DTYPE_BF16;
    return strstr(t->name, "scale") == NULL;
}

/* What is said of another layout than the one that is stored. */
enum claim { CLAIM_TRUE, CLAIM_NO_MTP, CLAIM_PLAIN, CLAIM_FP8, CLAIM_INT4 };

static const struct fault {
    const char *name;
    bool (*edit)(void *ctx, struct tensor *t);
    enum v3_store store;
    enum claim claim;
    const char *severity, *want;
} faults[] = {
    {"MTP declared", drop_mtp, V3_FP8, CLAIM_TRUE, "error",
     "config.json declares 1 MTP layer (num_nextn_predict_layers), 0 of"},
    {"MTP stored", NULL, V3_FP8, CLAIM_NO_MTP, "error", "past the 3 layers and 0 MTP layers that config.json declares"},
    {"experts", drop_experts, V3_FP8, CLAIM_TRUE, "error",
     "layer 2 lacks 7 of its 38 weights: mlp.experts.3-4, mlp.experts.6"},
    {"a layer", drop_layer, V3_FP8, CLAIM_TRUE, "error", "layer 1 is missing altogether"},
    {"the head", drop_head, V3_FP8, CLAIM_TRUE, "error", "'lm_head.weight' is missing"},
    {"unknown", strange_name, V3_FP8, CLAIM_TRUE, "warning",
     "1 tensor of unknown role: 'model.layers.1.surprise?[2J.weight'"},
    {"norm gone", strange_name, V3_FP8, CLAIM_TRUE, "error",
     "layer 1 lacks 1 of its 38 weights: input_layernorm.weight"},
    {"inv_freq", stale_cache, V3_FP8, CLAIM_TRUE, "note", "1 rotary_emb.inv_freq tensor: stale"},
    {"bias", narrow_bias, V3_FP8, CLAIM_TRUE, "error", "router correction bias stored as BF16 in 3 weights, first"},
    {"norm F16", half_norm, V3_FP8, CLAIM_TRUE, "warning",
     "norm stored as F16 in 1 weight, first 'model.layers.0.input_layernorm.weight'"},
    {"norms mixed", wide_norm, V3_FP8, CLAIM_TRUE, "note", "1 norm is F32 and 19 BF16"},
    {"fp8 unsaid", NULL, V3_FP8, CLAIM_PLAIN, "error",
     "config.json says not quantized for attention: 20 weights are stored as fp8 128x128, first "},
    {"fp8 said", NULL, V3_BF16, CLAIM_FP8, "error",
     "config.json says fp8 128x128 for routed_expert: 72 weights are stored as BF16, first "},
    {"int4 said", NULL, V3_FP8, CLAIM_INT4, "error",
     "config.json says int4 g32 for routed_expert: 72 weights are stored as fp8 128x128, first "},
    {"one of a pair", plain_shared_up, V3_FP8, CLAIM_TRUE, "error",
     "config.json says fp8 128x128 for shared_expert: 1 weight is stored as BF16, first "
     "'model.layers.1.mlp.shared_experts.up_proj.weight'"},
    {"fused", plain_shared_up, V3_FP8, CLAIM_TRUE, "error", "model.layers.1.mlp.shared_experts.gate_proj"},
};

static const char *claim_text(const struct v3_layout *l, enum claim claim, struct arena *a)
{
    struct v3_layout other = *l;

    if (claim == CLAIM_TRUE)
        return NULL;
    if (claim == CLAIM_NO_MTP)
        other.mtp_layers = 0;
    else
        other.store = claim == CLAIM_PLAIN ? V3_BF16 : claim == CLAIM_FP8 ? V3_FP8 : V3_INT4;
    return v3_layout_config(&other, a);
}

/* One of the findings is of this severity and has this text, as shown. */
static bool has_finding(const struct inspection *in, const char *severity, const char *want)
{
    struct inspect_show show = {.findings_only = true};
    struct buf text = {0};
    bool found = false;

    inspect_print_text(in, &show, &text);
    for (char *line = text.data; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        char *at = strstr(line, want), *end = strchr(line, '\n');
        found |= starts(line, severity) && at && (!end || at < end);
    }
    buf_release(&text);
    return found;
}

TEST(inspect, every_planted_fault_is_found)
{
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        const struct fault *f = &faults[i];
        struct arena a = {0};
        struct v3_layout l;
        struct look k;
        ct_case("%s", f->name);
        v3_layout_small(&l);
        l.store = f->store;
        l.edit = f->edit;
        l.config = claim_text(&l, f->claim, &a);
        if (look_at_layout(&k, &l) && !has_finding(&k.in, f->severity, f->want))
            EXPECT_STR_HAS(k.text.data, f->want);
        if (k.text.data)
            EXPECT_TRUE(strchr(k.text.data, '\x1b') == NULL);
        look_release(&k);
        arena_release(&a);
    }
}

/* Moves a file's data by changing how many spaces pad its header. */
static void pad_header(const char *path, int64_t spaces)
{
    struct err e = {0};
    struct buf out = {0};
    char *data = NULL;
    size_t bytes = 0;
    uint64_t header = 0;

    EXPECT_OK(file_slurp(path, 64u << 20, &data, &bytes, &e), e);
    if (e.code != ERR_NONE)
        return;
    memcpy(&header, data, 8);
    uint64_t moved = (uint64_t)((int64_t)header + spaces);
    buf_add(&out, &moved, 8);
    buf_add(&out, data + 8, spaces < 0 ? moved : header);
    for (int64_t i = 0; i < spaces; i++)
        buf_puts(&out, " ");
    buf_add(&out, data + 8 + header, bytes - 8 - header);
    EXPECT_OK(file_write_whole(path, out.data, out.bytes, &e), e);
    buf_release(&out);
    mem_free(data);
}

static const char *shard_path(struct arena *a, const char *dir)
{
    return path_join(a, dir, "model-00001-of-000002.safetensors");
}

TEST(inspect, misaligned_tensors_are_found)
{
    struct arena a = {0};
    struct v3_layout l;
    struct look k;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    v3_layout_small(&l);
    ASSERT_OK(v3_layout_write(&l, dir, &e), e);
    pad_header(shard_path(&a, dir), 1);
    if (look_at(&k, dir))
        EXPECT_TRUE(has_finding(&k.in, "note", "tensors are not aligned to their dtype, first '"));
    look_release(&k);
    arena_release(&a);
}

TEST(inspect, a_header_that_the_hub_does_not_read_is_found)
{
    struct arena a = {0};
    struct v3_layout l;
    struct look k;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    v3_layout_small(&l);
    ASSERT_OK(v3_layout_write(&l, dir, &e), e);
    pad_header(shard_path(&a, dir), (int64_t)SAFETENSORS_HEADER_BYTES_HUB);
    if (look_at(&k, dir))
        EXPECT_TRUE(has_finding(&k.in, "warning", "'model-00001-of-000002.safetensors' has a header of 250"));
    look_release(&k);
    arena_release(&a);
}

TEST(inspect, a_wrong_total_size_is_noted)
{
    struct arena a = {0};
    struct v3_layout l;
    struct look k;
    struct err e = {0};
    const char *dir = ct_temp_dir(), *path = path_join(&a, dir, "model.safetensors.index.json");
    char *text = NULL;
    size_t bytes = 0;

    v3_layout_small(&l);
    ASSERT_OK(v3_layout_write(&l, dir, &e), e);
    ASSERT_OK(file_slurp(path, 1u << 20, &text, &bytes, &e), e);
    char *at = strstr(text, "\"total_size\": ");
    ASSERT_TRUE(at != NULL);
    at[14] = at[14] == '9' ? '8' : '9';
    EXPECT_OK(file_write_whole(path, text, bytes, &e), e);
    if (look_at(&k, dir))
        EXPECT_TRUE(has_finding(&k.in, "note", "total_size"));
    look_release(&k);
    mem_free(text);
    arena_release(&a);
}

TEST(inspect, the_json_report_is_json_with_exact_numbers)
{
    struct v3_layout l;
    struct look k;
    struct buf text = {0};
    struct inspect_show show = {.tensors = true};
    struct json_doc d = {0};
    struct err e = {0};
    uint64_t n = 0;

    v3_layout_small(&l);
    l.edit = strange_name;
    if (!look_at_layout(&k, &l))
        goto done;
    inspect_print_json(&k.in, &show, &text);
    EXPECT_OK(json_parse(&d, text.data, text.bytes, JSON_STRICT, &e), e);
    if (e.code != ERR_NONE)
        goto done;
    EXPECT_TRUE(json_u64(&d, json_get(json_get(d.root, "parameters"), "main"), &n));
    EXPECT_EQ_U64(k.in.main.parameters, n);
    EXPECT_EQ_U64(k.source.checkpoint.tensor_count, json_count(json_get(d.root, "tensors")));
    EXPECT_EQ_U64(k.in.findings.count, json_count(json_get(d.root, "findings")));
done:
    json_release(&d);
    buf_release(&text);
    look_release(&k);
}
