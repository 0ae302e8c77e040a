#include "convert/width_recipe.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/recipe_private.h"
#include "convert/width_units.h"
#include "formats/base/units.h"

#define BIT(role) (UINT64_C(1) << (role))
#define MATRICES  64 /* bytes of the longest list of a unit's matrices */

/* ---- rules ---- */

struct work {
    const struct recipe *base;
    struct width_units units;
    struct allocation allocation;
    char sha256[HASH_HEX_BYTES];
};

/* "3,5-7": the layers where role has the scheme; nothing: in none. */
static void list_layers(const struct work *k, enum role role, size_t scheme, bool positive, struct buf *out)
{
    const struct width_units *u = &k->units;
    int64_t first = -1, last = -1;

    for (size_t i = 0; i <= u->count; i++) {
        const struct width_unit *unit = i < u->count ? &u->items[i] : NULL;
        if (unit &&
            (!(unit->roles & BIT(role)) || u->allocate[i].chosen != scheme || unit->positive_scales != positive))
            continue;
        if (unit && last >= 0 && (int64_t)unit->layer == last + 1) {
            last++;
            continue;
        }
        if (first >= 0)
            buf_printf(out, first == last ? "%s%" PRId64 : "%s%" PRId64 "-%" PRId64, out->bytes ? "," : "", first,
                       last);
        first = last = unit ? (int64_t)unit->layer : -1;
    }
}

static void put_scheme(struct json_writer *w, enum calib_scheme scheme, bool positive)
{
    struct scheme s = width_scheme(scheme);

    json_put_string(w, "scheme", s.kind == SCHEME_INT4 ? "int4" : "fp8");
    if (s.kind != SCHEME_INT4) {
        json_put_string(w, "layout", "compressed-tensors");
        return;
    }
    json_put_u64(w, "group", s.group_cols);
    json_put_string(w, "method", scheme_method_name(s.method));
    if (positive)
        json_put_bool(w, "positive_scales", true);
}

/* Roles that have the scheme in the same layers share a rule. */
static void put_rules(struct json_writer *w, const struct work *k, enum calib_scheme scheme, bool positive)
{
    uint64_t done = 0;

    for (enum role role = 0; role < ROLE_COUNT; role++) {
        struct buf layers = {0};
        list_layers(k, role, scheme, positive, &layers);
        if (layers.bytes > 0 && !(done & BIT(role))) {
            json_begin_object(w, NULL);
            json_begin_array(w, "match");
            for (enum role with = role; with < ROLE_COUNT; with++) {
                struct buf same = {0};
                list_layers(k, with, scheme, positive, &same);
                if (same.bytes > 0 && strcmp(same.data, layers.data) == 0) {
                    json_put_string(w, NULL, role_get(with)->name);
                    done |= BIT(with);
                }
                buf_release(&same);
            }
            json_end(w, ']');
            json_put_string(w, "layers", layers.data);
            put_scheme(w, scheme, positive);
            json_end(w, '}');
        }
        buf_release(&layers);
    }
}

static bool make_recipe(struct recipe *out, const struct work *k, double target, struct err *e)
{
    struct arena a = {0};
    struct buf text = {0};
    struct json_writer w = {.out = &text, .compact = true};
    const char *name = arena_printf(&a, "%s-%gbpw", k->base->name, target);

    json_begin_object(&w, NULL);
    json_put_string(&w, "name", name);
    if (k->base->description)
        json_put_string(
            &w, "description",
            arena_printf(&a, "%s; int4 widened by measured losses to %g bits", k->base->description, target));
    json_begin_object(&w, "widths");
    json_put_double(&w, "target_bpw", target);
    json_put_string(&w, "statistics_sha256", k->sha256);
    json_end(&w, '}');
    json_begin_array(&w, "rules");
    for (enum calib_scheme scheme = 0; scheme < CALIB_SCHEME_COUNT; scheme++) {
        put_rules(&w, k, scheme, false);
        put_rules(&w, k, scheme, true);
    }
    for (size_t i = 0; i < k->base->rule_count; i++)
        recipe_put_rule(&w, &k->base->rules[i]);
    json_end(&w, ']');
    json_end(&w, '}');
    bool ok = recipe_parse(out, name, text.data, text.bytes, e);
    buf_release(&text);
    arena_release(&a);
    return ok;
}

/* ---- the table ---- */

/* "expert_gate, expert_up", or the group where all of it is there. */
static const char *matrices_text(uint64_t roles, char text[MATRICES])
{
    size_t at = 0;

    text[0] = '\0';
    for (enum role role = 0; role < ROLE_COUNT; role++)
        if ((roles & BIT(role)) && at < MATRICES)
            at += (size_t)snprintf(text + at, MATRICES - at, "%s%s", at ? ", " : "", role_get(role)->name);
    return text;
}

/* All units in one scheme: what the choice is to beat. infinity: one of them does not fit it. */
static double uniform_loss(const struct width_units *u, enum calib_scheme scheme)
{
    double loss = 0;

    for (size_t i = 0; i < u->count; i++)
        loss += u->allocate[i].options[scheme].loss;
    return loss;
}

