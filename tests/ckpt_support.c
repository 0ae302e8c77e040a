#include "tests/ckpt_support.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "tests/ct.h"

/* ---- values ---- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t seed_of(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h;
}

/* In [-1, 1) with 7 bits, exact in every float dtype; or one of 2^-8 .. 2^-5. */
static float draw(uint64_t *state, bool scale)
{
    uint64_t r = next_random(state) >> 40;

    return scale ? 1.0f / (float)(32u << (r & 3)) : (float)((int)(r & 255) - 128) / 128.0f;
}

/* Of a drawn value: it is zero, or normal in half precision and exact. */
static uint16_t to_f16(uint32_t bits)
{
    uint32_t exponent = (bits >> 23 & 255) - 112;

    return (bits & 0x7fffffff) == 0 ? 0 : (uint16_t)((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3ff));
}

static void fill_floats(void *data, enum dtype_id dtype, size_t elems, uint64_t state, bool scale)
{
    for (size_t i = 0; i < elems; i++) {
        float x = draw(&state, scale);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        if (dtype == DTYPE_F32)
            ((uint32_t *)data)[i] = bits;
        else
            ((uint16_t *)data)[i] = dtype == DTYPE_BF16 ? (uint16_t)(bits >> 16) : to_f16(bits);
    }
}

static void fill(struct tensor *t, void *data)
{
    uint64_t state = seed_of(t->name), word = 0;
    bool scale = strstr(t->name, "scale") != NULL;
    uint8_t *bytes = data;

    if (t->dtype == DTYPE_F32 || t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16) {
        fill_floats(data, t->dtype, (size_t)tensor_elems(t), state, scale);
        return;
    }
    for (size_t i = 0; i < t->bytes; i++) {
        if (i % 8 == 0)
            word = next_random(&state);
        bytes[i] = (uint8_t)(word >> (i % 8 * 8));
        if (t->dtype == DTYPE_F8_E4M3 && (bytes[i] & 0x7f) == 0x7f)
            bytes[i] ^= 1;
        if (t->dtype == DTYPE_F8_E8M0)
            bytes[i] = (uint8_t)(119 + (bytes[i] & 3));
    }
}

/* ---- tensors ---- */

void ckpt_add(struct ckpt_maker *m, const char *name, enum dtype_id dtype, uint32_t rank, const uint64_t *dims,
              const void *data)
{
    struct tensor *t;

    if (m->count == m->room) {
        m->room = m->room ? m->room * 2 : 64;
        m->tensors = mem_grow(m->tensors, m->room, sizeof *m->tensors);
        m->data = mem_grow(m->data, m->room, sizeof *m->data);
    }
    t = &m->tensors[m->count];
    *t = (struct tensor){.name = arena_strdup(&m->arena, name), .dtype = dtype, .rank = rank, .shard = m->shard};
    for (uint32_t i = 0; i < rank; i++)
        t->dims[i] = dims[i];
    bool sized = dtype_bytes(dtype, tensor_elems(t), &t->bytes);
    assert(sized);
    m->data[m->count] = arena_alloc(&m->arena, (size_t)t->bytes + 1);
    if (data)
        memcpy(m->data[m->count], data, (size_t)t->bytes);
    else
        fill(t, m->data[m->count]);
    m->count++;
}

void ckpt_matrix(struct ckpt_maker *m, const char *name, enum dtype_id dtype, uint64_t rows, uint64_t cols,
                 const void *data)
{
    ckpt_add(m, name, dtype, 2, (uint64_t[]){rows, cols}, data);
}

void ckpt_vector(struct ckpt_maker *m, const char *name, enum dtype_id dtype, uint64_t elems, const void *data)
{
    ckpt_add(m, name, dtype, 1, &elems, data);
}

