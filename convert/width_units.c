#include "convert/width_units.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/engine.h"

#define BIT(role) (UINT64_C(1) << (role))

static_assert(CALIB_SCHEME_COUNT <= ALLOCATE_OPTIONS_MAX, "a unit has an option for each scheme");

struct scheme width_scheme(enum calib_scheme s)
{
    struct scheme scheme = calib_scheme_get(s);

    scheme.shape_i64 = scheme.kind == SCHEME_INT4;
    scheme.compressed_tensors = scheme.kind == SCHEME_FP8_BLOCK;
    return scheme;
}

/* ---- which weights, and in which units ---- */

struct work {
    struct width_units *units;
    const struct recipe *base;
    const struct source *source;
    const struct calib_stats *stats;
    bool split;
    uint64_t layers;                /* the first MTP layer included */
    uint32_t (*number)[ROLE_COUNT]; /* [layers]: of the unit that a role leads, plus 1; later of all its roles */
    bool (*left_out)[ROLE_COUNT];   /* [layers]: has weights that are not chosen for */
};

static bool is_linear_weight(const struct weight *w)
{
    return (w->id.part == NAME_WEIGHT || w->id.part == NAME_PACKED) && w->id.role >= ROLE_Q_PROJ &&
           w->id.role <= ROLE_EXPERT_DOWN;
}

static bool is_chosen_for(const struct scheme *s)
{
    return s->kind == SCHEME_INT4 && s->method == METHOD_LDLQ && !s->asymmetric;
}

static enum role leader_of(const struct work *k, enum role role)
{
    return k->split && role == ROLE_EXPERT_DOWN ? role : engine_fused_leader(role);
}

static bool add_to_unit(struct work *k, const struct weight *w, const struct scheme *s, struct err *e)
{
    struct width_units *u = k->units;
    uint32_t *number = &k->number[w->id.layer][leader_of(k, w->id.role)];

    if (*number == 0) {
        u->items[u->count] = (struct width_unit){.layer = (uint64_t)w->id.layer, .positive_scales = s->positive_scales};
        *number = (uint32_t)++u->count;
    }
    struct width_unit *unit = &u->items[*number - 1];
    if (unit->positive_scales != s->positive_scales)
        return err_set(e, ERR_UNSUPPORTED, "'%s' differs in 'positive_scales' from what engines load with it",
                       w->module);
    unit->roles |= BIT(w->id.role);
    return true;
}

static void add_bytes(struct allocate_unit *a, const struct weight *w)
{
    a->weights += w->rows * w->cols;
    for (enum calib_scheme s = 0; s < CALIB_SCHEME_COUNT; s++) {
        struct scheme scheme = width_scheme(s);
        struct part_layout parts[PART_COUNT];
        struct err refused = {0};
        if (scheme_layout(&scheme, w->rows, w->cols, parts, &refused))
            a->options[s].bytes += parts[PART_CODES].bytes + parts[PART_SCALE].bytes + parts[PART_ZERO_POINT].bytes;
        else
            a->options[s].loss = INFINITY; /* a group that does not divide the width */
    }
}

/* Two passes over the source's weights: which units there are, then what is in them. */
static bool list_units(struct work *k, struct err *e)
{
    const struct source *s = k->source;
    struct arena scratch = {0};
    bool ok = true;

    for (size_t i = 0; i < s->weights.count && ok; i++) {
        const struct weight *w = &s->weights.items[i];
        struct choice choice;
        if (!is_linear_weight(w) || (uint64_t)w->id.layer >= k->layers)
            continue;
        ok = recipe_choose(k->base, &scratch, &s->arch, w, &choice, e);
        if (ok && is_chosen_for(&choice.scheme))
            ok = add_to_unit(k, w, &choice.scheme, e);
        else if (ok)
            k->left_out[w->id.layer][w->id.role] = true;
    }
    arena_release(&scratch);
    return ok &&
           (k->units->count > 0 ||
            err_set(e, ERR_UNSUPPORTED, "it rounds nothing to int4 by ldlq, and only of that are the widths chosen"));
}

static int compare_units(const void *a, const void *b)
{
    const struct width_unit *x = a, *y = b;

    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return __builtin_ctzll(x->roles) - __builtin_ctzll(y->roles);
}

static bool number_roles(struct work *k, struct err *e)
{
    struct width_units *u = k->units;

    qsort(u->items, u->count, sizeof *u->items, compare_units);
    memset(k->number, 0, k->layers * sizeof *k->number);
    for (size_t i = 0; i < u->count; i++)
        for (enum role role = 0; role < ROLE_COUNT; role++) {
            if (!(u->items[i].roles & BIT(role)))
                continue;
            k->number[u->items[i].layer][role] = (uint32_t)i + 1;
            if (k->left_out[u->items[i].layer][role])
                return err_set(e, ERR_UNSUPPORTED,
                               "it rounds some of layer %" PRIu64 "'s '%s' to int4 by ldlq and others not; widths are "
                               "chosen for all of a layer together",
                               u->items[i].layer, role_get(role)->name);
        }
    return true;
}

