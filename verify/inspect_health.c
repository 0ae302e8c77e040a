/* What is wrong with a checkpoint, as far as headers tell. Most of it loads
 * without a word in some engine and answers nonsense afterwards. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/engine.h"
#include "formats/safetensors.h"
#include "verify/inspect.h"

#define LINES_MAX  20u /* of one kind of finding; the rest is counted */
#define NAMES_MAX  3u  /* examples in a line */
#define RANGES_MAX 8u

static const struct weight *weight_at(const struct inspection *in, size_t i)
{
    return &in->source->weights.items[i];
}

static size_t weight_count(const struct inspection *in)
{
    return in->source->weights.count;
}

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/* ---- weights that config.json promises ---- */

struct promise {
    const struct inspection *in;
    const char *prefix;
    struct buf missing; /* "self_attn.q_a_proj.weight, mlp.experts 3-6" */
    uint64_t expected, missing_count;
    size_t named;
};

static bool is_stored(const struct promise *p, const char *name)
{
    return weights_find(&p->in->source->weights, name) != NULL;
}

static void name_missing(struct promise *p, const char *text)
{
    if (p->named < RANGES_MAX)
        buf_printf(&p->missing, "%s%s", p->named ? ", " : "", text);
    else if (p->named == RANGES_MAX)
        buf_puts(&p->missing, ", ...");
    p->named++;
}

static void promise(struct promise *p, uint64_t layer, const char *name)
{
    char full[256];

    snprintf(full, sizeof full, "%smodel.layers.%" PRIu64 ".%s", p->prefix, layer, name);
    p->expected++;
    if (is_stored(p, full))
        return;
    p->missing_count++;
    name_missing(p, name);
}

static unsigned missing_of_expert(const struct promise *p, uint64_t layer, uint64_t expert)
{
    static const char *const matrices[] = {"gate_proj", "up_proj", "down_proj"};
    char full[256];
    unsigned missing = 0;

    for (size_t i = 0; i < 3; i++) {
        snprintf(full, sizeof full, "%smodel.layers.%" PRIu64 ".mlp.experts.%" PRIu64 ".%s.weight", p->prefix, layer,
                 expert, matrices[i]);
        missing += !is_stored(p, full);
    }
    return missing;
}

static void promise_experts(struct promise *p, uint64_t layer)
{
    uint64_t experts = p->in->source->arch.experts, begin = 0;
    char text[80];
    bool open = false;

    p->expected += 3 * experts;
    for (uint64_t x = 0; x <= experts; x++) {
        unsigned missing = x < experts ? missing_of_expert(p, layer, x) : 0;
        p->missing_count += missing;
        if (missing && !open)
            begin = x;
        if (!missing && open) {
            if (x - begin == 1)
                snprintf(text, sizeof text, "mlp.experts.%" PRIu64, begin);
            else
                snprintf(text, sizeof text, "mlp.experts.%" PRIu64 "-%" PRIu64, begin, x - 1);
            name_missing(p, text);
        }
        open = missing > 0;
    }
}

static void promise_layer(struct promise *p, uint64_t layer)
{
    static const char *const always[] = {
        "input_layernorm.weight",          "post_attention_layernorm.weight", "self_attn.kv_a_proj_with_mqa.weight",
        "self_attn.kv_a_layernorm.weight", "self_attn.kv_b_proj.weight",      "self_attn.o_proj.weight"};
    static const char *const low_rank_q[] = {"self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight",
                                             "self_attn.q_b_proj.weight"};
    static const char *const dense[] = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"};
    static const char *const shared[] = {"mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight",
                                         "mlp.shared_experts.down_proj.weight"};
    /* Not the copies of embedding and head: GLM leaves them out, engines use the main ones. */
    static const char *const mtp[] = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"};
    const struct arch *a = &p->in->source->arch;

    for (size_t i = 0; i < 6; i++)
        promise(p, layer, always[i]);
    for (size_t i = 0; a->q_lora_rank && i < 3; i++)
        promise(p, layer, low_rank_q[i]);
    if (!a->q_lora_rank)
        promise(p, layer, "self_attn.q_proj.weight");
    if (arch_is_moe_layer(a, layer)) {
        promise(p, layer, "mlp.gate.weight");
        if (a->topk == TOPK_NOAUX_TC)
            promise(p, layer, "mlp.gate.e_score_correction_bias");
        promise_experts(p, layer);
        for (size_t i = 0; a->shared_experts && i < 3; i++)
            promise(p, layer, shared[i]);
    } else {
        for (size_t i = 0; i < 3; i++)
            promise(p, layer, dense[i]);
    }
    for (size_t i = 0; layer >= a->layers && i < 4; i++)
        promise(p, layer, mtp[i]);
}

