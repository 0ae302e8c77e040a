/* Static activation scales: there where config.json promises them, good numbers, and the same for what engines load as
 * one, since they take the largest of those. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/progress.h"
#include "formats/engine.h"
#include "quant/bits.h"
#include "verify/layer_weights.h"
#include "verify/lint_values.h"

/* ---- promised and there ---- */

struct tally {
    const struct weight *first;
    size_t count;
};

static void note(struct tally *t, const struct weight *w)
{
    if (t->count++ == 0)
        t->first = w;
}

void lint_static_claims(const struct lint *l)
{
    const struct weights *ws = &l->source->weights;
    struct tally missing = {0}, unused = {0};

    for (size_t i = 0; l->claim && i < ws->count; i++) {
        const struct weight *w = &ws->items[i];
        struct scheme claimed = {0};
        if (w->broken)
            continue;
        bool promised = quant_claim_find(l->claim, w, &claimed) && claimed.static_input;
        if (promised && !w->input_scale)
            note(&missing, w);
        if (!promised && w->input_scale)
            note(&unused, w);
    }
    if (missing.count > 0)
        findings_add(l->findings, RULE_INPUT_SCALE_MISSING,
                     "config.json promises static activation scales, and %zu weight%s none, first '%s'", missing.count,
                     missing.count == 1 ? " has" : "s have", missing.first->name);
    if (unused.count > 0)
        findings_add(l->findings, RULE_INPUT_SCALE_UNUSED,
                     "%zu weight%s a static activation scale that config.json does not speak of, first '%s'",
                     unused.count, unused.count == 1 ? " has" : "s have", unused.first->input_scale->name);
}

/* ---- numbers ---- */

static void check_number(const struct lint *l, const struct tensor *t, float scale)
{
    static const struct {
        enum rule_id rule;
        const char *is;
    } faults[] = {{RULE_SCALE_NAN, "NaN"},
                  {RULE_SCALE_INF, "infinite"},
                  {RULE_SCALE_ZERO, "zero"},
                  {RULE_SCALE_NEGATIVE, "negative"}};
    const bool broken[] = {isnan(scale), isinf(scale), scale == 0, scale < 0};

    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        if (broken[i]) {
            findings_add(l->findings, faults[i].rule, "tensor '%s': the static activation scale is %s", t->name,
                         faults[i].is);
            return;
        }
}

/* ---- one for what is loaded as one ---- */

enum split { SPLIT_INPUT, SPLIT_WEIGHT, SPLIT_COUNT };

static const char *const split_words[SPLIT_COUNT] = {
    [SPLIT_INPUT] = "static activation scales",
    [SPLIT_WEIGHT] = "per-tensor scales",
};

struct splits {
    const struct lint *l;
    float *inputs, *weights; /* of each weight; 0: none */
    size_t count[SPLIT_COUNT];
    const struct weight *first[SPLIT_COUNT][2];
};

static void hold(struct splits *s, enum split kind, const struct weight *a, const struct weight *b)
{
    const struct weight *items = s->l->source->weights.items;
    const float *scales = kind == SPLIT_INPUT ? s->inputs : s->weights;
    float x = scales[a - items], y = scales[b - items];

    if (x == 0 || y == 0 || float_bits(x) == float_bits(y))
        return;
    if (s->count[kind]++ > 0)
        return;
    s->first[kind][0] = a;
    s->first[kind][1] = b;
}

/* What is loaded as one under a key: the first with it, or w itself. */
static const struct weight *first_of(const struct splits *s, struct map *seen, const char *key, const struct weight *w)
{
    const struct weight *items = s->l->source->weights.items;
    size_t at = map_get(seen, key);

    if (at == MAP_NONE)
        map_put(seen, key, (size_t)(w - items));
    return at == MAP_NONE ? w : &items[at];
}

