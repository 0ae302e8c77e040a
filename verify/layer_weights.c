#include "verify/layer_weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/units.h"
#include "quant/bits.h"
#include "quant/transform.h"

#define NAME_TEXT 160

struct finder {
    const struct source *source;
    int64_t layer; /* -1: none */
    struct err *e;
};

/* What checkpoints of Kimi-K2.5 put in front of every name. */
static const char *prefix(const struct source *s)
{
    return weights_find(&s->weights, "language_model.model.embed_tokens.weight") ? "language_model." : "";
}

static const struct weight *find(const struct finder *f, const char *module, const char *ending, bool required)
{
    char name[NAME_TEXT];

    if (f->layer >= 0)
        snprintf(name, sizeof name, "%smodel.layers.%" PRId64 ".%s%s", prefix(f->source), f->layer, module, ending);
    else
        snprintf(name, sizeof name, "%s%s%s", prefix(f->source), module, ending);
    const struct weight *w = weights_find(&f->source->weights, name);
    if (!w && required)
        err_set(f->e, ERR_FORMAT, "there is no '%s' in '%s'", name, f->source->checkpoint.path);
    return w;
}

static bool readable(const struct weight *w, struct err *e)
{
    return w->stored.kind != SCHEME_RAW ||
           err_set(e, ERR_UNSUPPORTED, "tensor '%s' is %s, which is no number a forward pass reads", w->name,
                   dtype_get(w->stored.dtype)->name);
}

/* A [rows, cols] matrix, or a vector when rows is 1. */
static bool take_named(const struct finder *f, const char *module, const char *ending, uint64_t rows, uint64_t cols,
                       const struct weight **out)
{
    *out = find(f, module, ending, true);
    if (!*out || !readable(*out, f->e))
        return false;
    if ((*out)->rows == rows && (*out)->cols == cols)
        return true;
    return err_set(f->e, ERR_FORMAT,
                   "tensor '%s' is [%" PRIu64 ", %" PRIu64 "], not the [%" PRIu64 ", %" PRIu64 "] that the model needs",
                   (*out)->name, (*out)->rows, (*out)->cols, rows, cols);
}

static bool take(const struct finder *f, const char *module, uint64_t rows, uint64_t cols, const struct weight **out)
{
    return take_named(f, module, ".weight", rows, cols, out);
}

/* Nothing released has them, and passing over them would give other numbers. */
static bool refuse_bias(const struct finder *f, const char *module)
{
    const struct weight *w = find(f, module, ".bias", false);

    return !w || err_set(f->e, ERR_UNSUPPORTED, "tensor '%s' is a bias, which the forward pass does not have", w->name);
}

static bool find_attention(struct layer_weights *l, const struct finder *f, const struct arch *a)
{
    static const char *const linears[] = {"q_proj",    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa",
                                          "kv_b_proj", "o_proj"};
    uint64_t d = a->hidden_size, heads = a->heads, q_rows = heads * (a->qk_nope_dim + a->qk_rope_dim);

    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++) {
        char module[NAME_TEXT];
        snprintf(module, sizeof module, "self_attn.%s", linears[i]);
        if (!refuse_bias(f, module))
            return false;
    }
    if (a->q_lora_rank == 0 && !take(f, "self_attn.q_proj", q_rows, d, &l->q_b))
        return false;
    if (a->q_lora_rank > 0 && (!take(f, "self_attn.q_a_proj", a->q_lora_rank, d, &l->q_a) ||
                               !take(f, "self_attn.q_a_layernorm", 1, a->q_lora_rank, &l->q_a_norm) ||
                               !take(f, "self_attn.q_b_proj", q_rows, a->q_lora_rank, &l->q_b)))
        return false;
    return take(f, "self_attn.kv_a_proj_with_mqa", a->kv_lora_rank + a->qk_rope_dim, d, &l->kv_a) &&
           take(f, "self_attn.kv_a_layernorm", 1, a->kv_lora_rank, &l->kv_a_norm) &&
           take(f, "self_attn.kv_b_proj", heads * (a->qk_nope_dim + a->v_dim), a->kv_lora_rank, &l->kv_b) &&
           take(f, "self_attn.o_proj", d, heads * a->v_dim, &l->o);
}

