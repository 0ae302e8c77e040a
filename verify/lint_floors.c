/* What no recipe may narrow. By the type of the tensor itself, so that a part that does not even fit is found. */
#include <inttypes.h>

#include "formats/base/units.h"
#include "verify/lint.h"

struct floor {
    enum rule_id rule;
    const char *what, *why;
    bool (*broken)(enum role role, enum dtype_id dtype);
    uint64_t count;
    const struct weight *first;
};

static bool is_wide(enum dtype_id dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16;
}

static bool is_norm(enum role role)
{
    return role == ROLE_NORM || role == ROLE_MTP_NORM;
}

static bool bias_narrowed(enum role role, enum dtype_id dtype)
{
    return role == ROLE_ROUTER_BIAS && dtype != DTYPE_F32;
}

static bool router_quantized(enum role role, enum dtype_id dtype)
{
    return role == ROLE_ROUTER && !is_wide(dtype);
}

static bool norm_quantized(enum role role, enum dtype_id dtype)
{
    return is_norm(role) && !is_wide(dtype);
}

static bool norm_half(enum role role, enum dtype_id dtype)
{
    return is_norm(role) && dtype == DTYPE_F16;
}

static void look_at(struct floor *f, const struct weight *w)
{
    if (!f->broken(w->id.role, w->parts[PART_CODES]->dtype))
        return;
    if (f->count++ == 0)
        f->first = w;
}

static void say(const struct lint *l, const struct floor *f)
{
    char stored[SCHEME_TEXT];

    if (f->count > 0)
        findings_add(l->findings, f->rule, "%s stored as %s in %" PRIu64 " weight%s, first '%s': %s", f->what,
                     scheme_text(&f->first->stored, stored), f->count, plural(f->count), f->first->name, f->why);
}

void lint_floors(const struct lint *l)
{
    struct floor floors[] = {
        {RULE_ROUTER_BIAS_NARROWED, "router correction bias", "experts near the threshold are chosen differently",
         bias_narrowed, 0, NULL},
        {RULE_ROUTER_QUANTIZED, "router", "engines build it without quantization", router_quantized, 0, NULL},
        {RULE_NORM_QUANTIZED, "norm", "engines build it without quantization", norm_quantized, 0, NULL},
        {RULE_NORM_DTYPE, "norm", "published files have BF16 or F32", norm_half, 0, NULL},
    };
    const struct weights *weights = &l->source->weights;
    uint64_t norms_f32 = 0, norms_bf16 = 0;

    for (size_t i = 0; i < weights->count; i++) {
        const struct weight *w = &weights->items[i];
        for (size_t k = 0; k < sizeof floors / sizeof floors[0]; k++)
            look_at(&floors[k], w);
        norms_f32 += is_norm(w->id.role) && w->parts[PART_CODES]->dtype == DTYPE_F32;
        norms_bf16 += is_norm(w->id.role) && w->parts[PART_CODES]->dtype == DTYPE_BF16;
    }
    for (size_t k = 0; k < sizeof floors / sizeof floors[0]; k++)
        say(l, &floors[k]);
    /* The indexer's LayerNorm is F32 where the other norms are BF16 in no published file. */
    if (norms_f32 && norms_bf16)
        findings_add(l->findings, RULE_NORMS_MIXED, "%" PRIu64 " norm%s %s F32 and %" PRIu64 " BF16", norms_f32,
                     plural(norms_f32), is_are(norms_f32), norms_bf16);
}
