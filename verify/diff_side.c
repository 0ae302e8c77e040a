#include "verify/diff_side.h"

#include <string.h>

#include "verify/state_rows.h"

bool side_open(struct diff_side *s, const struct source *source, const struct batch *batch,
               const struct forward_options *o, struct err *e)
{
    *s = (struct diff_side){.source = source, .arch = &source->arch, .batch = batch};
    return forward_open(&s->f, source, o, e) || err_in(e, "'%s'", source->checkpoint.path);
}

bool side_begin(struct diff_side *s, struct err *e)
{
    if (!forward_begin(s->f, s->batch, e) || !forward_stream(s->f, &s->states[0], e) ||
        !forward_stream(s->f, &s->states[1], e))
        return err_in(e, "'%s'", s->source->checkpoint.path);
    if (s->arch->experts)
        s->chosen = mem_alloc(s->batch->tokens * s->arch->experts_per_token * sizeof *s->chosen);
    return true;
}

void side_close(struct diff_side *s)
{
    mem_free(s->chosen);
    stream_close(&s->states[0]);
    stream_close(&s->states[1]);
    forward_close(s->f);
    *s = (struct diff_side){0};
}

const struct stream *side_state(const struct diff_side *s)
{
    return &s->states[s->now];
}

const struct stream *side_before(const struct diff_side *s)
{
    return &s->states[1 - s->now];
}

bool side_embed(struct diff_side *s, struct err *e)
{
    return forward_embed(s->f, &s->states[s->now], e);
}

/* Where the choices of a layer go. */
struct notes {
    uint32_t *chosen;
    struct routing_stats *trace;
    bool routed;
};

static bool note_routing(void *ctx, const struct routing *r, struct err *e)
{
    struct notes *n = ctx;

    (void)e;
    n->routed = true;
    if (n->chosen)
        memcpy(n->chosen + r->first * r->top_k, r->ids, r->tokens * r->top_k * sizeof *r->ids);
    if (n->trace)
        routing_stats_add(n->trace, r->layer, r->ids, r->weights, r->tokens);
    return true;
}

/* by: who ran this layer's attention on `in`; NULL: nobody. */
static bool run_layer(struct diff_side *s, uint64_t layer, const struct diff_side *by, const struct stream *in,
                      struct stream *out, struct notes *notes, struct err *e)
{
    struct observer o = {.ctx = notes, .routing = note_routing};

    return by ? forward_layer_behind(s->f, layer, by->f, out, &o, e) : forward_layer(s->f, layer, in, out, &o, e);
}

bool side_layer(struct diff_side *s, uint64_t layer, const struct diff_side *by, struct err *e)
{
    struct notes notes = {.chosen = s->chosen, .trace = s->trace};

    if (!run_layer(s, layer, by, &s->states[s->now], &s->states[1 - s->now], &notes, e))
        return false;
    s->now = 1 - s->now;
    s->routed = notes.routed;
    return true;
}

bool side_layer_on(struct diff_side *s, uint64_t layer, const struct stream *in, struct stream *out, uint32_t *chosen,
                   const struct diff_side *by, struct err *e)
{
    struct notes notes = {.chosen = chosen};

    return run_layer(s, layer, by, in, out, &notes, e);
}

bool side_take(struct diff_side *s, const struct diff_side *from, unsigned threads, struct err *e)
{
    if (!states_copy(threads, side_state(from), &s->states[1 - s->now], e))
        return false;
    s->now = 1 - s->now;
    s->routed = from->routed;
    if (s->routed)
        memcpy(s->chosen, from->chosen, s->batch->tokens * s->arch->experts_per_token * sizeof *s->chosen);
    return true;
}
