/* Routing traces made from a seed: what a mixture's router might choose, with a
 * structure that is known, or with none. */
#ifndef SAMPLES_GENERATE_SYNTHETIC_TRACE_H
#define SAMPLES_GENERATE_SYNTHETIC_TRACE_H

#include <stdint.h>

#include "formats/routing_stats.h"

struct synthetic_trace {
    uint64_t tokens;
    uint64_t communities; /* experts fall into so many of one size, scattered over the indices; 1: no structure */
    double loyalty;       /* share of a token's choices that come from its community */
    double zipf;          /* load of the i-th hottest community and, in it, expert: i^-zipf; 0: even */
    uint64_t groups;      /* communities lie inside groups of consecutive experts; 1: anywhere */
    uint64_t seed;
};

/* Adds the choices of all tokens in one layer. The structure follows from seed and layer. */
void synthetic_trace_add(struct routing_stats *s, uint64_t layer, const struct synthetic_trace *t);
/* loads: [experts], i^-zipf in an order drawn from the seed. */
void synthetic_loads(float *loads, uint64_t experts, double zipf, uint64_t seed);

#endif
