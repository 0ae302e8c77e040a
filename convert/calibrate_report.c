#include "convert/calibrate_report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/units.h"
#include "formats/json.h"

static int compare_tokens(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* A layer's experts. */
struct spread {
    int64_t min, median, max;
    size_t starved, unvisited;
};

static struct spread spread_of(const struct routing_layer *l, size_t experts, uint64_t min_tokens)
{
    int64_t *sorted = mem_alloc(experts * sizeof *sorted);
    struct spread s = {0};

    memcpy(sorted, l->counts, experts * sizeof *sorted);
    qsort(sorted, experts, sizeof *sorted, compare_tokens);
    s = (struct spread){.min = sorted[0], .median = sorted[experts / 2], .max = sorted[experts - 1]};
    for (size_t i = 0; i < experts; i++) {
        s.unvisited += sorted[i] == 0;
        s.starved += (uint64_t)sorted[i] < min_tokens;
    }
    mem_free(sorted);
    return s;
}

/* Error over energy of some matrices of a layer, each by how many tokens reach it; 0 without any. */
static double error_of(const struct calib_stats *s, uint64_t layer, const enum role *roles, size_t count,
                       enum calib_scheme scheme)
{
    double error = 0, energy = 0;

    for (size_t r = 0; r < count; r++) {
        const struct calib_loss *l = calib_loss_find(s, layer, roles[r]);
        const struct calib_input *in = calib_input_find(s, layer, calib_input_of(roles[r]));
        for (size_t i = 0; l && in && i < l->n; i++) {
            error += in->seen[i] > 0 ? (double)in->seen[i] * l->loss[scheme][i] : 0;
            energy += (double)in->seen[i] * l->energy[i];
        }
    }
    return energy > 0 ? error / energy : 0;
}

static const enum role wide[] = {ROLE_DENSE_GATE, ROLE_DENSE_UP, ROLE_EXPERT_GATE, ROLE_EXPERT_UP};
static const enum role down[] = {ROLE_DENSE_DOWN, ROLE_EXPERT_DOWN};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void print_head(const struct calib_stats *s, struct buf *out)
{
    buf_printf(out, "              tokens per expert%s", s->has_losses ? "        " : "");
    for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT && s->has_losses; c++)
        buf_printf(out, " %19s", calib_scheme_name(c));
    buf_puts(out, "\nlayer         min  median     max  starved");
    for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT && s->has_losses; c++)
        buf_puts(out, "  gate, up      down");
    buf_puts(out, "\n");
}

static void print_layer(const struct calib_stats *s, uint64_t layer, uint64_t min_tokens, struct buf *out)
{
    const struct routing_layer *l = routing_stats_layer(&s->routing, layer);

    buf_printf(out, "%5" PRIu64 "  ", layer);
    if (l) {
        struct spread p = spread_of(l, (size_t)s->routing.experts, min_tokens);
        buf_printf(out, "%10" PRId64 " %7" PRId64 " %7" PRId64 " %8zu", p.min, p.median, p.max, p.starved);
    } else {
        buf_printf(out, "%10s %7s %7s %8s", "-", "-", "-", "-");
    }
    for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT && s->has_losses; c++)
        buf_printf(out, " %9.2e %9.2e", error_of(s, layer, wide, COUNT(wide), c),
                   error_of(s, layer, down, COUNT(down), c));
    buf_puts(out, "\n");
}

void calibrate_print(const struct calib_stats *s, uint64_t min_tokens, struct buf *out)
{
    size_t starved = 0, unvisited = 0;

    print_head(s, out);
    for (size_t i = 0; i < s->layer_count; i++)
        print_layer(s, s->layers[i].layer, min_tokens, out);
    for (size_t i = 0; i < s->routing.count; i++) {
        struct spread p = spread_of(&s->routing.items[i], (size_t)s->routing.experts, min_tokens);
        starved += p.starved;
        unvisited += p.unvisited;
    }
    if (starved > 0)
        buf_printf(out,
                   "%zu expert%s got fewer than %" PRIu64 " token%s, %zu of them none: a longer or a more varied text "
                   "reaches more.\n",
                   starved, plural(starved), min_tokens, plural(min_tokens), unvisited);
}

static void json_losses(struct json_writer *w, const struct calib_stats *s, uint64_t layer)
{
    json_begin_array(w, "output_error");
    for (size_t i = 0; i < s->loss_count; i++) {
        const struct calib_loss *l = &s->losses[i];
        if (l->layer != layer)
            continue;
        json_begin_object(w, NULL);
        json_put_string(w, "matrix", role_get(l->role)->name);
        for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
            json_put_double(w, calib_scheme_name(c), error_of(s, layer, &l->role, 1, c));
        json_end(w, '}');
    }
    json_end(w, ']');
}

static void json_experts(struct json_writer *w, const struct calib_stats *s, const struct routing_layer *l)
{
    json_begin_array(w, "experts");
    for (size_t i = 0; l && i < s->routing.experts; i++) {
        json_begin_object(w, NULL);
        json_put_i64(w, "tokens", l->counts[i]);
        json_put_double(w, "routed_weight", l->weight_sums[i]);
        json_end(w, '}');
    }
    json_end(w, ']');
}

void calibrate_json(const struct calib_stats *s, uint64_t min_tokens, struct buf *out)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    json_put_u64(&w, "tokens", s->routing.tokens);
    json_put_u64(&w, "contexts", s->routing.sequence_count);
    json_put_string(&w, "config_sha256", s->routing.config_sha256);
    json_begin_array(&w, "layers");
    for (size_t i = 0; i < s->layer_count; i++) {
        uint64_t layer = s->layers[i].layer;
        const struct routing_layer *l = routing_stats_layer(&s->routing, layer);
        json_begin_object(&w, NULL);
        json_put_u64(&w, "layer", layer);
        if (l)
            json_put_u64(&w, "starved", spread_of(l, (size_t)s->routing.experts, min_tokens).starved);
        if (s->has_losses)
            json_losses(&w, s, layer);
        json_experts(&w, s, l);
        json_end(&w, '}');
    }
    json_end(&w, ']');
    json_end(&w, '}');
    buf_puts(out, "\n");
}