static void check_top(struct inspection *in, const struct promise *p)
{
    static const char *const top[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
    char full[256];

    for (size_t i = 0; i < 3; i++) {
        if (i == 2 && in->source->arch.tied_embeddings)
            continue;
        snprintf(full, sizeof full, "%s%s", p->prefix, top[i]);
        if (!is_stored(p, full))
            inspect_find(in, INSPECT_ERROR, "'%s' is missing", full);
    }
}

static void check_promises(struct inspection *in)
{
    const struct arch *a = &in->source->arch;
    uint64_t stored_layers = arch_layers_stored(a), bad = 0;
    uint64_t *present = mem_alloc((stored_layers + 1) * sizeof *present);
    struct promise p = {.in = in, .prefix = ""};

    if (is_stored(&p, "language_model.model.embed_tokens.weight") || is_stored(&p, "language_model.model.norm.weight"))
        p.prefix = "language_model.";
    check_top(in, &p);
    for (size_t i = 0; i < weight_count(in); i++)
        if (weight_at(in, i)->id.layer >= 0 && (uint64_t)weight_at(in, i)->id.layer < stored_layers)
            present[weight_at(in, i)->id.layer]++;
    for (uint64_t l = 0; l < stored_layers; l++) {
        p.expected = p.missing_count = p.named = 0;
        buf_release(&p.missing);
        if (present[l] == 0 && l >= a->layers)
            continue; /* said by check_mtp */
        if (present[l])
            promise_layer(&p, l);
        if (present[l] && p.missing_count == 0)
            continue;
        if (bad++ >= LINES_MAX)
            continue;
        if (present[l] == 0)
            inspect_find(in, INSPECT_ERROR, "layer %" PRIu64 " is missing altogether", l);
        else
            inspect_find(in, INSPECT_ERROR, "layer %" PRIu64 " lacks %" PRIu64 " of its %" PRIu64 " weights: %s", l,
                         p.missing_count, p.expected, p.missing.data);
    }
    if (bad > LINES_MAX)
        inspect_find(in, INSPECT_ERROR, "%" PRIu64 " more layers lack weights", bad - LINES_MAX);
    buf_release(&p.missing);
    mem_free(present);
}

/* ---- MTP and unknown names ---- */

/* The layer in "...layers.61.self_attn..."; -1 when there is none. */
static int64_t layer_in_name(const char *name)
{
    const char *at = strstr(name, "layers.");

    if (!at || at[7] < '0' || at[7] > '9')
        return -1;
    return (int64_t)(strtoull(at + 7, NULL, 10) & INT64_MAX);
}

static void check_mtp(struct inspection *in)
{
    const struct arch *a = &in->source->arch;
    uint64_t beyond = 0, lowest = UINT64_MAX;

    for (size_t i = 0; i < weight_count(in); i++) {
        const struct weight *w = weight_at(in, i);
        int64_t layer = w->id.role == ROLE_UNKNOWN ? layer_in_name(w->name) : -1;
        if (layer < 0 || (uint64_t)layer < arch_layers_stored(a))
            continue;
        beyond++;
        lowest = (uint64_t)layer < lowest ? (uint64_t)layer : lowest;
    }
    if (in->mtp_layers_stored < a->mtp_layers)
        inspect_find(in, INSPECT_ERROR,
                     "config.json declares %" PRIu64 " MTP layer%s (num_nextn_predict_layers), %" PRIu64
                     " of them stored: speculative decoding would run on uninitialized weights",
                     a->mtp_layers, plural(a->mtp_layers), in->mtp_layers_stored);
    if (beyond)
        inspect_find(in, INSPECT_WARNING,
                     "layer %" PRIu64 " and up: %" PRIu64 " weight%s past the %" PRIu64 " layers and %" PRIu64
                     " MTP layers that config.json declares; engines ignore or refuse them",
                     lowest, beyond, plural(beyond), a->layers, a->mtp_layers);
}

static void check_unknown(struct inspection *in)
{
    struct buf names = {0};
    uint64_t unknown = 0, caches = 0;

    for (size_t i = 0; i < weight_count(in); i++) {
        const struct weight *w = weight_at(in, i);
        if (w->id.role == ROLE_ROPE_CACHE)
            caches++;
        if (w->id.role != ROLE_UNKNOWN || layer_in_name(w->name) >= (int64_t)arch_layers_stored(&in->source->arch))
            continue;
        if (unknown++ < NAMES_MAX)
            buf_printf(&names, "%s'%s'", names.bytes ? ", " : "", w->name);
    }
    if (unknown)
        inspect_find(in, INSPECT_WARNING, "%" PRIu64 " tensor%s of unknown role: %s%s", unknown, plural(unknown),
                     names.data, unknown > NAMES_MAX ? ", ..." : "");
    if (caches)
        inspect_find(in, INSPECT_NOTE,
                     "%" PRIu64 " rotary_emb.inv_freq tensor%s: stale caches that engines compute themselves", caches,
                     plural(caches));
    buf_release(&names);
}

/* ---- config.json's quantization against the tensors ---- */

/* One line for each (group, claimed, stored), with the first weight as example. */
struct disagreement {
    const char *group, *example;
    char claimed[SCHEME_TEXT], stored[SCHEME_TEXT];
    uint64_t count;
};

static void add_disagreement(struct disagreement *list, size_t *count, const struct disagreement *d)
{
    for (size_t i = 0; i < *count && i < LINES_MAX; i++)
        if (strcmp(list[i].group, d->group) == 0 && strcmp(list[i].claimed, d->claimed) == 0 &&
            strcmp(list[i].stored, d->stored) == 0) {
            list[i].count++;
            return;
        }
    if (*count < LINES_MAX)
        list[*count] = *d;
    ++*count;
}

/* config.json's words need no dtype: these are the fields a claim has. */
static void claim_words(const struct scheme *s, char text[SCHEME_TEXT])
{
    struct scheme full = *s;

    full.dtype = s->kind == SCHEME_INT4 ? DTYPE_I32 : DTYPE_F8_E4M3;
    full.scale = s->kind == SCHEME_INT4 ? SCALE_BF16 : SCALE_F32;
    if (s->kind == SCHEME_RAW)
        snprintf(text, SCHEME_TEXT, "a scheme not known here");
    else
        scheme_text(&full, text);
}

static bool is_plain(const struct scheme *s)
{
    return s->kind == SCHEME_PLAIN || s->kind == SCHEME_RAW;
}

static void check_claims(struct inspection *in)
{
    struct disagreement list[LINES_MAX];
    size_t count = 0;

    if (in->claim.quant == QUANT_OTHER || (in->claim.quant != QUANT_NONE && in->claim.group_count == 0))
        return; /* nothing to hold the tensors against, and said elsewhere */
    for (size_t i = 0; i < weight_count(in); i++) {
        const struct weight *w = weight_at(in, i);
        struct scheme claimed = {0};
        bool quantized = quant_claim_find(&in->claim, w, &claimed);
        if (w->id.role == ROLE_UNKNOWN || (quantized ? quant_claim_fits(&claimed, &w->stored) : is_plain(&w->stored)))
            continue;
        struct disagreement d = {.group = role_get(w->id.role)->group, .example = w->name, .count = 1};
        snprintf(d.claimed, sizeof d.claimed, "not quantized");
        if (quantized)
            claim_words(&claimed, d.claimed);
        scheme_text(&w->stored, d.stored);
        add_disagreement(list, &count, &d);
    }
    for (size_t i = 0; i < count && i < LINES_MAX; i++)
        inspect_find(in, INSPECT_ERROR, "config.json says %s for %s: %" PRIu64 " weight%s stored as %s, first '%s'",
                     list[i].claimed, list[i].group, list[i].count, list[i].count == 1 ? " is" : "s are",
                     list[i].stored, list[i].example);
    if (count > LINES_MAX)
        inspect_find(in, INSPECT_ERROR, "%zu more weights are not stored as config.json says", count - LINES_MAX);
}

/* ---- dtypes that must not be narrowed ---- */

struct dtype_check {
    const char *what, *why;
    enum inspect_severity severity;
    uint64_t count;
    const struct weight *first;
};

static void note_dtype(struct dtype_check *c, const struct weight *w)
{
    if (c->count++ == 0)
        c->first = w;
}

static void check_dtypes(struct inspection *in)
{
    struct dtype_check bias = {"router correction bias", "experts near the threshold are chosen differently",
                               INSPECT_ERROR, 0, NULL};
    struct dtype_check router = {"router", "engines build it without quantization", INSPECT_ERROR, 0, NULL};
    struct dtype_check norm = {"norm", "published files have BF16 or F32", INSPECT_WARNING, 0, NULL};
    struct dtype_check *const all[] = {&bias, &router, &norm};
    uint64_t norms_f32 = 0, norms_bf16 = 0;
    char stored[SCHEME_TEXT];

    for (size_t i = 0; i < weight_count(in); i++) {
        const struct weight *w = weight_at(in, i);
        enum dtype_id dtype = w->stored.kind == SCHEME_PLAIN ? w->stored.dtype : DTYPE_NONE;
        bool is_norm = w->id.role == ROLE_NORM || w->id.role == ROLE_MTP_NORM;
        if (w->id.role == ROLE_ROUTER_BIAS && dtype != DTYPE_F32)
            note_dtype(&bias, w);
        if (w->id.role == ROLE_ROUTER && dtype != DTYPE_F32 && dtype != DTYPE_BF16 && dtype != DTYPE_F16)
            note_dtype(&router, w);
        if (is_norm && dtype != DTYPE_F32 && dtype != DTYPE_BF16)
            note_dtype(&norm, w);
        norms_f32 += is_norm && dtype == DTYPE_F32;
        norms_bf16 += is_norm && dtype == DTYPE_BF16;
    }
    for (size_t i = 0; i < 3; i++)
        if (all[i]->count)
            inspect_find(in, all[i]->severity, "%s stored as %s in %" PRIu64 " weight%s, first '%s': %s", all[i]->what,
                         scheme_text(&all[i]->first->stored, stored), all[i]->count, plural(all[i]->count),
                         all[i]->first->name, all[i]->why);
    /* The indexer's LayerNorm is F32 where the other norms are BF16 in no published file. */
    if (norms_f32 && norms_bf16)
        inspect_find(in, INSPECT_NOTE, "%" PRIu64 " norms are F32 and %" PRIu64 " BF16", norms_f32, norms_bf16);
}

/* ---- files ---- */

static void check_files(struct inspection *in)
{
    const struct checkpoint *c = &in->source->checkpoint;
    const struct tensor *first = NULL;
    uint64_t misaligned = 0;

    for (size_t i = 0; i < c->note_count; i++)
        inspect_find(in, INSPECT_NOTE, "%s", c->notes[i].text);
    for (size_t i = 0; i < c->shard_count; i++)
        if (c->shards[i].data_offset > 8u + SAFETENSORS_HEADER_BYTES_HUB)
            inspect_find(in, INSPECT_WARNING, "'%s' has a header of %" PRIu64 " bytes; the hub reads up to %u",
                         c->shards[i].name, c->shards[i].data_offset - 8, SAFETENSORS_HEADER_BYTES_HUB);
    for (size_t i = 0; i < c->tensor_count; i++) {
        uint32_t align = dtype_get(c->tensors[i].dtype)->align;
        if (align < 2 || c->tensors[i].offset % align == 0)
            continue;
        if (misaligned++ == 0)
            first = &c->tensors[i];
    }
    if (misaligned)
        inspect_find(in, INSPECT_NOTE, "%" PRIu64 " tensor%s not aligned to %s dtype, first '%s' (%s) at %" PRIu64,
                     misaligned, misaligned == 1 ? " is" : "s are", misaligned == 1 ? "its" : "their", first->name,
                     dtype_get(first->dtype)->name, first->offset);
}

/* ---- what engines demand ---- */

static void say_limit(void *ctx, const char *line)
{
    inspect_find(ctx, INSPECT_NOTE, "%s", line);
}

static void check_engines(struct inspection *in)
{
    struct engine_weight *list = mem_alloc((weight_count(in) + 1) * sizeof *list);
    struct err e = {0};
    size_t count = 0;

    for (size_t i = 0; i < weight_count(in); i++)
        if (weight_at(in, i)->id.role != ROLE_UNKNOWN)
            list[count++] = (struct engine_weight){weight_at(in, i), &weight_at(in, i)->stored};
    if (!engine_check_fused(list, count, &e))
        inspect_find(in, INSPECT_ERROR, "%s", e.text);
    engine_check_limits(list, count, say_limit, in);
    mem_free(list);
}

/* Errors first, in the order they were found. */
static void sort_findings(struct inspection *in)
{
    struct inspect_finding *sorted = mem_alloc((in->finding_count + 1) * sizeof *sorted);
    size_t n = 0;

    for (int s = INSPECT_ERROR; s >= INSPECT_NOTE; s--)
        for (size_t i = 0; i < in->finding_count; i++)
            if ((int)in->findings[i].severity == s)
                sorted[n++] = in->findings[i];
    mem_free(in->findings);
    in->findings = sorted;
    in->finding_room = n + 1;
}

void inspect_health(struct inspection *in)
{
    check_promises(in);
    check_mtp(in);
    check_unknown(in);
    check_claims(in);
    check_dtypes(in);
    check_engines(in);
    check_files(in);
    sort_findings(in);
}