static bool find_mlp(const struct weight *mlp[MLP_PARTS], const struct finder *f, const char *module, uint64_t width)
{
    static const char *const names[MLP_PARTS] = {"gate_proj", "up_proj", "down_proj"};
    uint64_t d = f->source->arch.hidden_size;

    for (size_t i = 0; i < MLP_PARTS; i++) {
        char name[NAME_TEXT];
        snprintf(name, sizeof name, "%s.%s", module, names[i]);
        if (!take(f, name, i == MLP_DOWN ? d : width, i == MLP_DOWN ? width : d, &mlp[i]) || !refuse_bias(f, name))
            return false;
    }
    return true;
}

bool layer_expert(const struct source *s, uint64_t layer, uint64_t expert, const struct weight *mlp[MLP_PARTS],
                  struct err *e)
{
    struct finder f = {.source = s, .layer = (int64_t)layer, .e = e};
    char module[NAME_TEXT];

    snprintf(module, sizeof module, "mlp.experts.%" PRIu64, expert);
    return find_mlp(mlp, &f, module, s->arch.moe_intermediate_size);
}

static bool find_experts(struct layer_weights *l, const struct finder *f, const struct arch *a)
{
    const struct weight *mlp[MLP_PARTS];

    if (!take(f, "mlp.gate", a->experts, a->hidden_size, &l->router))
        return false;
    if (a->topk == TOPK_NOAUX_TC &&
        !take_named(f, "mlp.gate.e_score_correction_bias", "", 1, a->experts, &l->router_bias))
        return false;
    if (a->shared_experts > 0 &&
        !find_mlp(l->mlp, f, "mlp.shared_experts", a->moe_intermediate_size * a->shared_experts))
        return false;
    for (uint64_t i = a->experts; i-- > 0;)
        if (!layer_expert(f->source, (uint64_t)f->layer, i, mlp, f->e))
            return false;
    l->experts = mlp[MLP_GATE];
    return true;
}

bool layer_weights_find(struct layer_weights *l, const struct source *s, uint64_t layer, struct err *e)
{
    const struct arch *a = &s->arch;
    struct finder f = {.source = s, .layer = (int64_t)layer, .e = e};

    *l = (struct layer_weights){0};
    if (!take(&f, "input_layernorm", 1, a->hidden_size, &l->input_norm) ||
        !take(&f, "post_attention_layernorm", 1, a->hidden_size, &l->post_norm) || !find_attention(l, &f, a))
        return false;
    return arch_is_moe_layer(a, layer) ? find_experts(l, &f, a) : find_mlp(l->mlp, &f, "mlp", a->intermediate_size);
}

bool mtp_weights_find(struct mtp_weights *m, const struct source *s, const struct top_weights *top, uint64_t layer,
                      struct err *e)
{
    const struct arch *a = &s->arch;
    struct finder f = {.source = s, .layer = (int64_t)layer, .e = e};
    uint64_t d = a->hidden_size;

    *m = (struct mtp_weights){.embed = top->embed, .head = top->head};
    if (find(&f, "embed_tokens", ".weight", false) && !take(&f, "embed_tokens", a->vocab_size, d, &m->embed))
        return false;
    if (find(&f, "shared_head.head", ".weight", false) && !take(&f, "shared_head.head", a->vocab_size, d, &m->head))
        return false;
    return take(&f, "enorm", 1, d, &m->embed_norm) && take(&f, "hnorm", 1, d, &m->hidden_norm) &&
           take(&f, "eh_proj", d, 2 * d, &m->proj) && take(&f, "shared_head.norm", 1, d, &m->final_norm);
}

