/* Which rank holds which routed experts: a balanced placement for expert
 * parallelism, and the files in which engines read it. */
#ifndef CONVERT_PLACEMENT_H
#define CONVERT_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/eplb.h"
#include "convert/expert_order.h"
#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/routing_stats.h"

struct placement_layer {
    uint64_t layer;
    bool measured;                        /* else placed as engines do without a placement */
    uint32_t *slot_expert, *slot_replica; /* [replicas] */
    uint32_t *counts;                     /* [experts] */
    double before, after; /* largest load of a rank over the mean: without a placement, and with this one */
};

struct placement {
    struct eplb_shape shape;
    struct placement_layer *items; /* per layer with routed experts, MTP's too */
    size_t count;
    uint64_t layers; /* without MTP */
};

/* orders: the experts' new numbers, when they are renumbered, or NULL. Memory from the arena. */
bool placement_make(struct placement *p, struct arena *a, const struct arch *arch, const struct eplb_shape *shape,
                    const struct routing_stats *stats, const struct expert_orders *orders, struct err *e) CHECKED;
const struct placement_layer *placement_find(const struct placement *p, uint64_t layer);
/* The rank that holds an expert's first replica. */
uint64_t placement_rank(const struct placement *p, const struct placement_layer *l, uint32_t expert);

/* {"physical_to_logical_map": [[...], ...]}: SGLang's --init-expert-location, a row for each layer of the model,
 * without MTP's. */
void placement_write_sglang(struct buf *out, const struct placement *p);
/* {"moe_layer_count", "layer_list": [{"layer_id", "device_count", "device_list": [{"device_id", "device_expert"}]}]}:
 * vLLM's expert map file; layers count from the first with routed experts, without MTP's. */
void placement_write_vllm(struct buf *out, const struct placement *p);

#endif