static void measure_units(struct work *k)
{
    const struct source *s = k->source;

    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        if (is_linear_weight(w) && (uint64_t)w->id.layer < k->layers && k->number[w->id.layer][w->id.role] > 0)
            add_bytes(&k->units->allocate[k->number[w->id.layer][w->id.role] - 1], w);
    }
}

/* ---- losses ---- */

/* Where what a matrix gives ends in the hidden state. */
static enum role last_of(enum role role)
{
    switch ((int)role) {
    case ROLE_DENSE_GATE:
    case ROLE_DENSE_UP:
    case ROLE_DENSE_DOWN:
        return ROLE_DENSE_DOWN;
    case ROLE_SHARED_GATE:
    case ROLE_SHARED_UP:
    case ROLE_SHARED_DOWN:
        return ROLE_SHARED_DOWN;
    case ROLE_EXPERT_GATE:
    case ROLE_EXPERT_UP:
    case ROLE_EXPERT_DOWN:
        return ROLE_EXPERT_DOWN;
    default:
        return ROLE_O_PROJ;
    }
}

static bool is_expert(enum role role)
{
    return last_of(role) == ROLE_EXPERT_DOWN;
}

static const struct calib_layer *find_layer(const struct calib_stats *s, uint64_t layer)
{
    for (size_t i = 0; i < s->layer_count; i++)
        if (s->layers[i].layer == layer)
            return &s->layers[i];
    return NULL;
}

/* Tokens that reach one of a matrix's n, times the mean square of what its output is multiplied by. */
static double weight_of(const struct calib_stats *s, uint64_t layer, enum role role, size_t index)
{
    const struct calib_input *in = calib_input_find(s, layer, calib_input_of(last_of(role)));
    const struct routing_layer *routing = routing_stats_layer(&s->routing, layer);

    if (!is_expert(role))
        return in ? (double)in->seen[0] : 0;
    if (!routing || routing->counts[index] == 0)
        return 0;
    return routing->weight_sums[index] * routing->weight_sums[index] / (double)routing->counts[index];
}

static bool refuse_missing(uint64_t layer, enum role role, struct err *e)
{
    return err_set(e, ERR_FORMAT, "there are no losses of layer %" PRIu64 ", matrix '%s'", layer, role_get(role)->name);
}

static bool add_losses(struct allocate_unit *a, const struct calib_stats *s, uint64_t layer, enum role role,
                       struct err *e)
{
    const struct calib_loss *l = calib_loss_find(s, layer, role), *last = calib_loss_find(s, layer, last_of(role));
    const struct calib_layer *behind = find_layer(s, layer);

    if (!l || !last || !behind)
        return refuse_missing(layer, l ? last_of(role) : role, e);
    for (size_t i = 0; i < l->n; i++) {
        double share = *behind->hidden > 0 ? weight_of(s, layer, role, i) / *behind->hidden : 0;
        double scale = l->energy[i] > 0 ? last->energy[i] / l->energy[i] : 0;
        for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
            a->options[c].loss += l->loss[c][i] < INFINITY ? share * scale * l->loss[c][i] : INFINITY;
    }
    return true;
}

static bool find_losses(struct work *k, struct err *e)
{
    const struct width_units *u = k->units;

    for (size_t i = 0; i < u->count; i++)
        for (enum role role = 0; role < ROLE_COUNT; role++)
            if ((u->items[i].roles & BIT(role)) && u->items[i].layer < k->source->arch.layers &&
                !add_losses(&u->allocate[i], k->stats, u->items[i].layer, role, e))
                return false;
    return true;
}

/* ---- the whole ---- */

bool width_units_make(struct width_units *u, const struct recipe *base, const struct source *s,
                      const struct calib_stats *stats, bool split, struct err *e)
{
    struct work k = {.units = u, .base = base, .source = s, .stats = stats, .split = split};

    *u = (struct width_units){0};
    k.layers = s->arch.layers + 1;
    if (!stats->has_losses)
        return err_set(e, ERR_UNSUPPORTED, "there are no losses in it: quern calibrate --losses measures them");
    k.number = arena_array(&u->arena, k.layers, sizeof *k.number);
    k.left_out = arena_array(&u->arena, k.layers, sizeof *k.left_out);
    u->items = arena_array(&u->arena, k.layers * ROLE_COUNT, sizeof *u->items);
    if (!list_units(&k, e) || !number_roles(&k, e))
        return err_in(e, "recipe '%s'", base->name);
    u->allocate = arena_array(&u->arena, u->count, sizeof *u->allocate);
    for (size_t i = 0; i < u->count; i++)
        u->allocate[i].option_count = CALIB_SCHEME_COUNT;
    measure_units(&k);
    return find_losses(&k, e);
}

void width_units_release(struct width_units *u)
{
    arena_release(&u->arena);
    *u = (struct width_units){0};
}
