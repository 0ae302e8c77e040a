/* Bits where they help most: which option each unit takes, so that all together stay within a number of bytes and lose
 * the least.
 *
 *     minimise  sum_u loss[u][o(u)]   subject to   sum_u bytes[u][o(u)] <= budget
 *
 * A Lagrangian (Everett 1963; Shoham and Gersho 1988 for bits): for a price of a byte each unit takes what minimises
 * loss + price x bytes, which is a corner of the lower convex hull of its options. As the price falls, units step along
 * their hulls, the step that saves most loss per byte first. That order is walked until a step does not fit; from
 * there on single units move, to any of their options, by what saves most loss per byte of those that fit.
 *
 *   ties   of equal steps the lower unit's is first; of a unit's equal options the one of fewer bytes, then the lower
 *   bound  no choice within the budget loses less than `bound`: the hulls' loss at the price of the first step that did
 *          not fit. The loss is above that by no more than what this step would have saved.
 *
 * Only additions, products and comparisons of float64, so the same choice on any machine. */
#ifndef CONVERT_ALLOCATE_H
#define CONVERT_ALLOCATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

#define ALLOCATE_OPTIONS_MAX 8u

struct allocate_option {
    uint64_t bytes;
    double loss; /* >= 0; infinity: not to be taken */
};

struct allocate_unit {
    uint64_t weights; /* numbers in it, for bits per weight */
    size_t option_count;
    struct allocate_option options[ALLOCATE_OPTIONS_MAX];
    size_t chosen; /* allocate's */
};

struct allocation {
    uint64_t weights, bytes; /* of all units, as chosen */
    double loss, bound;
    double bits_least, bits_most; /* per weight: the narrowest choice, and the one past which nothing is saved */
};

/* Fills each unit's `chosen`. target_bits: per weight, over all units. ERR_UNSUPPORTED: no units, or one without an
 * option that may be taken; a target below bits_least, with both. Above bits_most is fine: nothing is left to save. */
bool allocate(struct allocate_unit *units, size_t count, double target_bits, struct allocation *a,
              struct err *e) CHECKED;
double allocate_bits(uint64_t bytes, uint64_t weights); /* per weight */

#endif
