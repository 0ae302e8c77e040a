#include "verify/routing_walk.h"

#include "formats/base/progress.h"
#include "verify/mtp.h"

static bool note_routing(void *ctx, const struct routing *r, struct err *e)
{
    (void)e;
    routing_stats_add(ctx, r->layer, r->ids, r->weights, r->tokens);
    return true;
}

static bool has_mtp(const struct source *s)
{
    for (size_t i = 0; i < s->weights.count; i++)
        if (s->weights.items[i].id.layer >= (int64_t)s->arch.layers)
            return true;
    return false;
}

static bool walk_mtp(struct forward *f, const struct batch *b, const struct stream *last, const struct observer *o,
                     struct err *e)
{
    struct mtp_batch mtp = {0};
    struct stream out = {0};

    mtp_batch_init(&mtp, b);
    bool ok = mtp.batch.tokens == 0 || forward_mtp(f, &mtp, last, &out, o, e);
    stream_close(&out);
    mtp_batch_release(&mtp);
    return ok;
}

static bool walk(struct forward *f, const struct source *source, const struct batch *b, const struct observer *o,
                 struct err *e)
{
    struct stream streams[2] = {0};
    uint64_t layers = source->arch.layers;
    bool ok = forward_begin(f, b, e) && forward_stream(f, &streams[0], e) && forward_stream(f, &streams[1], e) &&
              forward_embed(f, &streams[0], e);

    for (uint64_t layer = 0; layer < layers && ok; layer++) {
        if (signal_cancelled())
            ok = err_set(e, ERR_CANCELLED, "interrupted");
        ok = ok && forward_layer(f, layer, &streams[layer % 2], &streams[(layer + 1) % 2], o, e);
    }
    if (ok && has_mtp(source))
        ok = walk_mtp(f, b, &streams[layers % 2], o, e);
    stream_close(&streams[0]);
    stream_close(&streams[1]);
    return ok;
}

bool routing_walk(struct routing_stats *s, const struct source *source, const struct batch *batch,
                  const struct forward_options *o, bool with_trace, struct err *e)
{
    struct forward *f = NULL;
    struct observer observer = {.ctx = s, .routing = note_routing};
    bool ok = routing_stats_open(s, source, with_trace, e) && forward_open(&f, source, o, e) &&
              walk(f, source, batch, &observer, e);

    for (size_t i = 0; i < batch->sequence_count && ok; i++)
        routing_stats_add_sequence(s, batch->sequences[i].tokens);
    forward_close(f);
    return ok;
}
