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

/* ---- models, and what became of them ---- */

static const struct scheme int4_asym = {.kind = SCHEME_INT4,
                                        .dtype = DTYPE_I32,
                                        .scale = SCALE_BF16,
                                        .group_cols = 32,
                                        .asymmetric = true,
                                        .shape_i64 = true};
static const struct scheme fp8_channel = {.kind = SCHEME_FP8_CHANNEL, .dtype = DTYPE_F8_E4M3, .scale = SCALE_BF16};

const struct repack_storage repack_storages[] = {
    {"bf16", &support_bf16, false, false},
    {"fp8", &support_fp8, false, false},
    {"fp8 and odd ones", &support_fp8, true, false},
    {"fp8 by tensor", &support_fp8_tensor, false, true},
    {"fp8 by channel", &fp8_channel, false, false},
    {"int4 as Kimi has it", &support_kimi_int4, false, false},
    {"int4 with zero points", &int4_asym, false, false},
};
const size_t repack_storage_count = sizeof repack_storages / sizeof repack_storages[0];

const char *repack_model(size_t storage)
{
    const char *src = ct_temp_dir();
    struct ckpt_maker m = {0};

    if (!support_model(&m, repack_storages[storage].linear))
        return src;
    if (repack_storages[storage].odd)
        support_odd_tensors(&m);
    if (repack_storages[storage].input_scale)
        support_input_scale(&m, "model.layers.1.mlp.experts.3.up_proj");
    ckpt_write(&m, src);
    ckpt_release(&m);
    return src;
}

void *support_read_tensor(const struct checkpoint *c, const struct tensor *t)
{
    void *data = mem_alloc((size_t)t->bytes + 1);
    struct err e = {0};

    EXPECT_OK(checkpoint_read(c, t, 0, data, (size_t)t->bytes, &e), e);
    return data;
}

/* The name that a source tensor has now, and whether its rows follow the experts' numbers. */
static const char *new_name(struct arena *a, const struct repacked *r, const char *name, bool renumber, bool *by_rows)
{
    struct tensor_id id;

    arch_identify(&r->source.arch, name, &id);
    *by_rows = renumber && (id.role == ROLE_ROUTER || id.role == ROLE_ROUTER_BIAS);
    if (!renumber || id.expert < 0)
        return name;
    const struct expert_order *order = expert_orders_find(&r->orders, (uint64_t)id.layer);
    return arch_expert_name(a, name, order->place[id.expert]);
}

static void expect_rows(const uint8_t *want, const uint8_t *have, uint64_t bytes, const struct expert_order *order,
                        uint64_t experts)
{
    size_t row = (size_t)(bytes / experts);

    for (size_t i = 0; i < experts; i++)
        EXPECT_MEM_EQ(want + order->experts[i] * row, have + i * row, row);
}

void repacked_expect_same(const struct repacked *r, const char *dst, bool renumber)
{
    const struct checkpoint *from = &r->source.checkpoint;
    struct checkpoint to = {0};
    struct arena a = {0};
    struct err e = {0};

    ASSERT_OK(checkpoint_open(&to, dst, &e), e);
    EXPECT_EQ_U64(from->tensor_count, to.tensor_count);
    for (size_t i = 0; i < from->tensor_count; i++) {
        const struct tensor *t = &from->tensors[i];
        bool by_rows = false;
        const char *name = new_name(&a, r, t->name, renumber, &by_rows);
        const struct tensor *own = checkpoint_find(&to, name);
        struct tensor_id id;
        ct_case("%s as %s", t->name, name);
        ASSERT_TRUE(own != NULL);
        ASSERT_EQ_I64(t->dtype, own->dtype);
        ASSERT_EQ_U64(t->rank, own->rank);
        EXPECT_MEM_EQ(t->dims, own->dims, sizeof t->dims);
        ASSERT_EQ_U64(t->bytes, own->bytes);
        uint8_t *want = support_read_tensor(from, t), *have = support_read_tensor(&to, own);
        arch_identify(&r->source.arch, t->name, &id);
        if (by_rows)
            expect_rows(want, have, t->bytes, expert_orders_find(&r->orders, (uint64_t)id.layer), r->orders.experts);
        else
            EXPECT_MEM_EQ(want, have, t->bytes);
        mem_free(want);
        mem_free(have);
    }
    checkpoint_close(&to);
    arena_release(&a);
}
