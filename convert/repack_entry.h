/* Entries: the weights of a repacked checkpoint while they are put in order.
 * For repack_plan.c and repack_entry.c. */
#ifndef CONVERT_REPACK_ENTRY_H
#define CONVERT_REPACK_ENTRY_H

#include "convert/repack_plan.h"

struct entry {
    struct weight *weight; /* a copy of the source's, with its new name, rows and cols */
    struct plan_piece *piece;
    struct plan_row row; /* scheme and parts */
    const char *why;
    uint32_t set; /* of shards: 0 all ranks', then each rank's, then each rank's replicas */
    bool expert;  /* a routed one, in a layer that has an order */
    bool unlisted;
    uint32_t place;  /* of an expert */
    size_t sequence; /* in the source */
    size_t order;    /* as last sorted */
    uint32_t shard;
};

struct entry_list {
    const struct repack_target *target;
    struct arena *arena; /* the plan's */
    struct entry *items;
    size_t count, room;
    size_t sequence;         /* of the weight that is being added */
    struct plan_drop *drops; /* in the arena */
    size_t drop_count;
};

/* A whole weight with its parts as they are. Valid until the next is added. */
struct entry *entry_add(struct entry_list *l, const struct weight *w);
/* A weight as model-parallel ranks have it: whole on one, split, or on each. */
bool entry_add_split(struct entry_list *l, const struct weight *w, const struct arch *arch, struct err *e) CHECKED;
void entry_rename_expert(struct entry_list *l, struct entry *entry, uint64_t expert);

uint32_t entry_set_of_rank(uint64_t rank, bool replicas);
char *entry_shard_name(struct arena *a, const struct repack_target *t, uint32_t set, size_t number, size_t count);
bool entry_same_unit(const struct entry *a, const struct entry *b);

/* By set, layer, experts by place, the rest as in the source. */
void entry_sort(struct entry_list *l);
/* By shard, the experts first: the order in which files are written. */
void entry_sort_by_shard(struct entry_list *l);
/* As in the source, a weight's pieces side by side: it is read once for all ranks. */
void entry_sort_by_source(struct entry_list *l);
void entry_list_release(struct entry_list *l);

#endif
