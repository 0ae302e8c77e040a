/* In which order the routed experts of each layer are to stand: by index, by
 * use, by what fires together, or as a file says. Where experts are renumbered,
 * an order keeps groups: routing picks whole groups first, so an expert may move
 * only inside its group, and groups as wholes. */
#ifndef CONVERT_EXPERT_ORDER_H
#define CONVERT_EXPERT_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/coactive.h"
#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/routing_stats.h"

enum order_kind { ORDER_INDEX, ORDER_HOT, ORDER_COACTIVE, ORDER_FILE };

struct expert_order {
    uint64_t layer;
    uint32_t *experts;         /* [experts]: the expert at each place */
    uint32_t *place;           /* and back: the place of each expert */
    bool measured;             /* the statistics have this layer */
    struct coactive_gain gain; /* ORDER_COACTIVE */
};

struct expert_orders {
    enum order_kind kind;
    uint64_t experts;
    struct expert_order *items; /* one per layer with routed experts, MTP's too, ascending; in the arena */
    size_t count;
};

struct expert_order_options {
    enum order_kind kind;
    bool keep_groups;                  /* the order will be the experts' numbers */
    const struct routing_stats *stats; /* HOT, COACTIVE; layers it has nothing of keep index order */
    struct coactive_geometry geometry; /* COACTIVE */
    const char *path;                  /* FILE */
};

/* Refused: a file that names an expert twice, or not at all, or, with keep_groups, across groups. */
bool expert_orders_make(struct expert_orders *o, struct arena *a, const struct arch *arch,
                        const struct expert_order_options *options, struct err *e) CHECKED;
/* NULL: a layer without routed experts. */
const struct expert_order *expert_orders_find(const struct expert_orders *o, uint64_t layer);
/* The statistics under the new numbers, of the model that has them: to is opened for it. */
bool expert_orders_renumber(const struct expert_orders *o, const struct routing_stats *from, const struct source *own,
                            struct routing_stats *to, struct err *e) CHECKED;
/* Whether places of one group's width hold one group each; names the first two experts that do not go together. */
bool expert_order_check_groups(const struct expert_order *o, uint64_t experts, uint64_t groups, struct err *e) CHECKED;

/* A file of orders: a line per layer, "LAYER: ID ID ...", or "*: ID ID ..." for all layers without a line of their own;
 * '#' begins a comment. (expert_order_file.c) */
bool expert_orders_parse(struct expert_orders *o, const char *text, size_t bytes, struct err *e) CHECKED;

#endif
