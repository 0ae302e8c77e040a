/* Whether a model whose routed experts have other numbers is the same function:
 * source and result are run over the fingerprint's prompt and held together.
 *
 * Each layer of the result is given the source's own hidden states, and beside
 * them those of its own run. What a layer makes of the source's states differs
 * from what the source makes of them by the order in which experts' outputs are
 * summed, and by nothing else: the experts it chooses are the source's, one to
 * one, without exception. Its own run carries such rounding on, to the logits.
 * MTP's layer is given the source's states too. */
#ifndef VERIFY_RENUMBERING_H
#define VERIFY_RENUMBERING_H

#include <stdint.h>

#include "formats/base/err.h"
#include "formats/weight.h"
#include "verify/expert_numbers.h"
#include "verify/fingerprint.h"

/* A token's distance from the source's, relative to what the layer adds to it: a sum of experts in another order moves
 * it by some 1e-7. */
#define RENUMBERING_ERROR_MAX 1e-5
/* Of the logits of a run that chooses the same experts throughout: measured are 1e-13. */
#define RENUMBERING_KL_MAX 1e-6

struct renumbering_proof {
    size_t positions;
    uint64_t choices, mapped;  /* of experts, given the source's states; MTP's too */
    uint64_t own_choices, own; /* the same in the result's own run, without MTP's */
    double layer_error;        /* the largest of a token in a layer */
    double logit_delta, kl, kl_max;
};

/* What it reads of both, and the memory it takes at once: `after` may be one that is not written yet. An error is why
 * it cannot be done. */
bool renumbering_cost(struct fingerprint_cost *cost, const struct source *before, const struct source *after,
                      unsigned threads, struct err *e) CHECKED;
/* ERR_DIFFERS, saying where, when the two are not the same function. */
bool renumbering_prove(struct renumbering_proof *p, const struct source *before, const struct source *after,
                       const struct expert_numbers *r, const struct fingerprint_options *o, struct err *e) CHECKED;

#endif
