#include "samples/generate/v3_layout.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "formats/json.h"
#include "formats/safetensors.h"

#define TENSORS_MAX 10000000u

void v3_layout_published(struct v3_layout *l)
{
    *l = (struct v3_layout){.vocab = 129280,
                            .hidden = 7168,
                            .layers = 61,
                            .dense_layers = 3,
                            .mtp_layers = 1,
                            .heads = 128,
                            .q_rank = 1536,
                            .kv_rank = 512,
                            .nope_dim = 128,
                            .rope_dim = 64,
                            .v_dim = 128,
                            .intermediate = 18432,
                            .moe_intermediate = 2048,
                            .experts = 256,
                            .experts_per_token = 8,
                            .groups = 8,
                            .topk_groups = 4,
                            .shards = 163,
                            .store = V3_FP8};
}

void v3_layout_small(struct v3_layout *l)
{
    *l = (struct v3_layout){.vocab = 320,
                            .hidden = 256,
                            .layers = 3,
                            .dense_layers = 1,
                            .mtp_layers = 1,
                            .heads = 4,
                            .q_rank = 128,
                            .kv_rank = 128,
                            .nope_dim = 32,
                            .rope_dim = 32,
                            .v_dim = 32,
                            .intermediate = 384,
                            .moe_intermediate = 128,
                            .experts = 8,
                            .experts_per_token = 2,
                            .groups = 4,
                            .topk_groups = 2,
                            .shards = 2,
                            .store = V3_FP8};
}

struct maker {
    const struct v3_layout *l;
    struct arena arena;
    struct tensor *tensors;
    size_t count, room;
    uint64_t bytes; /* of data */
    struct err *e;
    bool ok;
};

static void add(struct maker *m, enum dtype_id dtype, uint64_t rows, uint64_t cols, char *name)
{
    struct tensor t = {.name = name, .dtype = dtype, .rank = rows ? 2 : 1, .dims = {rows ? rows : cols, cols}};

    if (!m->ok || (m->l->edit && !m->l->edit(m->l->ctx, &t)))
        return;
    if (!dtype_bytes(t.dtype, tensor_elems(&t), &t.bytes) || m->count == TENSORS_MAX) {
        m->ok = err_set(m->e, ERR_LIMIT, "tensor '%s' cannot be laid out", name);
        return;
    }
    if (m->count == m->room) {
        m->room = m->room ? 2 * m->room : 4096;
        m->tensors = mem_grow(m->tensors, m->room, sizeof *m->tensors);
    }
    m->bytes += t.bytes;
    m->tensors[m->count++] = t;
}

/* rows 0: a vector. */
static void add_plain(struct maker *m, enum dtype_id dtype, uint64_t rows, uint64_t cols, const char *at,
                      const char *name)
{
    add(m, dtype, rows, cols, arena_printf(&m->arena, "%s%s", at, name));
}

static void add_linear(struct maker *m, uint64_t rows, uint64_t cols, const char *at, const char *module)
{
    bool fp8 = m->l->store == V3_FP8;

    add(m, fp8 ? DTYPE_F8_E4M3 : DTYPE_BF16, rows, cols, arena_printf(&m->arena, "%s%s.weight", at, module));
    if (fp8)
        add(m, DTYPE_F32, (rows + 127) / 128, (cols + 127) / 128,
            arena_printf(&m->arena, "%s%s.weight_scale_inv", at, module));
}

static void add_int4(struct maker *m, uint64_t rows, uint64_t cols, const char *at, const char *module)
{
    add(m, DTYPE_I32, rows, cols / 8, arena_printf(&m->arena, "%s%s.weight_packed", at, module));
    add(m, DTYPE_BF16, rows, cols / 32, arena_printf(&m->arena, "%s%s.weight_scale", at, module));
    add(m, DTYPE_I32, 0, 2, arena_printf(&m->arena, "%s%s.weight_shape", at, module));
}

static void add_mlp(struct maker *m, uint64_t width, bool routed, const char *at)
{
    void (*add_matrix)(struct maker *, uint64_t, uint64_t, const char *, const char *) =
        routed && m->l->store == V3_INT4 ? add_int4 : add_linear;

    add_matrix(m, width, m->l->hidden, at, "gate_proj");
    add_matrix(m, width, m->l->hidden, at, "up_proj");
    add_matrix(m, m->l->hidden, width, at, "down_proj");
}

