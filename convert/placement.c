#include "convert/placement.h"

#include <string.h>

#include "formats/json.h"

const struct placement_layer *placement_find(const struct placement *p, uint64_t layer)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->items[i].layer == layer)
            return &p->items[i];
    return NULL;
}

uint64_t placement_rank(const struct placement *p, const struct placement_layer *l, uint32_t expert)
{
    uint64_t slot = 0;

    while (l->slot_expert[slot] != expert || l->slot_replica[slot] != 0)
        slot++;
    return slot / (p->shape.replicas / p->shape.ranks);
}

/* ---- making ---- */

static void place_layer(const struct placement *p, struct placement_layer *item, const struct routing_layer *l,
                        const struct expert_order *order, float *loads)
{
    const struct eplb_shape *s = &p->shape;

    eplb_trivial(s, item->slot_expert, item->slot_replica, item->counts);
    item->measured = l != NULL;
    item->before = item->after = 1;
    if (!l)
        return;
    for (uint32_t i = 0; i < s->experts; i++)
        loads[i] = (float)l->counts[order ? order->experts[i] : i];
    item->before = eplb_imbalance(s, loads, item->slot_expert, item->counts);
    eplb_place(s, loads, item->slot_expert, item->slot_replica, item->counts);
    item->after = eplb_imbalance(s, loads, item->slot_expert, item->counts);
}

bool placement_make(struct placement *p, struct arena *a, const struct arch *arch, const struct eplb_shape *shape,
                    const struct routing_stats *stats, const struct expert_orders *orders, struct err *e)
{
    uint64_t stored = arch_layers_stored(arch);
    float *loads = NULL;

    *p = (struct placement){.shape = *shape, .layers = arch->layers};
    if (!eplb_check(shape, e))
        return false;
    p->items = arena_array(a, (size_t)stored + 1, sizeof *p->items);
    loads = mem_alloc((size_t)shape->experts * sizeof *loads);
    for (uint64_t layer = 0; layer < stored; layer++) {
        struct placement_layer *item = &p->items[p->count];
        if (!arch_is_moe_layer(arch, layer))
            continue;
        p->count++;
        item->layer = layer;
        item->slot_expert = arena_array(a, (size_t)shape->replicas, sizeof *item->slot_expert);
        item->slot_replica = arena_array(a, (size_t)shape->replicas, sizeof *item->slot_replica);
        item->counts = arena_array(a, (size_t)shape->experts, sizeof *item->counts);
        place_layer(p, item, routing_stats_layer(stats, layer), orders ? expert_orders_find(orders, layer) : NULL,
                    loads);
    }
    mem_free(loads);
    return true;
}

/* ---- files ---- */

static void put_slots(struct json_writer *w, const char *key, const struct placement_layer *l, uint64_t first,
                      uint64_t count, uint64_t experts)
{
    bool compact = w->compact;

    json_begin_array(w, key);
    w->compact = true; /* one row a line */
    for (uint64_t i = first; i < first + count; i++)
        json_put_u64(w, NULL, l ? l->slot_expert[i] : i % experts);
    json_end(w, ']');
    w->compact = compact;
}

void placement_write_sglang(struct buf *out, const struct placement *p)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    json_begin_array(&w, "physical_to_logical_map");
    /* A dense layer has a row as well, which nobody reads. */
    for (uint64_t layer = 0; layer < p->layers; layer++)
        put_slots(&w, NULL, placement_find(p, layer), 0, p->shape.replicas, p->shape.experts);
    json_end(&w, ']');
    json_end(&w, '}');
    buf_puts(out, "\n");
}

static void put_layer(struct json_writer *w, const struct placement *p, const struct placement_layer *l, uint64_t id)
{
    uint64_t per_rank = p->shape.replicas / p->shape.ranks;

    json_begin_object(w, NULL);
    w->compact = true;
    json_put_u64(w, "layer_id", id);
    json_put_u64(w, "device_count", p->shape.ranks);
    json_begin_array(w, "device_list");
    for (uint64_t rank = 0; rank < p->shape.ranks; rank++) {
        json_begin_object(w, NULL);
        json_put_u64(w, "device_id", rank);
        put_slots(w, "device_expert", l, rank * per_rank, per_rank, p->shape.experts);
        json_end(w, '}');
    }
    json_end(w, ']');
    json_end(w, '}');
    w->compact = false;
}

static uint64_t count_main_layers(const struct placement *p)
{
    uint64_t count = 0;

    for (size_t i = 0; i < p->count; i++)
        count += p->items[i].layer < p->layers;
    return count;
}

void placement_write_vllm(struct buf *out, const struct placement *p)
{
    struct json_writer w = {.out = out};
    uint64_t id = 0;

    json_begin_object(&w, NULL);
    json_put_u64(&w, "moe_layer_count", count_main_layers(p));
    json_begin_array(&w, "layer_list");
    for (size_t i = 0; i < p->count; i++)
        if (p->items[i].layer < p->layers)
            put_layer(&w, p, &p->items[i], id++);
    json_end(&w, ']');
    json_end(&w, '}');
    buf_puts(out, "\n");
}
