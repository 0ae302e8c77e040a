#include "tests/repack_support.h"

#include <string.h>

#include "formats/base/log.h"
#include "samples/generate/synthetic_trace.h"

static bool fill_stats(struct repacked *r, struct err *e)
{
    struct synthetic_trace t = {.tokens = 200, .communities = 1, .zipf = 1, .groups = 1, .seed = 1};

    if (!routing_stats_open(&r->stats, &r->source, true, e))
        return false;
    for (uint64_t layer = 0; layer < arch_layers_stored(&r->source.arch); layer++)
        if (arch_is_moe_layer(&r->source.arch, layer))
            synthetic_trace_add(&r->stats, layer, &t);
    routing_stats_add_sequence(&r->stats, t.tokens);
    return true;
}

static bool make_placement(struct repacked *r, const struct repack_case *c, struct err *e)
{
    struct eplb_shape shape = c->ep;

    shape.experts = r->source.arch.experts;
    shape.groups = r->source.arch.groups > 0 ? r->source.arch.groups : 1;
    if (shape.replicas == 0)
        shape.replicas = shape.experts;
    return placement_make(&r->placement, &r->arena, &r->source.arch, &shape, &r->stats,
                          c->target.renumber ? &r->orders : NULL, e);
}

bool repacked_open(struct repacked *r, const char *src, const char *dst, const struct repack_case *c, struct err *e)
{
    struct expert_order_options order = c->order;
    struct repack_target target = c->target;

    log_set_level(LOG_QUIET);
    *r = (struct repacked){.recipe = {.name = "repack"}};
    r->recipe.text = arena_strdup(&r->arena, "{\"name\":\"repack\"}");
    if (!source_open(&r->source, src, true, e))
        return false;
    if (r->source.arch.experts > 0 && !fill_stats(r, e))
        return false;
    order.stats = &r->stats;
    order.keep_groups = target.renumber;
    order.geometry = (struct coactive_geometry){100000, 640000};
    if (!expert_orders_make(&r->orders, &r->arena, &r->source.arch, &order, e))
        return false;
    if (c->ep.ranks > 0 && !make_placement(r, c, e))
        return false;
    target.dir = dst;
    target.recipe = &r->recipe;
    target.orders = &r->orders;
    target.by_rank = c->by_rank ? &r->placement : NULL;
    target.align = target.align > 0 ? target.align : 4096;
    target.shard_bytes = target.shard_bytes > 0 ? target.shard_bytes : 5000000000u;
    return repack_plan_open(&r->plan, &r->source, &target, e);
}

void repacked_close(struct repacked *r)
{
    plan_close(&r->plan);
    routing_stats_release(&r->stats);
    arena_release(&r->arena);
    source_close(&r->source);
}

bool support_repack(struct repacked *r, const char *src, const char *dst, const struct repack_case *c, struct err *e)
{
    return repacked_open(r, src, dst, c, e) && support_run(&r->plan, dst, c->threads, c->memory_bytes, e);
}