static void add_attention(struct maker *m, const char *at)
{
    const struct v3_layout *l = m->l;

    add_linear(m, l->q_rank, l->hidden, at, "self_attn.q_a_proj");
    add_plain(m, DTYPE_BF16, 0, l->q_rank, at, "self_attn.q_a_layernorm.weight");
    add_linear(m, l->heads * (l->nope_dim + l->rope_dim), l->q_rank, at, "self_attn.q_b_proj");
    add_linear(m, l->kv_rank + l->rope_dim, l->hidden, at, "self_attn.kv_a_proj_with_mqa");
    add_plain(m, DTYPE_BF16, 0, l->kv_rank, at, "self_attn.kv_a_layernorm.weight");
    add_linear(m, l->heads * (l->nope_dim + l->v_dim), l->kv_rank, at, "self_attn.kv_b_proj");
    add_linear(m, l->hidden, l->heads * l->v_dim, at, "self_attn.o_proj");
}

static void add_moe(struct maker *m, const char *at)
{
    const struct v3_layout *l = m->l;

    add_plain(m, DTYPE_BF16, l->experts, l->hidden, at, "mlp.gate.weight");
    add_plain(m, DTYPE_F32, 0, l->experts, at, "mlp.gate.e_score_correction_bias");
    for (uint64_t x = 0; x < l->experts; x++)
        add_mlp(m, l->moe_intermediate, true, arena_printf(&m->arena, "%smlp.experts.%" PRIu64 ".", at, x));
    add_mlp(m, l->moe_intermediate, false, arena_printf(&m->arena, "%smlp.shared_experts.", at));
}

static void add_layer(struct maker *m, uint64_t layer)
{
    const struct v3_layout *l = m->l;
    const char *at = arena_printf(&m->arena, "model.layers.%" PRIu64 ".", layer);

    add_plain(m, DTYPE_BF16, 0, l->hidden, at, "input_layernorm.weight");
    add_attention(m, at);
    add_plain(m, DTYPE_BF16, 0, l->hidden, at, "post_attention_layernorm.weight");
    if (layer < l->dense_layers)
        add_mlp(m, l->intermediate, false, arena_printf(&m->arena, "%smlp.", at));
    else
        add_moe(m, at);
    if (layer < l->layers)
        return;
    add_plain(m, DTYPE_BF16, l->vocab, l->hidden, at, "embed_tokens.weight");
    add_plain(m, DTYPE_BF16, 0, l->hidden, at, "enorm.weight");
    add_plain(m, DTYPE_BF16, 0, l->hidden, at, "hnorm.weight");
    add_plain(m, DTYPE_BF16, l->hidden, 2 * l->hidden, at, "eh_proj.weight");
    add_plain(m, DTYPE_BF16, 0, l->hidden, at, "shared_head.norm.weight");
    add_plain(m, DTYPE_BF16, l->vocab, l->hidden, at, "shared_head.head.weight");
}

static void add_all(struct maker *m)
{
    const struct v3_layout *l = m->l;

    add_plain(m, DTYPE_BF16, l->vocab, l->hidden, "model.", "embed_tokens.weight");
    for (uint64_t i = 0; i < l->layers; i++)
        add_layer(m, i);
    add_plain(m, DTYPE_BF16, 0, l->hidden, "model.", "norm.weight");
    add_plain(m, DTYPE_BF16, l->vocab, l->hidden, "", "lm_head.weight");
    for (uint64_t i = l->layers; i < l->layers + l->mtp_layers; i++)
        add_layer(m, i);
}

/* Shards of nearly equal size in layer order; each gets at least one tensor. */
static void give_shards(struct maker *m)
{
    uint64_t at = 0, shards = m->l->shards;
    uint32_t shard = 0;

    for (size_t i = 0; i < m->count; i++) {
        struct tensor *t = &m->tensors[i];
        uint64_t left = m->count - i;
        bool due = at / (m->bytes / shards + 1) > shard, last_chance = shards - shard > left;

        if (i > 0 && shard + 1 < shards && (due || last_chance))
            shard++;
        t->shard = shard;
        at += t->bytes;
    }
}

/* The order of the reference writer: by alignment, largest first, then by name. */
static int compare_in_file(const void *a, const void *b)
{
    const struct tensor *s = *(const struct tensor *const *)a, *t = *(const struct tensor *const *)b;
    uint32_t align_s = dtype_get(s->dtype)->align, align_t = dtype_get(t->dtype)->align;

    if (align_s != align_t)
        return align_s < align_t ? 1 : -1;
    return strcmp(s->name, t->name);
}

