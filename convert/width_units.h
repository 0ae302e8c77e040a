/* What --target-bpw chooses for: the weights that a recipe rounds to int4 by ldlq, in units that engines load as one,
 * with the bytes and the loss of each scheme that a statistics file knows.
 *
 * A unit is a set of formats/engine's in a layer (all routed experts with their three matrices; gate and up of a dense
 * or shared MLP; q_a and kv_a), else a matrix of its own. Where sets may be split, a layer's experts are two units:
 * gate with up, and down.
 *
 * Losses of different layers and matrices are made one quantity: the square error that the text would see in the hidden
 * state, over the square of the hidden state behind the layer (both summed over the text; the sensitivity of every
 * layer is taken for 1). With L and E a matrix's loss and energy for a mean token, of n tokens:
 *
 *   writes to the hidden state    o_proj, down         n L / hidden
 *   stands before such a one      the others           n E(o_proj or down) (L / E) / hidden
 *   an expert's                   times the mean square of its routing weight, as (sum of weights / n)^2
 *
 * The first is Delta_u = sum_e f_e L_e / E|h|^2 of bit allocation by layer, as MxMoE and others have it; the second is
 * to first order: what enters the last matrix off by a share comes out of it off by that share. Experts without tokens
 * count nothing. An MTP layer drafts and changes no output: it counts nothing, and so gets the narrowest scheme. */
#ifndef CONVERT_WIDTH_UNITS_H
#define CONVERT_WIDTH_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/allocate.h"
#include "convert/recipe.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/calib_stats.h"
#include "formats/weight.h"

struct width_unit {
    uint64_t layer;
    uint64_t roles;       /* bit r: the matrices of role r */
    bool positive_scales; /* as the recipe has it */
};

struct width_units {
    struct arena arena;
    struct width_unit *items;       /* by layer, then role */
    struct allocate_unit *allocate; /* the same units; options by enum calib_scheme */
    size_t count;
};

/* Refused: a recipe without such weights; one that treats those of one role in a layer differently; statistics without
 * losses, or without those of a weight that is among them. */
bool width_units_make(struct width_units *u, const struct recipe *base, const struct source *s,
                      const struct calib_stats *stats, bool split, struct err *e) CHECKED;
void width_units_release(struct width_units *u); /* idempotent */

/* The scheme as a bundle stores it: FP8 is in compressed-tensors' layout, which holds both. */
struct scheme width_scheme(enum calib_scheme s);

#endif
