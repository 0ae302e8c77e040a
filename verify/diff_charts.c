#include "verify/diff_charts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "formats/base/units.h"
#include "quant/logits.h"
#include "verify/diff_words.h"
#include "verify/html_chart.h"
#include "verify/layer_metrics.h"

/* Past so many layers, dots are drawn smaller. */
#define LAYERS_MANY 24u

/* ---- KL ---- */

/* The bins that are drawn: all that hold something, out to whole decades. */
static void shown_bins(const struct outputs *o, size_t *from, size_t *to)
{
    size_t first = KL_BINS, last = 0;

    for (size_t b = 0; b < KL_BINS; b++)
        if (o->histogram[b]) {
            first = b < first ? b : first;
            last = b;
        }
    if (first == KL_BINS)
        first = last = 0;
    *from = first / 3 * 3;
    *to = last / 3 * 3 + 3;
    if (*to - *from < 9) /* three decades at least, so that a bar looks like one */
        *to = *from + 9 < KL_BINS ? *from + 9 : KL_BINS;
    if (*to - *from < 9)
        *from = *to - 9;
}

static void histogram_title(const struct outputs *o, size_t bin, char title[96])
{
    char low[WORD_TEXT], high[WORD_TEXT], count[WORD_TEXT];
    double from = exp64(log64(10) * (KL_BIN_LOW + (double)bin / 3));

    snprintf(title, 96, "%s to %s: %s position%s", bin == 0 ? "0" : word_number(from, low),
             bin == KL_BINS - 1 ? "more" : word_number(from * 2.154434690031884, high),
             word_count(o->histogram[bin], count), plural(o->histogram[bin]));
}

static double bin_place(double kl, size_t from, size_t to)
{
    if (!(kl > 0))
        return NAN;
    double at = (3 * (log64(kl) / log64(10) - KL_BIN_LOW) - (double)from) / (double)(to - from);
    return at < 0 || at > 1 ? NAN : at;
}

void diff_chart_histogram(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    const struct outputs *o = &c->outputs;
    const struct stat_spread *s = o->kl_known ? &o->kl : &o->kl_bound;
    static const char *const legend[] = {"mean", "mean", "p99", "99% lie below", NULL};
    struct chart_ticks x = {0}, y = {0};
    char summary[256], mean[WORD_TEXT], max[WORD_TEXT];
    uint64_t most = 1;
    size_t from, to;

    (void)r;
    shown_bins(o, &from, &to);
    for (size_t b = 0; b < KL_BINS; b++)
        most = o->histogram[b] > most ? o->histogram[b] : most;
    for (size_t b = from; b <= to; b += 3) {
        struct chart_tick *t = &x.items[x.count++];
        t->at = (double)(b - from) / (double)(to - from);
        chart_power_label(KL_BIN_LOW + (int)(b / 3), t->label);
    }
    struct chart_axis shares = {0, (double)most / (double)o->positions, false};
    chart_axis_ticks(&shares, &y);
    snprintf(summary, sizeof summary, "Histogram of KL over %" PRIu64 " position%s: mean %s, largest %s", o->positions,
             plural(o->positions), word_number(s->mean, mean), word_number(s->max, max));
    chart_begin(out, o->kl_known ? "KL of each position" : "KL of each position (lower bound)", summary, &y);
    for (size_t b = from; b < to; b++) {
        char title[96];
        if (!o->histogram[b])
            continue;
        histogram_title(o, b, title);
        chart_bar(out, "bar", ((double)(b - from) + 0.06) / (double)(to - from),
                  ((double)(b - from) + 0.94) / (double)(to - from), (double)o->histogram[b] / (double)most, title);
    }
    chart_upright(out, "mean", bin_place(s->mean, from, to));
    chart_upright(out, "p99", bin_place(s->p99, from, to));
    chart_end(out, &x, "nats; share of positions", legend);
}

/* ---- errors ---- */

static double shown_error(const struct diff_report *r, const struct diff_layer *l)
{
    return r->golden ? l->added_error : l->local_error;
}

struct errors {
    double *x, *cumulative, *floor;
    struct chart_axis axis;
};

