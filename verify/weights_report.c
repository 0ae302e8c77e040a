#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/units.h"
#include "formats/json.h"
#include "verify/report_text.h"
#include "verify/weights_diff.h"

#define UNEXPECTED_SHOWN 20u

/* One role group that went from one storage to another. */
struct row {
    const char *group;
    enum role role;
    char ref[SCHEME_TEXT], cand[SCHEME_TEXT];
    uint64_t count, compared;
    double relative_sum, relative_max, error2, energy2;
    const struct weight_diff *worst;
};

struct rows {
    struct row *items;
    size_t count, room;
};

static const struct weight *any_side(const struct weight_diff *w)
{
    return w->ref ? w->ref : w->cand;
}

static void stored_text(const struct weight *w, char text[SCHEME_TEXT])
{
    if (w)
        scheme_text(&w->stored, text);
    else
        snprintf(text, SCHEME_TEXT, "absent");
}

static struct row *row_for(struct rows *rows, const struct weight_diff *w)
{
    struct row key = {.group = role_get(any_side(w)->id.role)->group, .role = any_side(w)->id.role};

    stored_text(w->ref, key.ref);
    stored_text(w->cand, key.cand);
    for (size_t i = 0; i < rows->count; i++) {
        struct row *r = &rows->items[i];
        if (strcmp(r->group, key.group) == 0 && strcmp(r->ref, key.ref) == 0 && strcmp(r->cand, key.cand) == 0) {
            r->role = key.role < r->role ? key.role : r->role;
            return r;
        }
    }
    if (rows->count == rows->room) {
        rows->room = rows->room ? 2 * rows->room : 32;
        rows->items = mem_grow(rows->items, rows->room, sizeof *rows->items);
    }
    rows->items[rows->count] = key;
    return &rows->items[rows->count++];
}

static int compare_rows(const void *a, const void *b)
{
    const struct row *s = a, *t = b;

    if (s->role != t->role)
        return s->role < t->role ? -1 : 1;
    int group = strcmp(s->group, t->group), ref = strcmp(s->ref, t->ref);
    return group ? group : ref ? ref : strcmp(s->cand, t->cand);
}

static void collect(struct rows *rows, const struct weights_diff *d)
{
    for (size_t i = 0; i < d->count; i++) {
        const struct weight_diff *w = &d->items[i];
        struct row *r = row_for(rows, w);
        r->count++;
        if (!w->compared)
            continue;
        double relative = weight_diff_relative(w);
        r->compared++;
        r->relative_sum += relative;
        r->error2 += w->error2;
        r->energy2 += w->energy2;
        if (!r->worst || relative > r->relative_max) {
            r->worst = w;
            r->relative_max = relative;
        }
    }
    if (rows->count)
        qsort(rows->items, rows->count, sizeof *rows->items, compare_rows);
}

static double row_mean(const struct row *r)
{
    return r->compared ? r->relative_sum / (double)r->compared : 0;
}

static void print_row(const struct row *r, int group_width, int change_width, struct buf *out)
{
    char change[2 * SCHEME_TEXT + 8];

    snprintf(change, sizeof change, "%s -> %s", r->ref, r->cand);
    buf_printf(out, "  %-*s  %-*s %8" PRIu64 "  ", group_width, r->group, change_width, change, r->count);
    if (r->compared == 0)
        buf_puts(out, "not compared\n");
    else if (r->error2 == 0)
        buf_puts(out, "identical\n");
    else
        buf_printf(out, "%9.3e %9.3e %7.2f  %s\n", row_mean(r), r->relative_max,
                   weight_diff_snr_db(r->error2, r->energy2), r->worst->name);
}

static void print_rows(const struct rows *rows, struct buf *out)
{
    size_t group_width = strlen("role group"), change_width = strlen("REF -> CAND");

    for (size_t i = 0; i < rows->count; i++) {
        size_t group = strlen(rows->items[i].group),
               change = strlen(rows->items[i].ref) + 4 + strlen(rows->items[i].cand);
        group_width = group > group_width ? group : group_width;
        change_width = change > change_width ? change : change_width;
    }
    buf_printf(out, "  %-*s  %-*s %8s  %9s %9s %7s  %s\n", (int)group_width, "role group", (int)change_width,
               "REF -> CAND", "weights", "mean", "max", "SNR dB", "worst");
    for (size_t i = 0; i < rows->count; i++)
        print_row(&rows->items[i], (int)group_width, (int)change_width, out);
    buf_puts(out, "  mean, max: relative error |a - b| / |a| of a weight. SNR: over all of the row.\n\n");
}