static double uniform_bits(const struct width_units *u, enum calib_scheme scheme)
{
    uint64_t bytes = 0, weights = 0;

    for (size_t i = 0; i < u->count; i++) {
        bytes += u->allocate[i].options[scheme].bytes;
        weights += u->allocate[i].weights;
    }
    return allocate_bits(bytes, weights);
}

static void print_table(struct buf *out, const struct work *k, double target)
{
    const struct width_units *u = &k->units;
    const struct allocation *a = &k->allocation;
    char text[SCHEME_TEXT], matrices[MATRICES];

    buf_printf(out, "widths   %.4f bits per weight of %g, over %" PRIu64 " weight%s in %zu unit%s\n",
               allocate_bits(a->bytes, a->weights), target, a->weights, plural(a->weights), u->count, plural(u->count));
    buf_printf(out, "loss     %.4g expected, by layer as a share of the hidden state; at least %.4g at this target\n",
               a->loss, a->bound);
    for (enum calib_scheme s = 0; s < CALIB_SCHEME_COUNT; s++) {
        struct scheme scheme = width_scheme(s);
        if (isfinite(uniform_loss(u, s)))
            buf_printf(out, "%s%.4g with all of it %s, %.4f bits\n", "         ", uniform_loss(u, s),
                       scheme_text(&scheme, text), uniform_bits(u, s));
    }
    buf_printf(out, "\nlayer  %-36s %-16s %6s %9s\n", "matrices", "scheme", "bits", "loss");
    for (size_t i = 0; i < u->count; i++) {
        const struct allocate_unit *unit = &u->allocate[i];
        struct scheme scheme = width_scheme((enum calib_scheme)unit->chosen);
        buf_printf(out, "%5" PRIu64 "  %-36s %-16s %6.3f %9.3g\n", u->items[i].layer,
                   matrices_text(u->items[i].roles, matrices), scheme_text(&scheme, text),
                   allocate_bits(unit->options[unit->chosen].bytes, unit->weights), unit->options[unit->chosen].loss);
    }
}

static void put_unit(struct json_writer *w, const struct width_unit *unit, const struct allocate_unit *a)
{
    struct scheme scheme = width_scheme((enum calib_scheme)a->chosen);
    char text[SCHEME_TEXT];

    json_begin_object(w, NULL);
    json_put_u64(w, "layer", unit->layer);
    json_begin_array(w, "matrices");
    for (enum role role = 0; role < ROLE_COUNT; role++)
        if (unit->roles & BIT(role))
            json_put_string(w, NULL, role_get(role)->name);
    json_end(w, ']');
    json_put_string(w, "scheme", scheme_text(&scheme, text));
    json_put_u64(w, "weights", a->weights);
    json_put_double(w, "bits", allocate_bits(a->options[a->chosen].bytes, a->weights));
    json_put_double(w, "loss", a->options[a->chosen].loss);
    json_end(w, '}');
}

static void put_table(struct buf *out, const struct work *k, double target)
{
    const struct allocation *a = &k->allocation;
    struct json_writer w = {.out = out, .compact = true};

    json_begin_object(&w, NULL);
    json_put_double(&w, "target_bpw", target);
    json_put_string(&w, "statistics_sha256", k->sha256);
    json_put_double(&w, "bits", allocate_bits(a->bytes, a->weights));
    json_put_double(&w, "least_bits", a->bits_least);
    json_put_double(&w, "most_bits", a->bits_most);
    json_put_double(&w, "loss", a->loss);
    json_put_double(&w, "loss_bound", a->bound);
    json_begin_array(&w, "units");
    for (size_t i = 0; i < k->units.count; i++)
        put_unit(&w, &k->units.items[i], &k->units.allocate[i]);
    json_end(&w, ']');
    json_end(&w, '}');
}

void width_report_release(struct width_report *r)
{
    buf_release(&r->text);
    buf_release(&r->json);
    *r = (struct width_report){0};
}

/* ---- the whole ---- */

static bool choose(struct work *k, const struct calib_stats *stats, const struct source *s,
                   const struct width_options *o, struct err *e)
{
    if (!calib_stats_check(stats, s, e) || !calib_stats_sha256(stats, k->sha256, e) ||
        !width_units_make(&k->units, k->base, s, stats, o->split, e))
        return err_in(e, "statistics '%s'", o->statistics);
    return allocate(k->units.allocate, k->units.count, o->target_bpw, &k->allocation, e) || err_in(e, "--target-bpw");
}

bool width_recipe_make(struct recipe *out, struct width_report *report, const struct recipe *base,
                       const struct source *s, const struct width_options *o, struct err *e)
{
    struct work k = {.base = base};
    struct calib_stats stats = {0};
    bool ok = false;

    *report = (struct width_report){0};
    if (!calib_stats_open(&stats, o->statistics, e))
        return false;
    if (!choose(&k, &stats, s, o, e) || !make_recipe(out, &k, o->target_bpw, e))
        goto done;
    print_table(&report->text, &k, o->target_bpw);
    put_table(&report->json, &k, o->target_bpw);
    if (o->target_bpw > k.allocation.bits_most)
        report->above = k.allocation.bits_most;
    ok = true;
done:
    width_units_release(&k.units);
    calib_stats_release(&stats);
    return ok;
}