static bool write_all(int fd, const void *data, size_t bytes, uint64_t offset, struct err *e)
{
    const char *p = data;

    while (bytes > 0) {
        ssize_t n = pwrite(fd, p, bytes, (off_t)offset);
        if (n <= 0)
            return err_sys(e, "writing");
        p += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return true;
}

/* One tensor's data, piece by piece, on several threads. */
struct filling {
    const struct v3_layout *l;
    const struct tensor *tensor;
    int fd;
    uint8_t **pieces; /* one per thread */
};

static bool write_piece(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct filling *f = ctx;
    uint64_t begin = job * V3_PIECE_BYTES, left = f->tensor->bytes - begin;
    size_t bytes = left < V3_PIECE_BYTES ? (size_t)left : V3_PIECE_BYTES;

    f->l->fill_piece(f->l->ctx, f->tensor, begin, f->pieces[worker], bytes);
    return write_all(f->fd, f->pieces[worker], bytes, f->tensor->offset + begin, e);
}

static bool write_pieces(const struct v3_layout *l, int fd, struct tensor *const *tensors, size_t count, struct err *e)
{
    unsigned threads = l->threads ? (unsigned)l->threads : pool_cpu_count();
    struct filling f = {.l = l, .fd = fd};
    bool ok = true;

    f.pieces = mem_alloc(threads * sizeof *f.pieces);
    for (unsigned i = 0; i < threads; i++)
        f.pieces[i] = mem_aligned(V3_PIECE_BYTES);
    for (size_t i = 0; i < count && ok; i++) {
        size_t pieces = (size_t)((tensors[i]->bytes + V3_PIECE_BYTES - 1) / V3_PIECE_BYTES);
        f.tensor = tensors[i];
        ok = pool_run(pieces < threads ? (unsigned)pieces + (pieces == 0) : threads, pieces, write_piece, &f, e) ||
             err_in(e, "tensor '%s'", tensors[i]->name);
    }
    for (unsigned i = 0; i < threads; i++)
        mem_free(f.pieces[i]);
    mem_free(f.pieces);
    return ok;
}

static bool write_data(const struct v3_layout *l, int fd, struct tensor *const *tensors, size_t count, struct err *e)
{
    if (l->fill_piece)
        return write_pieces(l, fd, tensors, count, e);
    for (size_t i = 0; l->fill && i < count; i++) {
        const struct tensor *t = tensors[i];
        void *data = mem_alloc(t->bytes ? t->bytes : 1);
        l->fill(l->ctx, t, data);
        bool ok = write_all(fd, data, t->bytes, t->offset, e);
        mem_free(data);
        if (!ok)
            return err_in(e, "tensor '%s'", t->name);
    }
    return true;
}

/* Not through struct output: that reserves the space, which is what a sparse file is to avoid. */
static bool write_shard(const struct v3_layout *l, const char *path, struct tensor **tensors, size_t count,
                        struct err *e)
{
    struct buf head = {0};
    uint64_t file_bytes = 0;
    int fd = -1;
    bool ok = false;

    qsort(tensors, count, sizeof *tensors, compare_in_file);
    if (!safetensors_layout(&head, tensors, count, &file_bytes, e))
        goto done;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, (off_t)file_bytes) != 0) {
        err_sys(e, "creating");
        goto done;
    }
    ok = write_all(fd, head.data, head.bytes, 0, e) && write_data(l, fd, tensors, count, e);
done:
    if (fd >= 0 && close(fd) != 0 && ok)
        ok = err_sys(e, "closing");
    buf_release(&head);
    return ok || err_in(e, "'%s'", path);
}

static char *shard_name(struct maker *m, uint64_t shard)
{
    return arena_printf(&m->arena, "model-%05" PRIu64 "-of-%06" PRIu64 ".safetensors", shard + 1, m->l->shards);
}

static bool write_shards(struct maker *m, const char *dir, struct err *e)
{
    struct tensor **pick = mem_alloc((m->count + 1) * sizeof *pick);
    bool ok = true;

    for (size_t i = 0, shard = 0; ok && i < m->count; shard++) {
        size_t n = 0;
        while (i < m->count && m->tensors[i].shard == shard)
            pick[n++] = &m->tensors[i++];
        ok = write_shard(m->l, path_join(&m->arena, dir, shard_name(m, shard)), pick, n, e);
    }
    mem_free(pick);
    return ok;
}

static bool write_index(struct maker *m, const char *dir, struct err *e)
{
    struct buf text = {0};
    struct json_writer w = {.out = &text};

    json_begin_object(&w, NULL);
    json_begin_object(&w, "metadata");
    json_put_u64(&w, "total_size", m->bytes);
    json_end(&w, '}');
    json_begin_object(&w, "weight_map");
    for (size_t i = 0; i < m->count; i++)
        json_put_string(&w, m->tensors[i].name, shard_name(m, m->tensors[i].shard));
    json_end(&w, '}');
    json_end(&w, '}');
    bool ok = file_write_whole(path_join(&m->arena, dir, "model.safetensors.index.json"), text.data, text.bytes, e);
    buf_release(&text);
    return ok;
}

