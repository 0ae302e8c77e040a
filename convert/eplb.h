/* Balanced placement of experts on ranks, by the published EPLB algorithm
 * (github.com/deepseek-ai/EPLB), written anew. Expert groups are packed onto
 * nodes, hot experts are replicated inside a node, and a node's replicas are
 * packed onto its ranks. Arithmetic is float32, as theirs is; ties go to the
 * lower index. Pure functions; any thread. */
#ifndef CONVERT_EPLB_H
#define CONVERT_EPLB_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"

struct eplb_shape {
    uint64_t experts, replicas /* experts with their copies: slots over all ranks */, groups, nodes, ranks;
};

/* Refuses, naming the numbers, what cannot be placed: slots that ranks do not divide, fewer slots than experts, ranks
 * that nodes do not divide. */
bool eplb_check(const struct eplb_shape *s, struct err *e) CHECKED;
/* Groups stay on one node; when they do not divide over the nodes, experts are placed as if there were neither. */
bool eplb_is_hierarchical(const struct eplb_shape *s);

/* loads: [experts]. slot_expert: [replicas], rank r has slots [r * replicas / ranks, ...). slot_replica: which of its
 * expert's replicas a slot is, from 0. counts: [experts] replicas of each. */
void eplb_place(const struct eplb_shape *s, const float *loads, uint32_t *slot_expert, uint32_t *slot_replica,
                uint32_t *counts);
/* Slot i holds expert i modulo experts: what engines do without a placement. The same outputs. */
void eplb_trivial(const struct eplb_shape *s, uint32_t *slot_expert, uint32_t *slot_replica, uint32_t *counts);
/* The largest load of a rank over the mean, an expert's load shared evenly by its replicas. 1: balanced. */
double eplb_imbalance(const struct eplb_shape *s, const float *loads, const uint32_t *slot_expert,
                      const uint32_t *counts);

#endif
