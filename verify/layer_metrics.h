/* What one layer of two checkpoints says: errors of hidden states, agreement of routing. Sums in float64, by
 * token, each token by eight running sums over its columns (column % 8) added up in order. */
#ifndef VERIFY_LAYER_METRICS_H
#define VERIFY_LAYER_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One token's hidden state against the reference's. */
struct state_error {
    double error2;  /* |other - ref|^2 */
    double ref2;    /* |ref|^2 */
    double other2;  /* |other|^2 */
    double dot;     /* ref . other */
    double update2; /* |ref - ref_in|^2: what the layer added; 0 without ref_in */
    bool same;      /* other is ref to the bit */
};
/* ref_in: the state that entered the layer, or NULL. */
void state_compare(struct state_error *s, const float *ref_in, const float *ref, const float *other, size_t cols);

/* Over tokens, the root of the mean of the squared relative errors. Each token counts alike, so that the few whose
 * states are a thousand times larger (the first of a context in large models) do not hide the others.
 * Relative to what the layer added (where it added nothing, to the state), and to the state. */
double state_error_of_update(const struct state_error *s, size_t tokens);
double state_error_of_state(const struct state_error *s, size_t tokens);
bool states_same(const struct state_error *s, size_t tokens);    /* all of them */
double state_cosine(const struct state_error *s, size_t tokens); /* mean; of two zero states 1, of one 0 */

/* Routing of one layer: chosen experts of two runs, per token ascending. */
struct routing_agreement {
    uint64_t tokens, changed; /* tokens; those whose set is not the same */
    double overlap, jaccard;  /* means over tokens: |A n B| / k, |A n B| / |A u B| */
};
void routing_compare(struct routing_agreement *r, const uint32_t *ref, const uint32_t *other, size_t tokens,
                     size_t top_k);
void routing_count(uint64_t *load, const uint32_t *ids, size_t tokens, size_t top_k); /* adds to load[expert] */

#define NO_LAYER SIZE_MAX

/* The layers whose error stands out from their peers'.
 *
 * Peers of a layer: the other layers of its kind (dense, MoE), or all others where its kind has fewer than four
 * others. A layer stands out when its error is above each of
 *   3 times the median of its peers,
 *   that median + 6 standard deviations, estimated as 1.4826 times the median distance from it (MAD; not asked with
 *   fewer than five peers), and
 *   3 times its own BF16 floor (floors NULL or NaN: not asked); but when the median of its peers is exactly 0, the two
 *   checkpoints compute the same elsewhere to the last bit, and any error at all stands out.
 * Median and MAD stay put when up to half of the peers are damaged too. Returns the first, or NO_LAYER.
 * A NaN error stands out. */
size_t outliers_find(bool *stands_out, const double *errors, const double *floors, const bool *moe, size_t layers);
/* The median that layer is held against; NaN when it has no peers. */
double outlier_peer_median(const double *errors, const bool *moe, size_t layers, size_t layer);

#endif
