/* The noise floors: the reference once more on the first tokens, computed as nobody could be blamed for. With BF16
 * activations after every step, and with each layer's output nudged as another order of summation might. */
#include <math.h>

#include "verify/diff_walk_private.h"

/* ---- opening ---- */

/* The first floor_tokens tokens: whole contexts, and the beginning of the one that does not fit, whose states do not
 * depend on what follows. */
void floors_init(struct walk *w)
{
    const struct batch *all = w->job->batch;
    size_t left = w->job->floor_tokens < all->tokens ? w->job->floor_tokens : all->tokens, n = 0;

    if (!walk_has_ref(w) || left == 0)
        return;
    w->floor_tokens = left;
    w->floor_sequences = mem_alloc(all->sequence_count * sizeof *w->floor_sequences);
    for (; left > 0; n++) {
        w->floor_sequences[n] = all->sequences[n];
        if (w->floor_sequences[n].tokens > left)
            w->floor_sequences[n].tokens = left;
        left -= w->floor_sequences[n].tokens;
    }
    w->floor_batch = (struct batch){
        .ids = all->ids, .tokens = w->floor_tokens, .sequences = w->floor_sequences, .sequence_count = n};
    w->bf16.wanted = w->job->forward.emulate == EMULATE_NONE;
    w->order.wanted = true;
}

static bool open_floor(struct walk *w, struct walk_floor *f, const struct forward_options *o, struct err *e)
{
    if (!f->wanted)
        return true;
    f->positions = mem_alloc(w->floor_tokens * sizeof *f->positions);
    return side_open(&f->side, w->job->ref, &w->floor_batch, o, e);
}

bool floors_open(struct walk *w, const struct forward_options *o, struct err *e)
{
    struct forward_options bf16 = *o;

    bf16.emulate = EMULATE_BF16;
    return open_floor(w, &w->bf16, &bf16, e) && open_floor(w, &w->order, o, e);
}

bool floors_begin(struct walk *w, struct err *e)
{
    return !w->bf16.wanted || forward_stream(w->bf16.side.f, &w->floor_local, e);
}

static void close_floor(struct walk_floor *f)
{
    side_close(&f->side);
    mem_free(f->positions);
}

void floors_close(struct walk *w)
{
    stream_close(&w->floor_local);
    close_floor(&w->order);
    close_floor(&w->bf16);
    mem_free(w->floor_sequences);
}

/* ---- the walk ---- */

static bool embed_floor(struct walk *w, struct walk_floor *f, struct err *e)
{
    if (!f->wanted)
        return true;
    if (!side_embed(&f->side, e) ||
        !states_compare(w->threads, NULL, side_state(&w->ref), side_state(&f->side), w->floor_tokens, w->errors, e))
        return false;
    f->same_state = states_same(w->errors, w->floor_tokens);
    return true;
}

/* The rounding of BF16 changes an embedding that is stored as such no more than the order does. */
bool floors_embed(struct walk *w, struct err *e)
{
    return embed_floor(w, &w->bf16, e) && embed_floor(w, &w->order, e);
}

static bool walk_floor_layer(struct walk *w, struct walk_floor *f, uint64_t layer, struct err *e)
{
    struct routing_agreement r;

    if (!f->wanted)
        return true;
    /* The order floor is the reference until its state is first nudged. */
    bool as_ref = f == &w->order && f->same_state;
    if (!(as_ref ? side_take(&f->side, &w->ref, w->threads, e) : side_layer(&f->side, layer, NULL, e)))
        return false;
    if (f->side.routed && w->ref.routed) {
        routing_compare(&r, w->ref.chosen, f->side.chosen, w->floor_tokens, w->report->top_k);
        f->overlap_sum += r.overlap;
    }
    f->same_state = false;
    return f == &w->bf16 || states_nudge(w->threads, &f->side.states[f->side.now], layer, e);
}

/* What BF16 does to this layer alone. same_state: that is what it has just done. */
static bool walk_local_floor(struct walk *w, uint64_t layer, bool same_state, struct err *e)
{
    const struct stream *in = side_before(&w->ref), *local = same_state ? side_state(&w->bf16.side) : &w->floor_local;

    if (!w->bf16.wanted)
        return true;
    if (!same_state && !side_layer_on(&w->bf16.side, layer, in, &w->floor_local, NULL, NULL, e))
        return false;
    if (!states_compare(w->threads, in, side_state(&w->ref), local, w->floor_tokens, w->errors, e))
        return false;
    double floor = state_error_of_update(w->errors, w->floor_tokens);
    for (size_t i = 0; i < w->job->candidate_count; i++)
        w->report->candidates[i].layers[layer].local_floor = floor;
    return true;
}

bool floors_layer(struct walk *w, uint64_t layer, struct err *e)
{
    bool same_state = w->bf16.same_state;

    return walk_floor_layer(w, &w->bf16, layer, e) && walk_floor_layer(w, &w->order, layer, e) &&
           walk_local_floor(w, layer, same_state, e);
}

/* ---- summing up ---- */

static void sum_floor(struct walk *w, const struct walk_floor *f, const char *what, struct diff_floor *out)
{
    struct outputs o;
    size_t n = w->floor_batch.sequence_count, *starts;

    *out = (struct diff_floor){.known = f->wanted, .what = what};
    if (!f->wanted)
        return;
    starts = mem_alloc((n + 1) * sizeof *starts);
    for (size_t s = 0; s < n; s++)
        starts[s + 1] = w->floor_sequences[s].first + w->floor_sequences[s].tokens;
    outputs_summarize(&o, f->positions, starts, n);
    out->positions = o.positions;
    out->kl = o.kl.mean;
    out->top1 = o.top1.mean;
    /* A mean near zero may be so by luck; its interval is not. */
    out->log_ratio = fabs(o.log_ratio.mean) + (isnan(o.log_ratio.se) ? 0 : 1.96 * o.log_ratio.se);
    out->routing_overlap = w->report->load_count ? f->overlap_sum / (double)w->report->load_count : NAN;
    mem_free(starts);
}

void floors_sum(struct walk *w)
{
    sum_floor(w, &w->bf16, "BF16 activations", &w->report->bf16);
    sum_floor(w, &w->order, "summation order", &w->report->order);
}
