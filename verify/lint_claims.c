/* config.json's quantization against the tensors. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/units.h"
#include "verify/lint.h"

#define LINES_MAX 20u /* of one kind; the rest is counted */
#define NAMES_MAX 3u  /* examples in a line */

/* One line for each (rule, group, claimed, stored), with the first weight as example. */
struct disagreement {
    enum rule_id rule;
    const char *group, *example;
    char claimed[SCHEME_TEXT], stored[SCHEME_TEXT];
    uint64_t count;
};

static void add_disagreement(struct disagreement *list, size_t *count, const struct disagreement *d)
{
    for (size_t i = 0; i < *count && i < LINES_MAX; i++)
        if (list[i].rule == d->rule && strcmp(list[i].group, d->group) == 0 &&
            strcmp(list[i].claimed, d->claimed) == 0 && strcmp(list[i].stored, d->stored) == 0) {
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

/* What the two say of a weight differs; how. */
static enum rule_id rule_of(const struct quant_claim *q, bool claimed, const struct weight *w)
{
    if (q->quant == QUANT_NONE)
        return RULE_QUANT_CONFIG_MISSING;
    return claimed && !is_plain(&w->stored) ? RULE_QUANT_CONFIG_MISMATCH : RULE_QUANT_IGNORE;
}

static bool find_disagreement(const struct lint *l, const struct weight *w, struct disagreement *d)
{
    struct scheme claimed = {0};
    bool quantized = quant_claim_find(l->claim, w, &claimed);

    if (quantized ? quant_claim_fits(&claimed, &w->stored) : is_plain(&w->stored))
        return false;
    *d = (struct disagreement){
        .rule = rule_of(l->claim, quantized, w), .group = role_get(w->id.role)->group, .example = w->name, .count = 1};
    snprintf(d->claimed, sizeof d->claimed, "not quantized");
    if (quantized)
        claim_words(&claimed, d->claimed);
    scheme_text(&w->stored, d->stored);
    return true;
}

static bool is_held_against(const struct weight *w)
{
    return w->id.role != ROLE_UNKNOWN && !w->broken;
}

static void check_storage(const struct lint *l)
{
    const struct weights *weights = &l->source->weights;
    struct disagreement list[LINES_MAX], d;
    size_t count = 0;

    for (size_t i = 0; i < weights->count; i++)
        if (is_held_against(&weights->items[i]) && find_disagreement(l, &weights->items[i], &d))
            add_disagreement(list, &count, &d);
    for (size_t i = 0; i < count && i < LINES_MAX; i++)
        findings_add(l->findings, list[i].rule,
                     "config.json says %s for %s: %" PRIu64 " weight%s stored as %s, first '%s'", list[i].claimed,
                     list[i].group, list[i].count, list[i].count == 1 ? " is" : "s are", list[i].stored,
                     list[i].example);
    if (count > LINES_MAX)
        findings_add(l->findings, RULE_QUANT_CONFIG_MISMATCH, "%zu more weight%s %s not stored as config.json says",
                     count - LINES_MAX, plural(count - LINES_MAX), is_are(count - LINES_MAX));
}

static void check_formats(const struct lint *l)
{
    const struct weights *weights = &l->source->weights;
    const struct weight *first = NULL;
    const char *format = NULL, *named = NULL;
    size_t count = 0;

    for (size_t i = 0; i < weights->count; i++) {
        const struct weight *w = &weights->items[i];
        if (!is_held_against(w) || quant_claim_format_fits(l->claim, w, &format))
            continue;
        if (count++ == 0) {
            first = w;
            named = format;
        }
    }
    char stored[SCHEME_TEXT];
    if (count > 0)
        findings_add(l->findings, RULE_QUANT_FORMAT,
                     "quantization_config names format '%s' for %zu weight%s, the first of which is %s: '%s'",
                     named ? named : "", count, plural(count), scheme_text(&first->stored, stored), first->name);
}

struct names {
    struct buf text;
    size_t count;
};

static void note_name(void *ctx, const char *name)
{
    struct names *n = ctx;

    if (n->count++ < NAMES_MAX)
        buf_printf(&n->text, "%s'%s'", n->text.bytes ? ", " : "", name);
}

static void check_ignored(const struct lint *l)
{
    struct names unmatched = {0};

    quant_claim_unmatched(l->claim, &l->source->weights, note_name, &unmatched);
    if (unmatched.count > 0)
        findings_add(l->findings, RULE_QUANT_IGNORE_UNMATCHED,
                     "the ignore list names %zu module%s that %s not there: %s%s", unmatched.count,
                     plural(unmatched.count), is_are(unmatched.count), unmatched.text.data,
                     unmatched.count > NAMES_MAX ? ", ..." : "");
    buf_release(&unmatched.text);
}

void lint_claims(const struct lint *l)
{
    const struct quant_claim *q = l->claim;

    /* Nothing to hold the tensors against, and said elsewhere. */
    if (!q || q->quant == QUANT_OTHER || (q->quant != QUANT_NONE && q->group_count == 0))
        return;
    check_storage(l);
    check_formats(l);
    check_ignored(l);
}
