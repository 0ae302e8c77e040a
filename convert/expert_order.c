#include "convert/expert_order.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"

#define ORDER_BYTES_MAX (64u << 20)

const struct expert_order *expert_orders_find(const struct expert_orders *o, uint64_t layer)
{
    for (size_t i = 0; i < o->count; i++)
        if (o->items[i].layer == layer)
            return &o->items[i];
    return NULL;
}

/* ---- hot ---- */

struct heat {
    int64_t count;
    uint32_t index;
};

static int compare_heat(const void *left, const void *right)
{
    const struct heat *a = left, *b = right;

    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static void sort_by_heat(const int64_t *counts, size_t first, size_t count, uint32_t *order)
{
    struct heat *list = mem_alloc(count * sizeof *list);

    for (size_t i = 0; i < count; i++)
        list[i] = (struct heat){.count = counts[first + i], .index = (uint32_t)(first + i)};
    qsort(list, count, sizeof *list, compare_heat);
    for (size_t i = 0; i < count; i++)
        order[i] = list[i].index;
    mem_free(list);
}

static void order_hot(const int64_t *counts, size_t experts, size_t groups, uint32_t *order)
{
    size_t width = experts / groups;
    int64_t *sums = mem_alloc(groups * sizeof *sums);
    uint32_t *group_order = mem_alloc(groups * sizeof *group_order);

    for (size_t i = 0; i < experts; i++)
        sums[i / width] += counts[i];
    sort_by_heat(sums, 0, groups, group_order);
    for (size_t g = 0; g < groups; g++)
        sort_by_heat(counts, group_order[g] * width, width, order + g * width);
    mem_free(sums);
    mem_free(group_order);
}

/* ---- all layers ---- */

static void list_layers(struct expert_orders *o, struct arena *a, const struct arch *arch)
{
    uint64_t stored = arch_layers_stored(arch);

    o->experts = arch->experts;
    o->items = arena_array(a, (size_t)stored + 1, sizeof *o->items);
    for (uint64_t layer = 0; layer < stored; layer++) {
        if (arch->experts == 0 || !arch_is_moe_layer(arch, layer))
            continue;
        struct expert_order *item = &o->items[o->count++];
        item->layer = layer;
        item->experts = arena_array(a, (size_t)arch->experts, sizeof *item->experts);
        item->place = arena_array(a, (size_t)arch->experts, sizeof *item->place);
        for (uint32_t i = 0; i < arch->experts; i++)
            item->experts[i] = i;
    }
}

static void order_layer(const struct expert_orders *o, struct expert_order *item,
                        const struct expert_order_options *options, uint64_t groups)
{
    const struct routing_layer *l = options->stats ? routing_stats_layer(options->stats, item->layer) : NULL;

    item->measured = l != NULL;
    if (!l)
        return;
    if (o->kind == ORDER_HOT)
        order_hot(l->counts, (size_t)o->experts, (size_t)groups, item->experts);
    if (o->kind == ORDER_COACTIVE)
        coactive_order(l, o->experts, options->stats->experts_per_token, groups, &options->geometry, item->experts,
                       &item->gain);
}

static bool read_file(struct expert_orders *o, const char *path, struct err *e)
{
    char *text = NULL;
    size_t bytes = 0;
    bool ok = file_slurp(path, ORDER_BYTES_MAX, &text, &bytes, e) && expert_orders_parse(o, text, bytes, e);

    mem_free(text);
    return ok || err_in(e, "order '%s'", path);
}

bool expert_order_check_groups(const struct expert_order *o, uint64_t experts, uint64_t groups, struct err *e)
{
    uint64_t width = groups > 0 ? experts / groups : experts;

    for (uint64_t i = 0; i < experts; i++) {
        uint32_t first = o->experts[i / width * width], own = o->experts[i];
        if (first / width != own / width)
            return err_set(e, ERR_UNSUPPORTED,
                           "layer %" PRIu64 ": experts %" PRIu32 " and %" PRIu32
                           " would share a group, but are of groups %" PRIu64 " and %" PRIu64
                           "; routing picks groups of %" PRIu64
                           " first, so an expert may be renumbered only inside its own, and groups as wholes",
                           o->layer, first, own, first / width, own / width, width);
    }
    return true;
}

bool expert_orders_make(struct expert_orders *o, struct arena *a, const struct arch *arch,
                        const struct expert_order_options *options, struct err *e)
{
    uint64_t groups = options->keep_groups && arch->groups > 1 ? arch->groups : 1;

    *o = (struct expert_orders){.kind = options->kind};
    list_layers(o, a, arch);
    if (options->kind == ORDER_FILE && !read_file(o, options->path, e))
        return false;
    for (size_t i = 0; i < o->count; i++) {
        struct expert_order *item = &o->items[i];
        order_layer(o, item, options, groups);
        if (!expert_order_check_groups(item, arch->experts, groups, e))
            return options->path ? err_in(e, "order '%s'", options->path) : false;
        for (uint32_t place = 0; place < o->experts; place++)
            item->place[item->experts[place]] = place;
    }
    return true;
}

/* ---- statistics under new numbers ---- */

static void renumber_layer(const struct expert_order *order, size_t experts, size_t k, const struct routing_layer *from,
                           struct routing_layer *to)
{
    for (size_t i = 0; i < experts; i++) {
        size_t x = order->place[i];
        to->counts[x] = from->counts[i];
        to->weight_sums[x] = from->weight_sums[i];
        for (size_t y = 0; y < experts; y++)
            to->coactivation[x * experts + order->place[y]] = from->coactivation[i * experts + y];
    }
    to->tokens = from->tokens;
    for (size_t t = 0; t < from->tokens && to->trace; t++)
        for (size_t i = 0; i < k; i++) {
            int32_t id = (int32_t)order->place[from->trace[t * k + i]];
            float weight = from->trace_weights[t * k + i];
            size_t at = i;
            for (; at > 0 && to->trace[t * k + at - 1] > id; at--) {
                to->trace[t * k + at] = to->trace[t * k + at - 1];
                to->trace_weights[t * k + at] = to->trace_weights[t * k + at - 1];
            }
            to->trace[t * k + at] = id;
            to->trace_weights[t * k + at] = weight;
        }
}

/* All but the numbers of experts. */
static bool copy_under_new_routers(struct routing_stats *to, const struct routing_stats *from, struct err *e)
{
    char routers[HASH_HEX_BYTES];

    memcpy(routers, to->routers_sha256, sizeof routers);
    memcpy(to->routers_sha256, from->routers_sha256, sizeof routers);
    bool ok = routing_stats_merge(to, from, e);
    memcpy(to->routers_sha256, routers, sizeof routers);
    return ok;
}

bool expert_orders_renumber(const struct expert_orders *o, const struct routing_stats *from, const struct source *own,
                            struct routing_stats *to, struct err *e)
{
    size_t experts = (size_t)o->experts;

    if (!routing_stats_open(to, own, from->with_trace, e))
        return false;
    memcpy(to->config_sha256, from->config_sha256, sizeof to->config_sha256); /* may be that of a bundle's source */
    if (!copy_under_new_routers(to, from, e))
        return false;
    for (size_t i = 0; i < from->count; i++) {
        const struct expert_order *order = expert_orders_find(o, from->items[i].layer);
        renumber_layer(order, experts, (size_t)from->experts_per_token, &from->items[i], &to->items[i]);
    }
    return true;
}
