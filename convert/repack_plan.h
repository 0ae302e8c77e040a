/* The plan of `quern repack`: the source's tensors in another order, under other
 * names, or split over ranks, and not one value changed. The same plan as a
 * conversion's, run by the same executor. */
#ifndef CONVERT_REPACK_PLAN_H
#define CONVERT_REPACK_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/expert_order.h"
#include "convert/placement.h"
#include "convert/plan.h"

struct repack_target {
    const char *dir;
    const struct recipe *recipe; /* names what is done; it has no rules */
    enum plan_zones zones;
    uint64_t align, shard_bytes;
    const struct expert_orders *orders;
    bool renumber; /* an expert's place in its order becomes its number */
    bool keep_unknown;
    const struct placement *by_rank; /* a set of shards per rank, by this placement; or NULL */
    uint64_t mp;                     /* one file per rank as DeepSeek's inference code wants them; 0: none */
};

/* Refused: tensors of unknown role (unless kept), routers that are not plain rows, splits that cut a block of FP8 or a
 * group of int4. */
bool repack_plan_open(struct plan *p, const struct source *s, const struct repack_target *t, struct err *e) CHECKED;

/* ---- names (repack_names.c) ---- */

/* A tensor's name in DeepSeek's inference code. */
char *repack_mp_name(struct arena *a, const char *name);
/* Along which dimension a matrix of this role is split over ranks there: 0, 1, or -1: each rank has it whole. */
int repack_mp_dimension(enum role role);

#endif