/* Gate with up, q_a_proj with kv_a_proj_with_mqa: of one layer, and of one expert. */
static void hold_pair(struct splits *s, struct map *seen, struct arena *names, const struct weight *w)
{
    enum role partner = engine_scale_partner(w->id.role);
    int low = (int)(w->id.role < partner ? w->id.role : partner);

    if (partner == ROLE_UNKNOWN)
        return;
    const char *key = arena_printf(names, "%" PRId64 " %d %" PRId64, w->id.layer, low, w->id.expert);
    const struct weight *first = first_of(s, seen, key, w);
    hold(s, SPLIT_WEIGHT, first, w);
    if (w->id.expert < 0)
        hold(s, SPLIT_INPUT, first, w);
}

/* All experts of a layer: one that gate and up share, and one of down. */
static void hold_experts(struct splits *s, struct map *seen, struct arena *names, const struct weight *w)
{
    if (w->id.expert >= 0)
        hold(s, SPLIT_INPUT,
             first_of(s, seen,
                      arena_printf(names, "%" PRId64 " %s", w->id.layer,
                                   w->id.role == ROLE_EXPERT_DOWN ? "down" : "gate, up"),
                      w),
             w);
}

static void find_splits(struct splits *s)
{
    const struct weights *ws = &s->l->source->weights;
    struct map seen = {0};
    struct arena names = {0};

    for (size_t i = 0; i < ws->count; i++) {
        const struct weight *w = &ws->items[i];
        if (w->broken || w->id.layer < 0 || (s->inputs[i] == 0 && s->weights[i] == 0))
            continue;
        hold_pair(s, &seen, &names, w);
        hold_experts(s, &seen, &names, w);
    }
    map_release(&seen);
    arena_release(&names);
}

static void report(const struct splits *s)
{
    for (enum split k = 0; k < SPLIT_COUNT; k++)
        if (s->count[k] > 0) {
            const struct weight *items = s->l->source->weights.items, *a = s->first[k][0], *b = s->first[k][1];
            const float *scales = k == SPLIT_INPUT ? s->inputs : s->weights;
            findings_add(s->l->findings, RULE_SCALE_SPLIT,
                         "%zu %s differ from those of matrices that engines load as one with theirs, first %g of '%s' "
                         "and %g of '%s'",
                         s->count[k], split_words[k], (double)scales[a - items], a->name, (double)scales[b - items],
                         b->name);
        }
}

static bool read_one(struct splits *s, size_t i, struct values_sum *sum, struct err *e)
{
    const struct weight *w = &s->l->source->weights.items[i];
    const struct tensor *scale = w->parts[PART_SCALE];
    struct err bad = {0};

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    if (w->stored.kind == SCHEME_FP8_TENSOR && w->stored.scale == SCALE_F32 &&
        !checkpoint_read(&s->l->source->checkpoint, scale, 0, &s->weights[i], sizeof s->weights[i], e))
        return false;
    if (!w->input_scale)
        return true;
    if (!weight_input_scale(s->l->source, w, &s->inputs[i], &bad)) {
        if (bad.code == ERR_IO) {
            *e = bad;
            return false;
        }
        findings_add(s->l->findings, RULE_SCALE_DTYPE, "%s", bad.text);
        return true;
    }
    check_number(s->l, w->input_scale, s->inputs[i]);
    sum->scales++;
    sum->read_bytes += w->input_scale->bytes;
    return true;
}

bool lint_static_scales(const struct lint *l, struct values_sum *sum, struct err *e)
{
    size_t count = l->source->weights.count;
    struct splits s = {.l = l,
                       .inputs = mem_alloc((count + 1) * sizeof *s.inputs),
                       .weights = mem_alloc((count + 1) * sizeof *s.weights)};
    bool ok = true;

    for (size_t i = 0; i < count && ok; i++)
        ok = l->source->weights.items[i].broken || read_one(&s, i, sum, e);
    if (ok) {
        find_splits(&s);
        report(&s);
    }
    mem_free(s.inputs);
    mem_free(s.weights);
    return ok;
}
