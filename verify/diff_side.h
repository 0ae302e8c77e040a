/* One checkpoint on its way through a comparison: its forward pass, its own hidden state before and after the layer
 * that ran last, and which experts it chose there. Never more than two states of all tokens. */
#ifndef VERIFY_DIFF_SIDE_H
#define VERIFY_DIFF_SIDE_H

#include "formats/routing_stats.h"
#include "verify/forward.h"

struct diff_side {
    struct forward *f;
    const struct source *source;
    const struct arch *arch;
    const struct batch *batch;
    struct stream states[2];
    size_t now;                  /* states[now]: after what ran last; the other one: before it */
    uint32_t *chosen;            /* [tokens][top_k] of the layer that ran last; NULL: a dense model */
    bool routed;                 /* that layer has them */
    struct routing_stats *trace; /* NULL: not kept */
};

bool side_open(struct diff_side *s, const struct source *source, const struct batch *batch,
               const struct forward_options *o, struct err *e) CHECKED;
bool side_begin(struct diff_side *s, struct err *e) CHECKED; /* with the memory that open was told */
void side_close(struct diff_side *s); /* idempotent */
bool side_embed(struct diff_side *s, struct err *e) CHECKED;
/* by: the side that ran this layer last, on the same state with the same attention, which is not run again; or NULL. */
bool side_layer(struct diff_side *s, uint64_t layer, const struct diff_side *by, struct err *e) CHECKED;
/* This side's layer on someone else's state, which may have more tokens; its own stays. chosen: [tokens][top_k], or
 * NULL. */
bool side_layer_on(struct diff_side *s, uint64_t layer, const struct stream *in, struct stream *out, uint32_t *chosen,
                   const struct diff_side *by, struct err *e) CHECKED;
/* In place of side_layer: what `from`, whose first tokens these are, made of the same state with the same layer. */
bool side_take(struct diff_side *s, const struct diff_side *from, unsigned threads, struct err *e) CHECKED;
const struct stream *side_state(const struct diff_side *s);
const struct stream *side_before(const struct diff_side *s);

#endif
