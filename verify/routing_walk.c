#include "verify/routing_walk.h"

#include "verify/model_walk.h"

static bool note_routing(void *ctx, const struct routing *r, struct err *e)
{
    (void)e;
    routing_stats_add(ctx, r->layer, r->ids, r->weights, r->tokens);
    return true;
}

static bool begin(void *ctx, uint64_t layer, size_t tokens, struct observer *o, struct err *e)
{
    (void)layer, (void)tokens, (void)e;
    *o = (struct observer){.ctx = ctx, .routing = note_routing};
    return true;
}

bool routing_walk(struct routing_stats *s, const struct source *source, const struct batch *batch,
                  const struct forward_options *o, bool with_trace, struct err *e)
{
    struct forward *f = NULL;
    struct model_walk w = {.source = source, .batch = batch, .ctx = s, .begin = begin};
    bool ok = routing_stats_open(s, source, with_trace, e) && forward_open(&f, source, o, e) && model_walk(&w, f, e);

    for (size_t i = 0; i < batch->sequence_count && ok; i++)
        routing_stats_add_sequence(s, batch->sequences[i].tokens);
    forward_close(f);
    return ok;
}
