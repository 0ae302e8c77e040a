/* Where the bytes of each routed expert stand: what an engine that offloads,
 * maps or distributes experts has to read for one. Codes, scales and zero
 * points; not the shapes, which config.json tells. */
#ifndef VERIFY_EXPERT_MAP_H
#define VERIFY_EXPERT_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/routing_stats.h"
#include "formats/weight.h"

/* Bytes in a row. */
struct expert_run {
    uint32_t file;
    uint64_t offset, bytes;
    uint64_t first_bytes; /* of its first tensor */
};

struct expert_runs {
    struct expert_run *items; /* by file and offset */
    size_t count, room;
};

struct expert_map {
    uint64_t layers, experts; /* layers: with MTP */
    struct expert_runs *runs; /* [layers][experts] */
};

void expert_map_init(struct expert_map *m, uint64_t layers, uint64_t experts);
void expert_map_add(struct expert_map *m, uint64_t layer, uint64_t expert, uint32_t file, uint64_t offset,
                    uint64_t bytes);
/* After the last tensor: sorts, and joins what stands in a row. */
void expert_map_finish(struct expert_map *m);
/* A checkpoint's own, files being its shards. */
void expert_map_open(struct expert_map *m, const struct source *s);
const struct expert_runs *expert_map_get(const struct expert_map *m, uint64_t layer, uint64_t expert);
void expert_map_release(struct expert_map *m); /* idempotent */

/* What one token costs, in the mean over a trace: each layer's chosen experts are read in file order, and what stands
 * in a row is one read, also over the border of two experts. */
struct expert_cost {
    uint64_t tokens;
    double experts; /* chosen per token, over all layers */
    double reads, bytes;
    double sequential; /* share of bytes that do not begin a read: of tensors behind the first of their read */
    double windows;    /* of window_bytes, counted from the start of a file, that are touched */
    double reads_per_expert, bytes_per_expert; /* over all experts of the map, whatever the trace */
};
void expert_map_cost(const struct expert_map *m, const struct routing_stats *trace, uint64_t window_bytes,
                     struct expert_cost *cost);
/* The runs that a token's choices in a layer need, joined and in file order; out has room for expert_map_runs_max. */
size_t expert_map_gather(const struct expert_map *m, uint64_t layer, const int32_t *ids, size_t count,
                         struct expert_run *out);
size_t expert_map_runs_max(const struct expert_map *m, size_t experts_per_token);

#endif