void ckpt_weight(struct ckpt_maker *m, const char *module, const struct scheme *s, uint64_t rows, uint64_t cols)
{
    struct part_layout parts[PART_COUNT];
    const int64_t wide[2] = {(int64_t)rows, (int64_t)cols};
    const int32_t narrow[2] = {(int32_t)rows, (int32_t)cols};
    struct err e = {0};

    ASSERT_OK(scheme_layout(s, rows, cols, parts, &e), e);
    for (enum part part = 0; part < PART_COUNT; part++) {
        const struct part_layout *p = &parts[part];
        const void *data = part != PART_SHAPE ? NULL : p->dtype == DTYPE_I64 ? (const void *)wide : narrow;
        if (p->present)
            ckpt_add(m, arena_printf(&m->arena, "%s%s", module, p->suffix), p->dtype, p->rank, p->dims, data);
    }
}

void ckpt_drop(struct ckpt_maker *m, const char *name)
{
    size_t i = 0;

    while (i < m->count && strcmp(m->tensors[i].name, name) != 0)
        i++;
    ASSERT_TRUE(i < m->count);
    m->count--;
    memmove(&m->tensors[i], &m->tensors[i + 1], (m->count - i) * sizeof *m->tensors);
    memmove(&m->data[i], &m->data[i + 1], (m->count - i) * sizeof *m->data);
}

void ckpt_release(struct ckpt_maker *m)
{
    mem_free(m->tensors);
    mem_free(m->data);
    arena_release(&m->arena);
    memset(m, 0, sizeof *m);
}

/* ---- files ---- */

static uint32_t shard_count(const struct ckpt_maker *m)
{
    uint32_t count = 1;

    for (size_t i = 0; i < m->count; i++)
        if (m->tensors[i].shard >= count)
            count = m->tensors[i].shard + 1;
    return count;
}

static const char *shard_name(const struct ckpt_maker *m, uint32_t shard, char name[64])
{
    uint32_t count = shard_count(m);

    if (count == 1)
        return "model.safetensors";
    snprintf(name, 64, "model-%05u-of-%05u.safetensors", shard + 1, count);
    return name;
}

static void write_file(const char *dir, const char *name, const void *data, size_t bytes)
{
    struct arena a = {0};
    struct err e = {0};

    EXPECT_OK(file_write_whole(path_join(&a, dir, name), data, bytes, &e), e);
    arena_release(&a);
}

static void write_shard(const struct ckpt_maker *m, uint32_t shard, const char *dir)
{
    struct tensor **list = mem_alloc((m->count + 1) * sizeof(*list));
    struct buf file = {0};
    char name[64];
    struct err e = {0};
    uint64_t file_bytes;
    size_t count = 0;

    for (size_t i = 0; i < m->count; i++)
        if (m->tensors[i].shard == shard)
            list[count++] = &m->tensors[i];
    EXPECT_OK(safetensors_layout(&file, list, count, &file_bytes, &e), e);
    for (size_t i = 0; i < m->count; i++)
        if (m->tensors[i].shard == shard)
            buf_add(&file, m->data[i], (size_t)m->tensors[i].bytes);
    EXPECT_EQ_U64(file_bytes, file.bytes);
    write_file(dir, shard_name(m, shard, name), file.data, file.bytes);
    buf_release(&file);
    mem_free(list);
}

static void write_index(const struct ckpt_maker *m, const char *dir)
{
    struct buf text = {0};
    struct json_writer w = {.out = &text};
    uint64_t total = 0;
    char name[64];

    for (size_t i = 0; i < m->count; i++)
        total += m->tensors[i].bytes;
    json_begin_object(&w, NULL);
    json_begin_object(&w, "metadata");
    json_put_u64(&w, "total_size", total);
    json_end(&w, '}');
    json_begin_object(&w, "weight_map");
    for (size_t i = 0; i < m->count; i++)
        json_put_string(&w, m->tensors[i].name, shard_name(m, m->tensors[i].shard, name));
    json_end(&w, '}');
    json_end(&w, '}');
    write_file(dir, "model.safetensors.index.json", text.data, text.bytes);
    buf_release(&text);
}

