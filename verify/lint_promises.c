/* The weights that config.json promises, and no others. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/units.h"
#include "verify/lint.h"

#define NAMES_MAX  3u /* examples in a line */
#define RANGES_MAX 8u
#define LINES_MAX  20u /* layers that lack weights; the rest is counted */

static const struct weight *weight_at(const struct lint *l, size_t i)
{
    return &l->source->weights.items[i];
}

static size_t weight_count(const struct lint *l)
{
    return l->source->weights.count;
}

/* ---- weights that config.json promises ---- */

struct promise {
    const struct lint *l;
    const char *prefix;
    struct buf missing; /* "self_attn.q_a_proj.weight, mlp.experts 3-6" */
    uint64_t expected, missing_count;
    size_t named;
};

static bool is_stored(const struct promise *p, const char *name)
{
    return weights_find(&p->l->source->weights, name) != NULL;
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
    uint64_t experts = p->l->source->arch.experts, begin = 0;
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
    const struct arch *a = &p->l->source->arch;

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

static void check_top(const struct lint *l, const struct promise *p)
{
    static const char *const top[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
    char full[256];

    for (size_t i = 0; i < 3; i++) {
        bool tied = i == 2 && l->source->arch.tied_embeddings;
        snprintf(full, sizeof full, "%s%s", p->prefix, top[i]);
        if (tied && is_stored(p, full))
            findings_add(l->findings, RULE_HEAD_TIED,
                         "'%s' is stored, but config.json ties it to the embedding: engines ignore it", full);
        else if (!tied && !is_stored(p, full))
            findings_add(l->findings, RULE_WEIGHT_MISSING, "'%s' is missing", full);
    }
}

static void check_promises(const struct lint *l)
{
    const struct arch *a = &l->source->arch;
    uint64_t stored_layers = arch_layers_stored(a), bad = 0;
    uint64_t *present = mem_alloc((stored_layers + 1) * sizeof *present);
    struct promise p = {.l = l, .prefix = ""};

    if (is_stored(&p, "language_model.model.embed_tokens.weight") || is_stored(&p, "language_model.model.norm.weight"))
        p.prefix = "language_model.";
    check_top(l, &p);
    for (size_t i = 0; i < weight_count(l); i++)
        if (weight_at(l, i)->id.layer >= 0 && (uint64_t)weight_at(l, i)->id.layer < stored_layers)
            present[weight_at(l, i)->id.layer]++;
    for (uint64_t layer = 0; layer < stored_layers; layer++) {
        p.expected = p.missing_count = p.named = 0;
        buf_release(&p.missing);
        if (present[layer] == 0 && layer >= a->layers)
            continue; /* said by check_mtp */
        if (present[layer])
            promise_layer(&p, layer);
        if ((present[layer] && p.missing_count == 0) || bad++ >= LINES_MAX)
            continue;
        if (present[layer] == 0)
            findings_add(l->findings, RULE_WEIGHT_MISSING, "layer %" PRIu64 " is missing altogether", layer);
        else
            findings_add(l->findings, RULE_WEIGHT_MISSING,
                         "layer %" PRIu64 " lacks %" PRIu64 " of its %" PRIu64 " weights: %s", layer, p.missing_count,
                         p.expected, p.missing.data);
    }
    if (bad > LINES_MAX)
        findings_add(l->findings, RULE_WEIGHT_MISSING, "%" PRIu64 " more layer%s weights", bad - LINES_MAX,
                     bad - LINES_MAX == 1 ? " lacks" : "s lack");
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

static uint64_t mtp_layers_stored(const struct lint *l)
{
    const struct arch *a = &l->source->arch;
    uint64_t stored = 0;

    for (uint64_t layer = a->layers; layer < arch_layers_stored(a); layer++)
        for (size_t i = 0; i < weight_count(l); i++)
            if (weight_at(l, i)->id.layer == (int64_t)layer) {
                stored++;
                break;
            }
    return stored;
}

static void check_mtp(const struct lint *l)
{
    const struct arch *a = &l->source->arch;
    uint64_t stored = mtp_layers_stored(l), beyond = 0, lowest = UINT64_MAX;

    for (size_t i = 0; i < weight_count(l); i++) {
        const struct weight *w = weight_at(l, i);
        int64_t layer = w->id.role == ROLE_UNKNOWN ? layer_in_name(w->name) : -1;
        if (layer < 0 || (uint64_t)layer < arch_layers_stored(a))
            continue;
        beyond++;
        lowest = (uint64_t)layer < lowest ? (uint64_t)layer : lowest;
    }
    if (stored < a->mtp_layers)
        findings_add(l->findings, RULE_MTP_MISSING,
                     "config.json declares %" PRIu64 " MTP layer%s (num_nextn_predict_layers), %" PRIu64
                     " of them stored: speculative decoding would run on uninitialized weights",
                     a->mtp_layers, plural(a->mtp_layers), stored);
    if (beyond)
        findings_add(l->findings, RULE_MTP_UNDECLARED,
                     "layer %" PRIu64 " and up: %" PRIu64 " weight%s past the %" PRIu64 " layer%s and %" PRIu64
                     " MTP layer%s that config.json declares; engines ignore or refuse them",
                     lowest, beyond, plural(beyond), a->layers, plural(a->layers), a->mtp_layers,
                     plural(a->mtp_layers));
}

static void check_unknown(const struct lint *l)
{
    struct buf names = {0};
    uint64_t unknown = 0, caches = 0;

    for (size_t i = 0; i < weight_count(l); i++) {
        const struct weight *w = weight_at(l, i);
        if (w->id.role == ROLE_ROPE_CACHE)
            caches++;
        if (w->id.role != ROLE_UNKNOWN || layer_in_name(w->name) >= (int64_t)arch_layers_stored(&l->source->arch))
            continue;
        if (unknown++ < NAMES_MAX)
            buf_printf(&names, "%s'%s'", names.bytes ? ", " : "", w->name);
    }
    if (unknown)
        findings_add(l->findings, RULE_NAME_UNKNOWN, "%" PRIu64 " tensor%s of unknown role: %s%s", unknown,
                     plural(unknown), names.data, unknown > NAMES_MAX ? ", ..." : "");
    if (caches)
        findings_add(l->findings, RULE_ROPE_CACHE,
                     "%" PRIu64 " rotary_emb.inv_freq tensor%s: stale caches that engines compute themselves", caches,
                     plural(caches));
    buf_release(&names);
}

void lint_promises(const struct lint *l)
{
    check_promises(l);
    check_mtp(l);
    check_unknown(l);
}
