/* What is done with whole hidden states between layers, by rows on all threads. Each row's numbers depend on that row
 * alone, so the number of threads changes the time only. */
#ifndef VERIFY_STATE_ROWS_H
#define VERIFY_STATE_ROWS_H

#include "verify/batch.h"
#include "verify/layer_metrics.h"
#include "verify/stream.h"

/* errors[t] for tokens [0, count): other against ref; in: what entered the layer, or NULL. */
bool states_compare(unsigned threads, const struct stream *in, const struct stream *ref, const struct stream *other,
                    size_t count, struct state_error *errors, struct err *e) CHECKED;
/* The first rows of a larger stream, as many as `to` has. */
bool states_copy(unsigned threads, const struct stream *from, struct stream *to, struct err *e) CHECKED;
/* Moves each element by one unit in its last place, up or down or (every second one) not at all, by a hash of layer,
 * token and column: what another order of summation does to the last bit. */
bool states_nudge(unsigned threads, struct stream *s, uint64_t layer, struct err *e) CHECKED;
/* Golden sums of each context: out [contexts][GOLDEN_PROJECTIONS]. */
bool states_project(unsigned threads, const struct stream *s, const struct batch *batch, float *out,
                    struct err *e) CHECKED;

#endif