void ckpt_write(const struct ckpt_maker *m, const char *dir)
{
    uint32_t count = shard_count(m);

    for (uint32_t i = 0; i < count; i++)
        write_shard(m, i, dir);
    if (count > 1)
        write_index(m, dir);
    if (m->config)
        write_file(dir, "config.json", m->config, strlen(m->config));
}

/* ---- models ---- */

#define INT4_KIMI                                                                                                      \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"group_0\":{"          \
    "\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"type\":\"int\",\"symmetric\":true,\"strategy\":"           \
    "\"group\",\"group_size\":32,\"dynamic\":false,\"actorder\":null}}},\"ignore\":[\"lm_head\","                      \
    "\"re:.*self_attn.*\",\"re:.*shared_experts.*\",\"re:.*mlp\\\\.(gate|up|gate_up|down)_proj.*\"]}"

const struct model models[MODEL_COUNT] = {
    /* clang-format off */
    /*                   name, model_type,              vocab,  hid, layers, mtp, heads, q, kv, nope, rope, v, */
    [MODEL_V3]        = {"DeepSeek-V3", "deepseek_v3",        129280, 7168, 61, 1, 128, 1536, 512, 128, 64, 128,
                         18432, 2048, 256, 1, 8, 3, 8, 4, "noaux_tc", "sigmoid", true, 2.5, 1e-6, 10000,
                         40, 32, 1, 1, 163840, QUANT_FP8_TEXT},
    [MODEL_V31]       = {"DeepSeek-V3.1", "deepseek_v3",      129280, 7168, 61, 1, 128, 1536, 512, 128, 64, 128,
                         18432, 2048, 256, 1, 8, 3, 8, 4, "noaux_tc", "sigmoid", true, 2.5, 1e-6, 10000,
                         40, 32, 1, 1, 163840, QUANT_FP8_UE8M0_TEXT},
    [MODEL_V32]       = {"DeepSeek-V3.2", "deepseek_v32",     129280, 7168, 61, 1, 128, 1536, 512, 128, 64, 128,
                         18432, 2048, 256, 1, 8, 3, 8, 4, "noaux_tc", "sigmoid", true, 2.5, 1e-6, 10000,
                         40, 32, 1, 1, 163840, QUANT_FP8_UE8M0_TEXT},
    [MODEL_V2_LITE]   = {"DeepSeek-V2-Lite", "deepseek_v2",   102400, 2048, 27, 0, 16, 0, 512, 128, 64, 128,
                         10944, 1408, 64, 2, 6, 1, 1, 1, "greedy", "softmax", false, 1.0, 1e-6, 10000,
                         40, 32, 1, 0.707, 163840, NULL},
    [MODEL_V2]        = {"DeepSeek-V2", "deepseek_v2",        102400, 5120, 60, 0, 128, 1536, 512, 128, 64, 128,
                         12288, 1536, 160, 2, 6, 1, 8, 3, "group_limited_greedy", "softmax", false, 16.0, 1e-6, 10000,
                         40, 32, 1, 0.707, 163840, NULL},
    [MODEL_KIMI_K2]   = {"Kimi-K2-Instruct", "kimi_k2",       163840, 7168, 61, 0, 64, 1536, 512, 128, 64, 128,
                         18432, 2048, 384, 1, 8, 1, 1, 1, "noaux_tc", "sigmoid", true, 2.827, 1e-6, 50000,
                         32, 1, 1, 1, 131072, QUANT_FP8_TEXT},
    [MODEL_KIMI_K25]  = {"Kimi-K2.5", "kimi_k25",             163840, 7168, 61, 0, 64, 1536, 512, 128, 64, 128,
                         18432, 2048, 384, 1, 8, 1, 1, 1, "noaux_tc", "sigmoid", true, 2.827, 1e-5, 50000,
                         64, 32, 1, 1, 262144, INT4_KIMI},
    [MODEL_MOONLIGHT] = {"Moonlight-16B-A3B", "deepseek_v3",  163840, 2048, 27, 0, 16, 0, 512, 128, 64, 128,
                         11264, 1408, 64, 2, 6, 1, 1, 1, "noaux_tc", "sigmoid", true, 2.446, 1e-5, 50000,
                         0, 0, 0, 0, 8192, NULL},
    [MODEL_TINY]      = {"tiny", "deepseek_v3",               512, 256, 3, 1, 4, 128, 64, 64, 32, 64,
                         384, 128, 4, 1, 2, 1, 2, 1, "noaux_tc", "sigmoid", true, 2.5, 1e-6, 10000,
                         40, 32, 1, 1, 163840, QUANT_FP8_TEXT},
    /* clang-format on */
};

