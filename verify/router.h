/* Which experts a token goes to, and with what weights. Pure functions, all in
 * float32 whatever else is emulated. */
#ifndef VERIFY_ROUTER_H
#define VERIFY_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/arch.h"
#include "quant/kernel.h"

struct router {
    enum arch_scoring scoring;
    enum arch_topk topk;
    size_t experts, top_k, groups, topk_groups; /* groups are consecutive runs of experts / groups */
    bool normalize;
    float scaling;
    const float *bias; /* [experts]: added to the scores for the choice alone; NULL: none */
};

void router_init(struct router *r, const struct arch *arch, const float *bias);
/* Scratch of router_choose, in bytes. */
size_t router_scratch_bytes(const struct router *r);
/* scores = sigmoid(logits), or their softmax over all experts. May be in place. */
void router_score(const struct router *r, const struct kernel *k, const float *logits, float *scores);
/* The top_k experts, ids ascending, and their weights:
 *
 *   noaux_tc              chosen by score + bias; with groups only the topk_groups groups whose two best sum highest,
 *                         the others being -infinity
 *   group_limited_greedy  chosen by score; groups by their best, the others being 0
 *   greedy                chosen by score
 *
 * Ties go to the lower index, of groups as well. The weight is the score, without bias; normalized it is divided by
 * the sum (ids ascending) + 1e-20; then it is multiplied by scaling. */
void router_choose(const struct router *r, const float *scores, uint32_t *ids, float *weights, void *scratch);

#endif