static void errors_open(struct errors *e, const struct diff_report *r, const struct diff_candidate *c)
{
    size_t n = r->layer_count;
    double *all = mem_alloc((3 * n + 1) * sizeof *all);

    e->x = mem_alloc((3 * n + 1) * sizeof *e->x);
    e->cumulative = e->x + n;
    e->floor = e->x + 2 * n;
    for (size_t i = 0; i < n; i++) {
        all[i] = shown_error(r, &c->layers[i]);
        all[n + i] = c->layers[i].cumulative_error;
        all[2 * n + i] = r->golden ? NAN : c->layers[i].local_floor;
    }
    e->axis = chart_axis_log(all, 3 * n);
    for (size_t i = 0; i < n; i++) {
        double cumulative = all[n + i], floor = all[2 * n + i];
        e->x[i] = ((double)i + 0.5) / (double)n;
        e->cumulative[i] = cumulative > 0 ? chart_axis_at(&e->axis, cumulative) : NAN;
        e->floor[i] = floor > 0 ? chart_axis_at(&e->axis, floor) : NAN;
    }
    mem_free(all);
}

static void put_errors(const struct diff_report *r, const struct diff_candidate *c, const struct errors *e,
                       struct buf *out)
{
    const char *many = r->layer_count > LAYERS_MANY ? "many" : "";

    chart_line(out, "sum", e->x, e->cumulative, r->layer_count);
    chart_line(out, "floor", e->x, e->floor, r->layer_count);
    for (size_t i = 0; i < r->layer_count; i++) {
        const struct diff_layer *l = &c->layers[i];
        double error = shown_error(r, l), y = error > 0 ? chart_axis_at(&e->axis, error) : NAN;
        char title[96], kind[16], number[WORD_TEXT];
        snprintf(kind, sizeof kind, "%s%s", many, l->stands_out ? " out" : "");
        snprintf(title, sizeof title, "layer %" PRIu64 ": %s", l->layer, word_number(error, number));
        chart_stem(out, l->stands_out ? "out" : "", e->x[i], y);
        chart_dot(out, kind, e->x[i], y, title);
    }
}

void diff_chart_errors(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    /* The last two are for those who have them. */
    static const char *const full[] = {"one", "this layer's own", "sum", "all so far", "floor", "BF16 floor",
                                       "out", "stands out",       NULL};
    static const char *const calm[] = {"one", "this layer's own", "sum", "all so far", "floor", "BF16 floor", NULL};
    static const char *const golden[] = {"one", "added here", "sum", "all so far", "out", "stands out", NULL};
    static const char *const golden_calm[] = {"one", "added here", "sum", "all so far", NULL};
    bool is_calm = c->first_outlier == NO_LAYER;
    struct chart_ticks x, y;
    struct errors errors;
    struct buf summary = {0};

    if (r->layer_count == 0)
        return;
    errors_open(&errors, r, c);
    chart_axis_ticks(&errors.axis, &y);
    chart_ticks_numbered(&x, c->layers[0].layer, r->layer_count);
    words_outlier(r, c, &summary);
    chart_begin(out, "Error of each layer", summary.data, &y);
    put_errors(r, c, &errors, out);
    chart_end(out, &x, r->golden ? "layer; relative to the state" : "layer; own: relative to what it adds",
              r->golden ? (is_calm ? golden_calm : golden)
              : is_calm ? calm
                        : full);
    mem_free(errors.x);
    buf_release(&summary);
}

/* ---- routing ---- */

