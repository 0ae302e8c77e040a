#include "convert/recipe_private.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- does a rule speak about this weight? ---- */

static bool in_layers(const struct recipe_rule *rule, const struct arch *arch, int64_t layer)
{
    if (!rule->narrowed)
        return true;
    if (layer < 0)
        return false;
    if (rule->mtp && (uint64_t)layer >= arch->layers)
        return true;
    for (size_t i = 0; i < rule->range_count; i++)
        if ((uint64_t)layer >= rule->ranges[i].first && (uint64_t)layer <= rule->ranges[i].last)
            return true;
    return false;
}

static bool hits(const struct recipe_match *m, const struct weight *w)
{
    if (m->pattern.re)
        return pattern_match(&m->pattern, w->module);
    if (m->named != ROLE_COUNT)
        return m->named == w->id.role;
    return m->any || strcmp(m->group, role_get(w->id.role)->group) == 0;
}

/* The word of the rule that fits; the role's own name goes before all others, since it reaches further. */
static const struct recipe_match *find_hit(const struct recipe_rule *rule, const struct weight *w)
{
    const struct recipe_match *first = NULL;

    for (size_t i = 0; i < rule->match_count; i++) {
        const struct recipe_match *m = &rule->matches[i];
        if (!hits(m, w))
            continue;
        if (m->named != ROLE_COUNT)
            return m;
        if (!first)
            first = m;
    }
    return first;
}

static bool is_matrix(const struct weight *w)
{
    return w->parts[PART_CODES]->rank == 2;
}

/* What "*", a group or a pattern may not do, because it would do it by accident. */
static bool may_touch(const struct recipe_rule *rule, const struct recipe_match *hit, const struct weight *w)
{
    const struct role_info *role = role_get(w->id.role);
    bool named = hit->named == w->id.role;

    if (rule->keep)
        return true;
    if (!is_matrix(w))
        return named && w->stored.kind == SCHEME_PLAIN && rule->scheme.kind == SCHEME_PLAIN;
    if (role->exact || (scheme_quantizes(&rule->scheme) && !role->quantizable))
        return named;
    return true;
}

/* ---- from the rule's scheme to this weight's ---- */

/* The source's codes are already what the target wants, names of tensors and dtype of scales aside. */
static bool same_codes(const struct scheme *to, const struct weight *w)
{
    const struct scheme *from = &w->stored;

    if (to->kind != from->kind)
        return false;
    switch (to->kind) {
    case SCHEME_PLAIN:
        return to->dtype == from->dtype;
    case SCHEME_FP8_BLOCK:
        if (to->block_rows != from->block_rows || to->block_cols != from->block_cols)
            return false;
        /* compressed-tensors readers know no E8M0 scales. */
        if (to->compressed_tensors && from->scale == SCALE_E8M0)
            return false;
        /* That F32 scales are powers of two is what config.json says; in V3.1's o_proj they are not. So they are
         * looked at one by one, and blocks of which it is true stay as they are. */
        return to->scale == SCALE_F32 || (to->scale == SCALE_E8M0 && from->scale == SCALE_E8M0);
    case SCHEME_FP8_CHANNEL:
        return true;
    case SCHEME_INT4:
        return to->group_cols == from->group_cols && to->asymmetric == from->asymmetric;
    case SCHEME_FP8_TENSOR:
        return w->input_scale != NULL;
    case SCHEME_RAW:
    case SCHEME_KIND_COUNT:
        break;
    }
    return false;
}

static struct scheme resolve(struct scheme to, const struct weight *w)
{
    struct scheme copied = w->stored;

    if (!same_codes(&to, w))
        return to;
    copied.method = METHOD_COPY;
    if (copied.kind == SCHEME_FP8_BLOCK)
        copied.compressed_tensors = to.compressed_tensors;
    return copied;
}

static bool keep(struct choice *out, const struct weight *w, const char *why)
{
    out->scheme = w->stored;
    out->scheme.method = METHOD_COPY;
    out->why = why;
    return true;
}

static bool group_fits(uint32_t group_cols, uint64_t cols)
{
    return group_cols == 0 || cols % group_cols == 0;
}

static bool is_routed_expert(enum role role)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_DOWN;
}

/* Engines take all experts of a layer for one scheme, so an expert cannot step aside to BF16. */
static bool refuse_expert(const struct weight *w, uint32_t group_cols, struct err *e)
{
    static const uint32_t groups[] = {32, 64, 128};
    char fitting[32] = "";

    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
        if (group_fits(groups[i], w->cols))
            snprintf(fitting + strlen(fitting), sizeof fitting - strlen(fitting), "%u, ", groups[i]);
    return err_set(e, ERR_UNSUPPORTED,
                   "'%s' is %" PRIu64 " wide, which groups of %u do not divide; groups that fit: %schannel", w->module,
                   w->cols, group_cols, fitting);
}

static bool apply(const struct recipe_rule *rule, size_t number, const struct recipe_match *hit, struct arena *a,
                  const struct weight *w, struct choice *out, struct err *e)
{
    struct scheme to = rule->scheme;

    out->why = arena_printf(a, "rule %zu: %s", number, hit->text);
    if (to.kind == SCHEME_INT4 && !group_fits(to.group_cols, w->cols)) {
        if (is_routed_expert(w->id.role))
            return refuse_expert(w, to.group_cols, e);
        out->fell_back = true;
        out->why = arena_printf(a, "group %u does not divide %" PRIu64 ": BF16", to.group_cols, w->cols);
        to = (struct scheme){.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16, .method = METHOD_ROUND};
    }
    out->scheme = resolve(to, w);
    return true;
}

static const char *why_kept(const struct recipe_rule *rule, size_t number, const struct recipe_match *hit,
                            struct arena *a, const struct weight *w)
{
    const struct role_info *role = role_get(w->id.role);

    if (role->exact)
        return arena_printf(a, "kept: %s", role->name);
    if (!is_matrix(w))
        return "kept: not a matrix";
    if (rule->implicit)
        return "kept: no rule changes it";
    return arena_printf(a, "rule %zu: %s", number, hit->text);
}

bool recipe_choose(const struct recipe *r, struct arena *a, const struct arch *arch, const struct weight *w,
                   struct choice *out, struct err *e)
{
    *out = (struct choice){0};
    if (w->id.role == ROLE_UNKNOWN)
        return keep(out, w, "kept: unknown role");
    if (w->stored.kind == SCHEME_RAW)
        return keep(out, w, "kept: no arithmetic on its dtype");
    for (size_t i = 0;; i++) {
        assert(i < r->rule_count); /* the last rule keeps everything */
        const struct recipe_rule *rule = &r->rules[i];
        const struct recipe_match *hit = in_layers(rule, arch, w->id.layer) ? find_hit(rule, w) : NULL;
        if (!hit || !may_touch(rule, hit, w))
            continue;
        if (rule->keep)
            return keep(out, w, why_kept(rule, i + 1, hit, a, w));
        return apply(rule, i + 1, hit, a, w, out, e);
    }
}
