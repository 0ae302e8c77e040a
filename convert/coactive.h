/* Orders experts so that those that fire together stand together: a token's
 * experts then touch fewer windows of the file. Clusters grow by average
 * linkage, are joined end to end, and swapped while that helps.
 *
 * An order learnt is held against index order on tokens that it has not seen,
 * and index order stays where the gain is not beyond doubt. */
#ifndef CONVERT_COACTIVE_H
#define CONVERT_COACTIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/routing_stats.h"

/* What a window is: a cache or read-ahead unit of the file, which experts of one size share. */
struct coactive_geometry {
    uint64_t expert_bytes, window_bytes;
};

struct coactive_gain {
    bool checked;      /* there was a trace long enough to hold tokens out */
    bool kept_index;   /* index order was not clearly worse on them */
    double index, own; /* windows touched per held-out token; 0 when not checked */
};

/* order: [experts], the expert at each place. groups > 1: they stay together, as expert_order.h says. */
void coactive_order(const struct routing_layer *layer, uint64_t experts, uint64_t experts_per_token, uint64_t groups,
                    const struct coactive_geometry *g, uint32_t *order, struct coactive_gain *gain);
/* The order alone, from pairs: [experts][experts]. */
void coactive_cluster(const int64_t *pairs, uint64_t experts, uint64_t groups, const struct coactive_geometry *g,
                      uint32_t *order);
/* Mean windows that one token's experts touch, over tokens [first, first + count) of a trace and four phases of the
 * windows against the experts. place: [experts]. per_token, when not NULL, gets each token's. */
double coactive_windows(const int32_t *trace, uint64_t experts_per_token, size_t first, size_t count,
                        const uint32_t *place, const struct coactive_geometry *g, double *per_token);

#endif
