#include "convert/repack_report.h"

#include <inttypes.h>
#include <string.h>

#include "formats/base/units.h"
#include "formats/json.h"

/* ---- where experts stand ---- */

static uint64_t old_number(const struct repack_facts *f, const struct weight *w)
{
    const struct expert_order *order = expert_orders_find(f->orders, (uint64_t)w->id.layer);

    return f->renumbered && order ? order->experts[w->id.expert] : (uint64_t)w->id.expert;
}

void repack_map(struct expert_map *m, const struct repack_facts *f, bool new_numbers)
{
    const struct plan *p = f->plan;

    expert_map_init(m, arch_layers_stored(&p->source->arch), p->source->arch.experts);
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct weight *w = p->weights[i];
        const struct plan_row *row = &p->outputs[0].rows[i];
        if (w->id.expert < 0 || w->id.layer < 0 || w->id.part == NAME_INPUT_SCALE || row->unlisted)
            continue;
        for (enum part part = 0; part < PART_SHAPE; part++) {
            const struct tensor *t = &row->parts[part];
            if (t->dtype != DTYPE_NONE)
                expert_map_add(m, (uint64_t)w->id.layer, new_numbers ? (uint64_t)w->id.expert : old_number(f, w),
                               t->shard, t->offset, t->bytes);
        }
    }
    expert_map_finish(m);
}

struct starts {
    uint64_t experts, aligned;
};

/* Experts whose first byte is at a multiple of the alignment. */
static struct starts count_starts(const struct expert_map *m, uint64_t align)
{
    struct starts s = {0};

    for (size_t i = 0; i < m->layers * m->experts; i++) {
        s.experts += m->runs[i].count > 0;
        s.aligned += m->runs[i].count > 0 && m->runs[i].items[0].offset % align == 0;
    }
    return s;
}

/* ---- orders and loads, in sums ---- */

struct order_sums {
    size_t layers, measured, kept_index, checked;
    double index, own;
};

static struct order_sums sum_orders(const struct expert_orders *o)
{
    struct order_sums s = {.layers = o->count};

    for (size_t i = 0; i < o->count; i++) {
        s.measured += o->items[i].measured;
        s.kept_index += o->items[i].measured && o->items[i].gain.kept_index;
        s.checked += o->items[i].gain.checked;
        s.index += o->items[i].gain.index;
        s.own += o->items[i].gain.kept_index ? o->items[i].gain.index : o->items[i].gain.own;
    }
    return s;
}

struct load_sums {
    size_t layers;
    double before, before_worst, after, after_worst;
};

static double max2(double a, double b)
{
    return a > b ? a : b;
}

static struct load_sums sum_loads(const struct placement *p)
{
    struct load_sums s = {0};

    for (size_t i = 0; i < p->count; i++) {
        if (!p->items[i].measured)
            continue;
        s.layers++;
        s.before += p->items[i].before;
        s.after += p->items[i].after;
        s.before_worst = max2(s.before_worst, p->items[i].before);
        s.after_worst = max2(s.after_worst, p->items[i].after);
    }
    s.before /= s.layers > 0 ? (double)s.layers : 1;
    s.after /= s.layers > 0 ? (double)s.layers : 1;
    return s;
}

/* ---- text ---- */

static const char *kind_name(enum order_kind kind)
{
    static const char *const names[] = {
        [ORDER_INDEX] = "index", [ORDER_HOT] = "hot", [ORDER_COACTIVE] = "coactive", [ORDER_FILE] = "file"};

    return names[kind];
}