static const char int4_config[] =
    "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", \"quantization_status\": "
    "\"compressed\", "
    "\"config_groups\": {\"group_0\": {\"targets\": [\"Linear\"], \"input_activations\": null, "
    "\"output_activations\": null, \"weights\": {\"num_bits\": 4, \"type\": \"int\", \"symmetric\": true, "
    "\"strategy\": \"group\", \"group_size\": 32, \"dynamic\": false, \"actorder\": null}}}, "
    "\"ignore\": [\"lm_head\", \"re:.*self_attn.*\", \"re:.*shared_experts.*\", "
    "\"re:.*mlp\\\\.(gate|up|gate_up|down)_proj.*\"], \"kv_cache_scheme\": null}";

static void put_config(struct json_writer *w, const struct v3_layout *l)
{
    json_begin_object(w, NULL);
    json_put_raw(w, "architectures", "[\"DeepseekV3ForCausalLM\"]");
    json_put_string(w, "model_type", "deepseek_v3");
    json_put_string(w, "torch_dtype", "bfloat16");
    json_put_u64(w, "vocab_size", l->vocab);
    json_put_u64(w, "hidden_size", l->hidden);
    json_put_u64(w, "num_hidden_layers", l->layers);
    json_put_u64(w, "num_nextn_predict_layers", l->mtp_layers);
    json_put_u64(w, "num_attention_heads", l->heads);
    json_put_u64(w, "num_key_value_heads", l->heads);
    json_put_u64(w, "q_lora_rank", l->q_rank);
    json_put_u64(w, "kv_lora_rank", l->kv_rank);
    json_put_u64(w, "qk_nope_head_dim", l->nope_dim);
    json_put_u64(w, "qk_rope_head_dim", l->rope_dim);
    json_put_u64(w, "v_head_dim", l->v_dim);
    json_put_u64(w, "intermediate_size", l->intermediate);
    json_put_u64(w, "moe_intermediate_size", l->moe_intermediate);
    json_put_u64(w, "n_routed_experts", l->experts);
    json_put_u64(w, "n_shared_experts", 1);
    json_put_u64(w, "num_experts_per_tok", l->experts_per_token);
    json_put_u64(w, "first_k_dense_replace", l->dense_layers);
    json_put_u64(w, "moe_layer_freq", 1);
    json_put_u64(w, "n_group", l->groups);
    json_put_u64(w, "topk_group", l->topk_groups);
    json_put_string(w, "topk_method", "noaux_tc");
    json_put_string(w, "scoring_func", "sigmoid");
    json_put_bool(w, "norm_topk_prob", true);
    json_put_double(w, "routed_scaling_factor", 2.5);
    json_put_string(w, "hidden_act", "silu");
    json_put_raw(w, "rms_norm_eps", "1e-06");
    json_put_u64(w, "rope_theta", 10000);
    json_put_raw(w, "rope_scaling",
                 "{\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, "
                 "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}");
    json_put_u64(w, "max_position_embeddings", 163840);
    json_put_bool(w, "attention_bias", false);
    json_put_bool(w, "tie_word_embeddings", false);
    json_put_u64(w, "bos_token_id", 0);
    json_put_u64(w, "eos_token_id", 1);
    if (l->store == V3_INT4)
        json_put_raw(w, "quantization_config", int4_config);
    if (l->store == V3_FP8)
        json_put_raw(w, "quantization_config",
                     "{\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\", "
                     "\"weight_block_size\": [128, 128]}");
    json_end(w, '}');
}

const char *v3_layout_config(const struct v3_layout *l, struct arena *a)
{
    struct buf text = {0};
    struct json_writer w = {.out = &text};

    put_config(&w, l);
    const char *config = arena_strdup(a, text.data);
    buf_release(&text);
    return config;
}

static bool write_config(struct maker *m, const char *dir, struct err *e)
{
    const char *config = m->l->config ? m->l->config : v3_layout_config(m->l, &m->arena);

    return file_write_whole(path_join(&m->arena, dir, "config.json"), config, strlen(config), e);
}

bool v3_layout_bytes(const struct v3_layout *l, uint64_t *bytes, struct err *e)
{
    struct maker m = {.l = l, .e = e, .ok = true};

    add_all(&m);
    *bytes = m.bytes;
    mem_free(m.tensors);
    arena_release(&m.arena);
    return m.ok;
}

bool v3_layout_write(const struct v3_layout *l, const char *dir, struct err *e)
{
    struct maker m = {.l = l, .e = e, .ok = true};
    bool ok = false;

    add_all(&m);
    if (!m.ok)
        goto done;
    if (l->shards == 0 || l->shards > m.count) {
        err_set(e, ERR_USAGE, "%" PRIu64 " shards for %zu tensors", l->shards, m.count);
        goto done;
    }
    give_shards(&m);
    ok = dir_make(dir, e) && write_shards(&m, dir, e) && write_index(&m, dir, e) && write_config(&m, dir, e);
done:
    mem_free(m.tensors);
    arena_release(&m.arena);
    return ok;
}