bool top_weights_find(struct top_weights *t, const struct source *s, struct err *e)
{
    const struct arch *a = &s->arch;
    struct finder f = {.source = s, .layer = -1, .e = e};

    if (!take(&f, "model.embed_tokens", a->vocab_size, a->hidden_size, &t->embed) ||
        !take(&f, "model.norm", 1, a->hidden_size, &t->norm))
        return false;
    if (a->tied_embeddings && !find(&f, "lm_head", ".weight", false)) {
        t->head = t->embed;
        return true;
    }
    return take(&f, "lm_head", a->vocab_size, a->hidden_size, &t->head) && refuse_bias(&f, "lm_head");
}

/* ---- loading ---- */

static size_t aligned(uint64_t bytes)
{
    return (size_t)(bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
}

static bool has_numbers(const struct weight *w, enum part part)
{
    return w->parts[part] && part != PART_SHAPE;
}

size_t weight_rows_memory_bytes(const struct weight *w, uint64_t count)
{
    uint64_t offset, bytes;
    size_t total = 0;

    for (enum part p = 0; p < PART_COUNT; p++)
        if (has_numbers(w, p)) {
            scheme_slice(&w->stored, p, w->rows, w->cols, 0, count, &offset, &bytes);
            total += aligned(bytes);
        }
    return total;
}

size_t weight_memory_bytes(const struct weight *w)
{
    return weight_rows_memory_bytes(w, w->rows);
}

bool weight_load_rows(const struct source *s, const struct weight *w, uint64_t row, uint64_t count, void *memory,
                      struct coded *out, struct err *e)
{
    uint8_t *at = memory;

    *out = (struct coded){.scheme = w->stored, .rows = count, .cols = w->cols};
    for (enum part p = 0; p < PART_COUNT; p++) {
        uint64_t offset, bytes;
        if (!has_numbers(w, p))
            continue;
        scheme_slice(&w->stored, p, w->rows, w->cols, row, count, &offset, &bytes);
        if (!checkpoint_read(&s->checkpoint, w->parts[p], offset, at, bytes, e))
            return false;
        out->parts.part[p] = at;
        at += aligned(bytes);
    }
    return true;
}

bool weight_load(const struct source *s, const struct weight *w, void *memory, struct coded *out, struct err *e)
{
    return weight_load_rows(s, w, 0, w->rows, memory, out, e);
}

void weight_expect(const struct source *s, const struct weight *w)
{
    for (enum part p = 0; p < PART_COUNT; p++)
        if (has_numbers(w, p))
            checkpoint_expect(&s->checkpoint, w->parts[p]);
}

bool weight_input_scale(const struct source *s, const struct weight *w, float *scale, struct err *e)
{
    const struct tensor *t = w->input_scale;
    uint16_t half = 0;
    uint32_t bits = 0;

    *scale = 0;
    if (!t)
        return true;
    if (tensor_elems(t) != 1 || (t->dtype != DTYPE_F32 && t->dtype != DTYPE_BF16))
        return err_broken(e, ERR_UNSUPPORTED, "scale-dtype",
                          "tensor '%s' is %" PRIu64 " number%s of %s, not one F32 or BF16", t->name, tensor_elems(t),
                          plural(tensor_elems(t)), dtype_get(t->dtype)->name);
    if (!checkpoint_read(&s->checkpoint, t, 0, t->dtype == DTYPE_F32 ? (void *)&bits : (void *)&half, t->bytes, e))
        return false;
    *scale = bits_float(t->dtype == DTYPE_F32 ? bits : (uint32_t)half << 16);
    return true;
}

size_t vector_memory_bytes(const struct weight *w)
{
    return weight_memory_bytes(w) + aligned(decode_scratch_bytes(&w->stored, w->cols));
}

bool vector_load(const struct source *s, const struct weight *w, void *memory, float *x, struct err *e)
{
    struct coded c;
    void *scratch = (uint8_t *)memory + weight_memory_bytes(w);

    if (!weight_load(s, w, memory, &c, e))
        return false;
    return decode_rows(kernel_get(), &c.scheme, 0, 1, 1, c.cols, &c.parts, x, scratch, e) ||
           err_in(e, "tensor '%s'", w->name);
}