static void print_unexpected(const struct weights_diff *d, bool all, struct buf *out)
{
    size_t shown = 0;

    for (size_t i = 0; i < d->count; i++) {
        if (!d->items[i].unexpected)
            continue;
        if (!all && shown == UNEXPECTED_SHOWN)
            break;
        shown++;
        buf_printf(out, "  %s: %s\n", d->items[i].name, d->items[i].unexpected);
    }
    if (shown < d->unexpected_count)
        buf_printf(out, "  ... and %zu more (--all lists them)\n", d->unexpected_count - shown);
    if (shown)
        buf_puts(out, "\n");
}

void weights_print_text(const struct weights_diff *d, const struct weights_show *show, struct buf *out)
{
    struct rows rows = {0};
    size_t from = out->bytes;

    collect(&rows, d);
    buf_printf(out, "REF   %s\nCAND  %s\n\n", show->ref, show->cand);
    print_rows(&rows, out);
    if (d->renumbered_layers > 0)
        buf_printf(
            out, "the experts of %zu layer%s have other numbers, as the router's rows tell: they are called by REF's\n",
            d->renumbered_layers, plural(d->renumbered_layers));
    print_unexpected(d, show->all, out);
    if (d->unexpected_count)
        buf_printf(out, "verdict: %zu of %zu weights differ%s in a way that storage does not explain\n",
                   d->unexpected_count, d->count, d->unexpected_count == 1 ? "s" : "");
    else
        buf_printf(out, "verdict: all %zu weights agree as far as their storage allows\n", d->count);
    mem_free(rows.items);
    report_disarm(out, from);
}

static void put_stored(struct json_writer *w, const char *key, const struct weight *weight)
{
    char text[SCHEME_TEXT];

    json_put_string(w, key, weight ? scheme_text(&weight->stored, text) : NULL);
}

static void put_weight(struct json_writer *w, const struct weight_diff *d)
{
    const struct weight *any = any_side(d);

    json_begin_object(w, NULL);
    w->compact = true; /* a row on a line */
    json_put_string(w, "name", d->name);
    json_put_string(w, "role", role_get(any->id.role)->name);
    put_stored(w, "ref", d->ref);
    put_stored(w, "cand", d->cand);
    json_begin_array(w, "shape");
    json_put_u64(w, NULL, any->rows);
    json_put_u64(w, NULL, any->cols);
    json_end(w, ']');
    if (d->compared) {
        json_put_bool(w, "identical", d->identical);
        json_put_u64(w, "differing", d->differing);
        json_put_double(w, "relative_error", weight_diff_relative(d));
        json_put_double(w, "snr_db", weight_diff_snr_db(d->error2, d->energy2)); /* infinite: null */
        json_put_double(w, "max_abs_error", d->max_abs);
    }
    json_put_bool(w, "expected", d->unexpected == NULL);
    if (d->unexpected)
        json_put_string(w, "why", d->unexpected);
    json_end(w, '}');
    w->compact = false;
}

static void put_rows(struct json_writer *w, const struct rows *rows)
{
    json_begin_array(w, "roles");
    for (size_t i = 0; i < rows->count; i++) {
        const struct row *r = &rows->items[i];
        json_begin_object(w, NULL);
        json_put_string(w, "group", r->group);
        json_put_string(w, "ref", r->ref);
        json_put_string(w, "cand", r->cand);
        json_put_u64(w, "weights", r->count);
        json_put_u64(w, "compared", r->compared);
        if (r->compared) {
            json_put_double(w, "relative_error_mean", row_mean(r));
            json_put_double(w, "relative_error_max", r->relative_max);
            json_put_double(w, "snr_db", weight_diff_snr_db(r->error2, r->energy2));
            json_put_string(w, "worst", r->error2 > 0 ? r->worst->name : NULL);
        }
        json_end(w, '}');
    }
    json_end(w, ']');
}

void weights_print_json(const struct weights_diff *d, const struct weights_show *show, struct buf *out)
{
    struct json_writer w = {.out = out};
    struct rows rows = {0};

    collect(&rows, d);
    json_begin_object(&w, NULL);
    json_put_string(&w, "ref", show->ref);
    json_put_string(&w, "cand", show->cand);
    json_put_bool(&w, "agree", d->unexpected_count == 0);
    json_put_u64(&w, "weight_count", d->count);
    json_put_u64(&w, "unexpected_count", d->unexpected_count);
    if (d->renumbered_layers > 0)
        json_put_u64(&w, "renumbered_layers", d->renumbered_layers);
    put_rows(&w, &rows);
    json_begin_array(&w, "weights");
    for (size_t i = 0; i < d->count; i++)
        put_weight(&w, &d->items[i]);
    json_end(&w, ']');
    json_end(&w, '}');
    buf_puts(out, "\n");
    mem_free(rows.items);
}
