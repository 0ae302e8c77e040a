/* Random numbers that are the same everywhere: SplitMix64 (Steele, Lea, Flood 2014), whose state is a counter. Not for
 * secrets. */
#ifndef FORMATS_BASE_RANDOM_H
#define FORMATS_BASE_RANDOM_H

#include <stdint.h>

struct random_state {
    uint64_t counter; /* the seed, at first */
};

uint64_t random_u64(struct random_state *r);
/* 0 .. below - 1, each as likely as the others; below > 0. */
uint64_t random_below(struct random_state *r, uint64_t below);
/* 53 bits in [0, 1). */
double random_unit(struct random_state *r);

#endif