static void put_yarn(struct json_writer *w, const struct model *m)
{
    if (m->yarn_factor == 0) {
        json_put_raw(w, "rope_scaling", "null");
        return;
    }
    json_begin_object(w, "rope_scaling");
    json_put_string(w, "type", "yarn");
    json_put_double(w, "factor", m->yarn_factor);
    json_put_u64(w, "original_max_position_embeddings", 4096);
    json_put_double(w, "beta_fast", m->beta_fast);
    json_put_double(w, "beta_slow", m->beta_slow);
    json_put_double(w, "mscale", m->mscale);
    json_put_double(w, "mscale_all_dim", m->mscale);
    json_end(w, '}');
}

static void put_sizes(struct json_writer *w, const struct model *m)
{
    json_put_u64(w, "vocab_size", m->vocab);
    json_put_u64(w, "hidden_size", m->hidden);
    json_put_u64(w, "num_hidden_layers", m->layers);
    json_put_u64(w, "num_nextn_predict_layers", m->mtp);
    json_put_u64(w, "num_attention_heads", m->heads);
    json_put_u64(w, "num_key_value_heads", m->heads);
    if (m->q_lora)
        json_put_u64(w, "q_lora_rank", m->q_lora);
    else
        json_put_raw(w, "q_lora_rank", "null");
    json_put_u64(w, "kv_lora_rank", m->kv_lora);
    json_put_u64(w, "qk_nope_head_dim", m->nope);
    json_put_u64(w, "qk_rope_head_dim", m->rope);
    json_put_u64(w, "v_head_dim", m->v);
    json_put_u64(w, "intermediate_size", m->intermediate);
    json_put_u64(w, "moe_intermediate_size", m->moe_intermediate);
    json_put_u64(w, "n_routed_experts", m->experts);
    json_put_u64(w, "n_shared_experts", m->shared);
    json_put_u64(w, "num_experts_per_tok", m->top_k);
    json_put_u64(w, "first_k_dense_replace", m->first_dense);
    json_put_u64(w, "moe_layer_freq", 1);
    json_put_u64(w, "max_position_embeddings", m->max_positions);
}

static void put_routing(struct json_writer *w, const struct model *m)
{
    json_put_u64(w, "n_group", m->groups);
    json_put_u64(w, "topk_group", m->topk_groups);
    json_put_string(w, "topk_method", m->topk);
    json_put_string(w, "scoring_func", m->scoring);
    json_put_bool(w, "norm_topk_prob", m->norm_topk);
    json_put_double(w, "routed_scaling_factor", m->scaling);
}

static void put_members(struct json_writer *w, const struct model *m, const char *model_type)
{
    json_put_string(w, "model_type", model_type);
    json_put_string(w, "torch_dtype", "bfloat16");
    put_sizes(w, m);
    put_routing(w, m);
    json_put_double(w, "rms_norm_eps", m->eps);
    json_put_double(w, "rope_theta", m->theta);
    put_yarn(w, m);
    json_put_string(w, "hidden_act", "silu");
    json_put_bool(w, "attention_bias", false);
    json_put_bool(w, "tie_word_embeddings", false);
    if (m->quantization)
        json_put_raw(w, "quantization_config", m->quantization);
}