static void say_order(struct buf *out, const struct repack_facts *f)
{
    struct order_sums s = sum_orders(f->orders);

    buf_printf(out, "order    %s, %zu layer%s%s", kind_name(f->orders->kind), s.layers, plural(s.layers),
               f->renumbered ? ", experts renumbered" : "");
    if (f->orders->kind == ORDER_HOT || f->orders->kind == ORDER_COACTIVE)
        buf_printf(out, ", %zu with statistics", s.measured);
    if (f->orders->kind == ORDER_COACTIVE)
        buf_printf(out, "; %zu %s by index", s.kept_index, s.kept_index == 1 ? "stays" : "stay");
    if (s.checked > 0)
        buf_printf(out, "; windows per held-out token and layer %.2f by index, %.2f now", s.index / (double)s.checked,
                   s.own / (double)s.checked);
    buf_puts(out, "\n");
}

static void say_cost(struct buf *out, const char *name, const struct expert_cost *c, bool replayed)
{
    char bytes[BYTES_TEXT], each[BYTES_TEXT];

    buf_printf(out, "%-8s %.2f reads of %s an expert", name, c->reads_per_expert,
               bytes_text(c->bytes_per_expert, each));
    if (replayed)
        buf_printf(out, "; a token: %.1f reads, %s, %.1f%% sequential, %.1f windows", c->reads,
                   bytes_text(c->bytes, bytes), 100 * c->sequential, c->windows);
    buf_puts(out, "\n");
}

static const struct routing_stats none = {.experts_per_token = 1};

static void costs(const struct repack_facts *f, struct expert_cost *now, struct expert_cost *then, struct starts *s)
{
    const struct routing_stats *trace = f->trace ? f->trace : &none;
    struct expert_map m = {0};

    expert_map_open(&m, f->plan->source);
    expert_map_cost(&m, trace, f->window_bytes, now);
    expert_map_release(&m);
    repack_map(&m, f, false);
    expert_map_cost(&m, trace, f->window_bytes, then);
    *s = count_starts(&m, f->align);
    expert_map_release(&m);
}

static void say_loads(struct buf *out, const struct placement *p)
{
    struct load_sums s = sum_loads(p);

    buf_printf(out,
               "ranks    %" PRIu64 " on %" PRIu64 " node%s, %" PRIu64
               " redundant expert%s, %s; max/mean of a rank over "
               "%zu layer%s: %.3f before (worst %.3f), %.3f after (worst %.3f)\n",
               p->shape.ranks, p->shape.nodes, plural(p->shape.nodes), p->shape.replicas - p->shape.experts,
               plural(p->shape.replicas - p->shape.experts),
               eplb_is_hierarchical(&p->shape) ? "groups stay on a node" : "groups ignored", s.layers, plural(s.layers),
               s.before, s.before_worst, s.after, s.after_worst);
}

void repack_report_text(struct buf *out, const struct repack_facts *f)
{
    struct expert_cost now, then;
    struct starts s;

    costs(f, &now, &then, &s);
    say_order(out, f);
    say_cost(out, "source", &now, f->trace != NULL);
    say_cost(out, "repacked", &then, f->trace != NULL);
    buf_printf(out, "aligned  %" PRIu64 " of %" PRIu64 " experts %s at a multiple of %" PRIu64 "\n", s.aligned,
               s.experts, s.aligned == 1 ? "begins" : "begin", f->align);
    if (f->placement)
        say_loads(out, f->placement);
}

/* ---- JSON ---- */

static void put_cost(struct json_writer *w, const char *key, const struct expert_cost *c, bool replayed)
{
    json_begin_object(w, key);
    json_put_double(w, "reads_per_expert", c->reads_per_expert);
    json_put_double(w, "bytes_per_expert", c->bytes_per_expert);
    if (replayed) {
        json_put_u64(w, "tokens", c->tokens);
        json_put_double(w, "experts_per_token", c->experts);
        json_put_double(w, "reads_per_token", c->reads);
        json_put_double(w, "bytes_per_token", c->bytes);
        json_put_double(w, "sequential_share", c->sequential);
        json_put_double(w, "windows_per_token", c->windows);
    }
    json_end(w, '}');
}