void diff_chart_routing(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    static const char *const legend[] = {"bar", "chosen experts that agree", "sets", "tokens with the same set", NULL};
    struct chart_ticks x, y;
    double *at, *same, least = 1;
    size_t n = r->layer_count;
    char summary[160], overall[WORD_TEXT];

    if (r->golden || isnan(c->routing_overlap))
        return;
    at = mem_alloc((2 * n + 1) * sizeof *at);
    same = at + n;
    for (size_t i = 0; i < n; i++) {
        const struct diff_layer *l = &c->layers[i];
        double lower = isnan(l->overlap) ? 1 : fmin(l->overlap, 1 - l->sets_changed);
        least = lower < least ? lower : least;
    }
    /* Down to the next tenth, so that a small loss shows and a large one fits. */
    struct chart_axis axis = {fmax(0, floor(least * 10 - 1e-9) / 10), 1, false};
    chart_axis_ticks(&axis, &y);
    chart_ticks_numbered(&x, c->layers[0].layer, n);
    snprintf(summary, sizeof summary, "Routing agreement by layer; %s of the chosen experts agree over all layers",
             word_percent(c->routing_overlap, overall));
    chart_begin(out, "Routing agreement", summary, &y);
    for (size_t i = 0; i < n; i++) {
        const struct diff_layer *l = &c->layers[i];
        char title[96], overlap[WORD_TEXT];
        at[i] = ((double)i + 0.5) / (double)n;
        same[i] = isnan(l->overlap) ? NAN : chart_axis_at(&axis, 1 - l->sets_changed);
        if (isnan(l->overlap))
            continue;
        snprintf(title, sizeof title, "layer %" PRIu64 ": %s", l->layer, word_percent(l->overlap, overlap));
        chart_bar(out, "bar", ((double)i + 0.1) / (double)n, ((double)i + 0.9) / (double)n,
                  chart_axis_at(&axis, l->overlap), title);
    }
    chart_line(out, "sets", at, same, n);
    chart_end(out, &x, "layer", legend);
    mem_free(at);
}

/* ---- expert load ---- */

/* Level of a load relative to an even share: a quarter and less, 0; then half octaves up to four times. */
static uint8_t heat_level(double relative)
{
    if (!(relative > 0))
        return 0;
    double level = floor(2 * (log64(relative) / log64(2) + 2)) + 1;
    return (uint8_t)(level < 0 ? 0 : level > HEAT_LEVELS - 1 ? HEAT_LEVELS - 1 : level);
}

static void put_map(const struct diff_report *r, const struct diff_candidate *c, bool of_ref, struct buf *out)
{
    uint8_t *levels = mem_alloc((size_t)(r->load_count * r->experts) + 1);
    struct chart_ticks x, y;
    char summary[160];

    for (uint64_t i = 0; i < r->load_count; i++) {
        const uint64_t *load = of_ref ? c->loads[i].ref : c->loads[i].cand;
        uint64_t sum = 0;
        for (uint64_t k = 0; k < r->experts; k++)
            sum += load[k];
        for (uint64_t k = 0; k < r->experts; k++)
            levels[i * r->experts + k] = sum ? heat_level((double)load[k] * (double)r->experts / (double)sum) : 0;
    }
    chart_ticks_numbered(&x, 0, r->experts);
    chart_ticks_numbered(&y, c->loads[0].layer, r->load_count);
    snprintf(summary, sizeof summary, "Heat map: tokens for each of %" PRIu64 " experts in %" PRIu64 " layer%s",
             r->experts, r->load_count, plural(r->load_count));
    chart_heat(out, of_ref ? "Expert load, reference" : "Expert load, candidate", summary, levels, r->load_count,
               r->experts, &x, &y, "expert; rows are layers");
    mem_free(levels);
}

static void put_key(struct buf *out)
{
    buf_puts(out, "<p class=\"key\">tokens against an even share: ¼ or less <svg viewBox=\"0 0 9 1\" "
                  "preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    for (unsigned level = 1; level < HEAT_LEVELS; level++)
        buf_printf(out, "<path class=\"h%u\" d=\"M%u 0h1v1h-1z\"/>", level, level);
    buf_puts(out, "</svg> 2.8 times or more</p>\n");
}

void diff_chart_loads(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    if (r->load_count == 0 || !c->loads)
        return;
    if (c->loads[0].ref) {
        buf_puts(out, "<div>\n");
        put_map(r, c, true, out);
        buf_puts(out, "</div>\n");
    }
    buf_puts(out, "<div>\n");
    put_map(r, c, false, out);
    put_key(out);
    buf_puts(out, "</div>\n");
}