const char *model_config(struct arena *a, const struct model *m)
{
    struct buf text = {0};
    struct json_writer w = {.out = &text};
    const char *copy;

    json_begin_object(&w, NULL);
    json_begin_array(&w, "architectures");
    json_put_string(&w, NULL,
                    strcmp(m->model_type, "deepseek_v2") == 0 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM");
    json_end(&w, ']');
    if (strcmp(m->model_type, "kimi_k25") == 0) {
        json_put_string(&w, "model_type", m->model_type);
        json_begin_object(&w, "text_config");
        put_members(&w, m, "kimi_k2");
        json_end(&w, '}');
    } else {
        put_members(&w, m, m->model_type);
    }
    json_end(&w, '}');
    copy = arena_strndup(a, text.data, text.bytes);
    buf_release(&text);
    return copy;
}

/* ---- names ---- */

struct tour {
    const struct arch *arch;
    model_visit *visit;
    void *ctx;
    const char *prefix;
};

static void visit_matrix(const struct tour *t, uint64_t layer, const char *name, enum role role)
{
    uint64_t rows, cols;
    char module[160];

    ASSERT_TRUE(arch_shape(t->arch, role, &rows, &cols));
    snprintf(module, sizeof module, "%smodel.layers.%" PRIu64 ".%s", t->prefix, layer, name);
    t->visit(t->ctx, module, role, rows, cols);
}

static void visit_vector(const struct tour *t, uint64_t layer, const char *name, enum role role, uint64_t elems)
{
    char module[160];

    snprintf(module, sizeof module, "%smodel.layers.%" PRIu64 ".%s", t->prefix, layer, name);
    t->visit(t->ctx, module, role, 0, elems);
}

static void visit_attention(const struct tour *t, uint64_t layer)
{
    if (t->arch->q_lora_rank > 0) {
        visit_matrix(t, layer, "self_attn.q_a_proj", ROLE_Q_A_PROJ);
        visit_vector(t, layer, "self_attn.q_a_layernorm", ROLE_NORM, t->arch->q_lora_rank);
        visit_matrix(t, layer, "self_attn.q_b_proj", ROLE_Q_B_PROJ);
    } else {
        visit_matrix(t, layer, "self_attn.q_proj", ROLE_Q_PROJ);
    }
    visit_matrix(t, layer, "self_attn.kv_a_proj_with_mqa", ROLE_KV_A_PROJ);
    visit_vector(t, layer, "self_attn.kv_a_layernorm", ROLE_NORM, t->arch->kv_lora_rank);
    visit_matrix(t, layer, "self_attn.kv_b_proj", ROLE_KV_B_PROJ);
    visit_matrix(t, layer, "self_attn.o_proj", ROLE_O_PROJ);
}

static void visit_moe(const struct tour *t, uint64_t layer)
{
    char name[64];

    visit_matrix(t, layer, "mlp.gate", ROLE_ROUTER);
    if (t->arch->family != ARCH_DEEPSEEK_V2)
        visit_vector(t, layer, "mlp.gate.e_score_correction_bias", ROLE_ROUTER_BIAS, t->arch->experts);
    for (uint64_t i = 0; i < t->arch->experts; i++) {
        snprintf(name, sizeof name, "mlp.experts.%" PRIu64 ".gate_proj", i);
        visit_matrix(t, layer, name, ROLE_EXPERT_GATE);
        snprintf(name, sizeof name, "mlp.experts.%" PRIu64 ".up_proj", i);
        visit_matrix(t, layer, name, ROLE_EXPERT_UP);
        snprintf(name, sizeof name, "mlp.experts.%" PRIu64 ".down_proj", i);
        visit_matrix(t, layer, name, ROLE_EXPERT_DOWN);
    }
    if (t->arch->shared_experts > 0) {
        visit_matrix(t, layer, "mlp.shared_experts.gate_proj", ROLE_SHARED_GATE);
        visit_matrix(t, layer, "mlp.shared_experts.up_proj", ROLE_SHARED_UP);
        visit_matrix(t, layer, "mlp.shared_experts.down_proj", ROLE_SHARED_DOWN);
    }
}

static void visit_dense(const struct tour *t, uint64_t layer)
{
    visit_matrix(t, layer, "mlp.gate_proj", ROLE_DENSE_GATE);
    visit_matrix(t, layer, "mlp.up_proj", ROLE_DENSE_UP);
    visit_matrix(t, layer, "mlp.down_proj", ROLE_DENSE_DOWN);
}

static void visit_mtp(const struct tour *t, uint64_t layer)
{
    visit_matrix(t, layer, "embed_tokens", ROLE_MTP_EMBED);
    visit_vector(t, layer, "enorm", ROLE_MTP_NORM, t->arch->hidden_size);
    visit_vector(t, layer, "hnorm", ROLE_MTP_NORM, t->arch->hidden_size);
    visit_matrix(t, layer, "eh_proj", ROLE_MTP_PROJ);
    visit_vector(t, layer, "shared_head.norm", ROLE_MTP_NORM, t->arch->hidden_size);
    visit_matrix(t, layer, "shared_head.head", ROLE_MTP_HEAD);
}

static void visit_layer(const struct tour *t, uint64_t layer)
{
    if (layer >= t->arch->layers)
        visit_mtp(t, layer);
    visit_vector(t, layer, "input_layernorm", ROLE_NORM, t->arch->hidden_size);
    visit_attention(t, layer);
    visit_vector(t, layer, "post_attention_layernorm", ROLE_NORM, t->arch->hidden_size);
    if (arch_is_moe_layer(t->arch, layer))
        visit_moe(t, layer);
    else
        visit_dense(t, layer);
}

void model_modules(const struct arch *arch, model_visit *visit, void *ctx)
{
    bool nested = strcmp(arch->model_type, "kimi_k25") == 0;
    const struct tour t = {.arch = arch, .visit = visit, .ctx = ctx, .prefix = nested ? "language_model." : ""};
    char name[64];

    snprintf(name, sizeof name, "%smodel.embed_tokens", t.prefix);
    visit(ctx, name, ROLE_EMBED, arch->vocab_size, arch->hidden_size);
    for (uint64_t i = 0; i < arch_layers_stored(arch); i++)
        visit_layer(&t, i);
    snprintf(name, sizeof name, "%smodel.norm", t.prefix);
    visit(ctx, name, ROLE_NORM, 0, arch->hidden_size);
    snprintf(name, sizeof name, "%slm_head", t.prefix);
    visit(ctx, name, ROLE_HEAD, arch->vocab_size, arch->hidden_size);
}

struct filling {
    struct ckpt_maker *maker;
    const struct scheme *linear;
    bool (*quantized)(enum role role);
};

static void add_module(void *ctx, const char *module, enum role role, uint64_t rows, uint64_t cols)
{
    const struct filling *f = ctx;
    static const struct scheme bf16 = {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16};
    bool quantized = f->quantized ? f->quantized(role) : role_get(role)->quantizable;

    if (role == ROLE_ROUTER_BIAS)
        ckpt_vector(f->maker, module, DTYPE_F32, cols, NULL);
    else if (rows == 0)
        ckpt_vector(f->maker, arena_printf(&f->maker->arena, "%s.weight", module), DTYPE_BF16, cols, NULL);
    else
        ckpt_weight(f->maker, module, quantized ? f->linear : &bf16, rows, cols);
}

void ckpt_model(struct ckpt_maker *m, const struct arch *arch, const struct scheme *linear,
                bool (*quantized)(enum role role))
{
    struct filling f = {.maker = m, .linear = linear, .quantized = quantized};

    model_modules(arch, add_module, &f);
}
