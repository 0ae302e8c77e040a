/* A whole model, a layer at a time over a batch: all main layers, and the first MTP layer when the source has one. For
 * whoever wants nothing but to watch. */
#ifndef VERIFY_MODEL_WALK_H
#define VERIFY_MODEL_WALK_H

#include "verify/forward.h"

struct model_walk {
    const struct source *source;
    const struct batch *batch;
    void *ctx;
    /* Before a layer that so many tokens will go through: what observes it. An MTP layer has fewer than the batch; with
     * none it is not run, but begun and ended all the same. */
    bool (*begin)(void *ctx, uint64_t layer, size_t tokens, struct observer *o, struct err *e);
    /* Behind it. out: [tokens][hidden]; NULL without tokens. May be NULL. */
    bool (*end)(void *ctx, uint64_t layer, const struct stream *out, struct err *e);
    /* Layers before `first` were walked by an earlier run: enter fills in what is behind them, [tokens][hidden]. Not
     * called with first 0, or with first behind the last layer. */
    uint64_t first;
    bool (*enter)(void *ctx, struct stream *in, struct err *e);
    /* A signal stopped the walk in a layer, or before it; in: what would have gone through it. May be NULL. */
    void (*stopped)(void *ctx, uint64_t layer, const struct stream *in);
};

/* f: open, of the same source; forward_begin is done here. ERR_CANCELLED between layers after a signal. */
bool model_walk(const struct model_walk *w, struct forward *f, struct err *e) CHECKED;

#endif
