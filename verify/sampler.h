/* The next token from the logits of one position.
 *
 * Temperature 0 takes the highest logit, the lowest id of equal ones. Else logits are ordered, highest first (equal
 * ones by id), the first top_k stay, each gets exp((logit - highest) / temperature) in float64, of these the shortest
 * beginning stays that has top_p of their sum, and one is drawn by a number from random.h. Sums go in that order and
 * exp is quant/vecmath.h's, so the same logits, settings and seed give the same tokens on every machine. */
#ifndef VERIFY_SAMPLER_H
#define VERIFY_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/random.h"

struct sampler_options {
    double temperature; /* at least 0 */
    double top_p;       /* in (0, 1]; 1: all */
    uint64_t top_k;     /* 0: all */
    uint64_t seed;
};

/* Zero holds nothing. */
struct sampler {
    struct sampler_options options;
    struct random_state random;
    struct sampler_candidate *candidates;
    size_t candidate_room;
};

void sampler_init(struct sampler *s, const struct sampler_options *o);
/* An id below count, which is at least 1; the logits are finite. */
uint32_t sampler_pick(struct sampler *s, const float *logits, size_t count);
void sampler_release(struct sampler *s);

#endif
