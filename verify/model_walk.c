#include "verify/model_walk.h"

#include "formats/base/progress.h"
#include "verify/mtp.h"

static bool has_mtp(const struct source *s)
{
    for (size_t i = 0; i < s->weights.count; i++)
        if (s->weights.items[i].id.layer >= (int64_t)s->arch.layers)
            return true;
    return false;
}

static bool ended(const struct model_walk *w, uint64_t layer, const struct stream *out, struct err *e)
{
    return !w->end || w->end(w->ctx, layer, out, e);
}

static bool walk_layer(const struct model_walk *w, struct forward *f, uint64_t layer, const struct stream *in,
                       struct stream *out, struct err *e)
{
    struct observer o = {0};

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    return w->begin(w->ctx, layer, w->batch->tokens, &o, e) && forward_layer(f, layer, in, out, &o, e) &&
           ended(w, layer, out, e);
}

static bool walk_mtp(const struct model_walk *w, struct forward *f, const struct stream *last, struct err *e)
{
    uint64_t layer = w->source->arch.layers;
    struct mtp_batch mtp = {0};
    struct stream out = {0};
    struct observer o = {0};

    mtp_batch_init(&mtp, w->batch);
    bool any = mtp.batch.tokens > 0;
    bool ok = w->begin(w->ctx, layer, mtp.batch.tokens, &o, e) && (!any || forward_mtp(f, &mtp, last, &out, &o, e)) &&
              ended(w, layer, any ? &out : NULL, e);
    stream_close(&out);
    mtp_batch_release(&mtp);
    return ok;
}

/* Returns false, with the error there was. */
static bool stopped(const struct model_walk *w, uint64_t layer, const struct stream *in, const struct err *e)
{
    if (w->stopped && e->code == ERR_CANCELLED)
        w->stopped(w->ctx, layer, in);
    return false;
}

static bool enter(const struct model_walk *w, struct forward *f, struct stream *in, struct err *e)
{
    return w->first == 0 ? forward_embed(f, in, e) : w->enter(w->ctx, in, e);
}

bool model_walk(const struct model_walk *w, struct forward *f, struct err *e)
{
    struct stream streams[2] = {0};
    uint64_t layers = w->source->arch.layers;
    bool mtp = has_mtp(w->source), ok = true;

    if (w->first >= layers + mtp)
        return true;
    ok = forward_begin(f, w->batch, e) && forward_stream(f, &streams[0], e) && forward_stream(f, &streams[1], e) &&
         enter(w, f, &streams[w->first % 2], e);
    for (uint64_t layer = w->first; layer < layers && ok; layer++)
        ok = walk_layer(w, f, layer, &streams[layer % 2], &streams[(layer + 1) % 2], e) ||
             stopped(w, layer, &streams[layer % 2], e);
    if (ok && mtp)
        ok = walk_mtp(w, f, &streams[layers % 2], e) || stopped(w, layers, &streams[layers % 2], e);
    stream_close(&streams[0]);
    stream_close(&streams[1]);
    return ok;
}