static void put_order(struct json_writer *w, const struct repack_facts *f)
{
    struct order_sums s = sum_orders(f->orders);

    json_begin_object(w, "order");
    json_put_string(w, "kind", kind_name(f->orders->kind));
    json_put_bool(w, "renumbered", f->renumbered);
    json_put_u64(w, "layers", s.layers);
    json_put_u64(w, "with_statistics", s.measured);
    json_put_u64(w, "kept_by_index", s.kept_index);
    if (s.checked > 0) {
        json_put_double(w, "held_out_windows_by_index", s.index / (double)s.checked);
        json_put_double(w, "held_out_windows", s.own / (double)s.checked);
    }
    json_end(w, '}');
}

static void put_loads(struct json_writer *w, const struct placement *p)
{
    json_begin_object(w, "ranks");
    json_put_u64(w, "ranks", p->shape.ranks);
    json_put_u64(w, "nodes", p->shape.nodes);
    json_put_u64(w, "redundant", p->shape.replicas - p->shape.experts);
    json_put_bool(w, "groups_stay_on_a_node", eplb_is_hierarchical(&p->shape));
    json_begin_array(w, "layers");
    for (size_t i = 0; i < p->count; i++) {
        json_begin_object(w, NULL);
        json_put_u64(w, "layer", p->items[i].layer);
        json_put_bool(w, "measured", p->items[i].measured);
        json_put_double(w, "max_over_mean_before", p->items[i].before);
        json_put_double(w, "max_over_mean_after", p->items[i].after);
        json_end(w, '}');
    }
    json_end(w, ']');
    json_end(w, '}');
}

void repack_report_json(struct buf *out, const struct repack_facts *f)
{
    struct json_writer w = {.out = out, .compact = true};
    struct expert_cost now, then;
    struct starts s;

    costs(f, &now, &then, &s);
    json_begin_object(&w, NULL);
    put_order(&w, f);
    put_cost(&w, "source", &now, f->trace != NULL);
    put_cost(&w, "repacked", &then, f->trace != NULL);
    json_put_u64(&w, "experts", s.experts);
    json_put_u64(&w, "experts_aligned", s.aligned);
    json_put_u64(&w, "align", f->align);
    json_put_u64(&w, "window_bytes", f->window_bytes);
    if (f->placement)
        put_loads(&w, f->placement);
    json_end(&w, '}');
}

/* ---- experts.json ---- */

static void put_expert(struct json_writer *w, const struct repack_facts *f, const struct expert_order *order,
                       uint32_t expert, const struct expert_runs *runs)
{
    json_begin_object(w, NULL);
    w->compact = true;
    json_put_u64(w, "expert", expert);
    if (f->renumbered)
        json_put_u64(w, "was", order->experts[expert]);
    json_begin_array(w, "reads");
    for (size_t i = 0; i < runs->count; i++) {
        json_begin_object(w, NULL);
        json_put_string(w, "file", f->plan->outputs[0].shards[runs->items[i].file].name);
        json_put_u64(w, "offset", runs->items[i].offset);
        json_put_u64(w, "bytes", runs->items[i].bytes);
        json_end(w, '}');
    }
    json_end(w, ']');
    json_end(w, '}');
    w->compact = false;
}

void repack_experts_json(struct buf *out, const struct repack_facts *f)
{
    struct json_writer w = {.out = out};
    struct expert_map m = {0};

    repack_map(&m, f, true);
    json_begin_object(&w, NULL);
    json_put_u64(&w, "experts_json", 1);
    json_begin_array(&w, "layers");
    for (size_t i = 0; i < f->orders->count; i++) {
        const struct expert_order *order = &f->orders->items[i];
        json_begin_object(&w, NULL);
        json_put_u64(&w, "layer", order->layer);
        json_begin_array(&w, "experts");
        for (uint32_t expert = 0; expert < f->orders->experts; expert++)
            put_expert(&w, f, order, expert, expert_map_get(&m, order->layer, expert));
        json_end(&w, ']');
        json_end(&w, '}');
    }
    json_end(&w, ']');
    json_end(&w, '}');
    buf_puts(out, "\n");
    expert_map_release(&m);
}
