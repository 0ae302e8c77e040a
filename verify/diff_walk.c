#include "verify/diff_walk.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/pool.h"
#include "formats/base/progress.h"
#include "verify/diff_walk_private.h"

/* ---- opening ---- */

#define SIDES_MAX (DIFF_CANDIDATES_MAX + 3)

/* Who runs: the reference, candidates, floors. */
static size_t list_sides(struct walk *w, struct diff_side *sides[SIDES_MAX])
{
    size_t n = 0;

    if (walk_has_ref(w))
        sides[n++] = &w->ref;
    for (size_t i = 0; i < w->job->candidate_count; i++)
        sides[n++] = &w->candidates[i].side;
    if (w->bf16.wanted)
        sides[n++] = &w->bf16.side;
    if (w->order.wanted)
        sides[n++] = &w->order.side;
    return n;
}

/* The first floor_tokens tokens: whole contexts, and the beginning of the one that does not fit, whose states do not
 * depend on what follows. */
static void cut_floor_batch(struct walk *w)
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

static bool begin_candidate(struct walk *w, size_t i, struct err *e)
{
    struct walk_candidate *c = &w->candidates[i];
    struct diff_report *r = w->report;

    c->numbers = w->job->numbers[i];
    c->side.trace = i == 0 ? w->job->trace : NULL;
    c->positions = mem_alloc(w->tokens * sizeof *c->positions);
    c->loads = arena_array(&r->arena, r->load_count * r->experts + 1, sizeof *c->loads);
    c->same_state = true;
    if (!walk_has_ref(w)) {
        size_t count = w->job->batch->sequence_count * GOLDEN_PROJECTIONS;
        c->sums[0] = mem_alloc(count * sizeof *c->sums[0]);
        c->sums[1] = mem_alloc(count * sizeof *c->sums[1]);
        return true;
    }
    if (c->side.chosen)
        c->local_chosen = mem_alloc(w->tokens * r->top_k * sizeof *c->local_chosen);
    return forward_stream(c->side.f, &c->local, e);
}

static bool open_floor(struct walk *w, struct walk_floor *f, const struct forward_options *o, struct err *e)
{
    if (!f->wanted)
        return true;
    f->positions = mem_alloc(w->floor_tokens * sizeof *f->positions);
    return side_open(&f->side, w->job->ref, &w->floor_batch, o, e);
}

static bool open_sides(struct walk *w, size_t count, struct err *e)
{
    struct forward_options o = w->job->forward, bf16;

    o.memory_bytes /= count;
    bf16 = o;
    bf16.emulate = EMULATE_BF16;
    if (walk_has_ref(w) && !side_open(&w->ref, w->job->ref, w->job->batch, &o, e))
        return false;
    for (size_t i = 0; i < w->job->candidate_count; i++)
        if (!side_open(&w->candidates[i].side, w->job->candidates[i], w->job->batch, &o, e))
            return false;
    return open_floor(w, &w->bf16, &bf16, e) && open_floor(w, &w->order, &o, e);
}

/* All have the same share, so what is needed in all is as many times what the largest needs. */
static bool check_memory(const struct walk *w, struct diff_side *const *sides, size_t count, struct err *e)
{
    uint64_t given = w->job->forward.memory_bytes, most = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t need = forward_memory_bytes(sides[i]->f, sides[i]->batch);
        most = need > most ? need : most;
    }
    return given == 0 || most <= given / count ||
           err_memory(e, given, most * count, "one layer of %zu forward passes in step needs", count);
}

static bool begin_sides(struct walk *w, struct err *e)
{
    struct diff_side *sides[SIDES_MAX];
    size_t count = list_sides(w, sides);

    if (!open_sides(w, count, e) || !check_memory(w, sides, count, e))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!side_begin(sides[i], e))
            return false;
    for (size_t i = 0; i < w->job->candidate_count; i++)
        if (!begin_candidate(w, i, e))
            return false;
    return !w->bf16.wanted ||
           (forward_stream(w->bf16.side.f, &w->floor_in, e) && forward_stream(w->bf16.side.f, &w->floor_out, e) &&
            forward_stream(w->bf16.side.f, &w->floor_local, e));
}

static void start_report(struct walk *w)
{
    struct diff_report *r = w->report;
    const struct batch *b = w->job->batch;

    w->arch = walk_has_ref(w) ? &w->job->ref->arch : &w->job->candidates[0]->arch;
    w->tokens = b->tokens;
    w->errors = mem_alloc(w->tokens * sizeof *w->errors);
    w->starts = mem_alloc((b->sequence_count + 1) * sizeof *w->starts);
    for (size_t s = 0; s < b->sequence_count; s++)
        w->starts[s + 1] = b->sequences[s].first + b->sequences[s].tokens;
    r->tokens = b->tokens;
    r->contexts = b->sequence_count;
    r->context_tokens = batch_longest(b);
    r->layer_count = w->arch->layers;
    r->experts = w->arch->experts;
    r->top_k = w->arch->experts_per_token;
    r->candidate_count = w->job->candidate_count;
    r->ref_mtp_acceptance = NAN;
    r->golden = !walk_has_ref(w);
    for (uint64_t l = 0; l < r->layer_count; l++)
        r->load_count += arch_is_moe_layer(w->arch, l);
    w->ref_loads =
        walk_has_ref(w) ? arena_array(&r->arena, r->load_count * r->experts + 1, sizeof *w->ref_loads) : NULL;
    for (size_t i = 0; i < r->candidate_count; i++) {
        struct diff_candidate *c = &r->candidates[i];
        c->layers = arena_array(&r->arena, r->layer_count, sizeof *c->layers);
        c->loads = arena_array(&r->arena, r->load_count + 1, sizeof *c->loads);
        c->mtp_acceptance = NAN;
    }
}

static void close_floor(struct walk_floor *f)
{
    side_close(&f->side);
    mem_free(f->positions);
}

static void walk_close(struct walk *w)
{
    stream_close(&w->floor_in);
    stream_close(&w->floor_out);
    stream_close(&w->floor_local);
    close_floor(&w->order);
    close_floor(&w->bf16);
    for (size_t i = 0; i < DIFF_CANDIDATES_MAX; i++) {
        struct walk_candidate *c = &w->candidates[i];
        stream_close(&c->local);
        side_close(&c->side);
        mem_free(c->local_chosen);
        mem_free(c->positions);
        mem_free(c->sums[0]);
        mem_free(c->sums[1]);
    }
    side_close(&w->ref);
    mem_free(w->floor_sequences);
    mem_free(w->errors);
    mem_free(w->starts);
}

/* ---- a layer ---- */

static void translate(const struct walk *w, const struct walk_candidate *c, uint64_t layer, uint32_t *chosen)
{
    if (c->numbers && c->side.routed)
        expert_numbers_translate(c->numbers, layer, chosen, w->tokens, w->report->top_k);
}

/* The errors of a candidate's layer against the reference's. While nothing differs the candidate's own state is what
 * the reference's would become in it, and its layer need not run twice. */
static bool compare_layer(struct walk *w, struct walk_candidate *c, struct diff_layer *l, struct err *e)
{
    const struct stream *in = side_before(&w->ref), *out = side_state(&w->ref), *own = side_state(&c->side);
    bool again = !c->same_state;

    if (!states_compare(w->threads, in, out, own, w->tokens, w->errors, e))
        return false;
    l->cumulative_error = state_error_of_state(w->errors, w->tokens);
    l->cosine = state_cosine(w->errors, w->tokens);
    l->local_error = state_error_of_update(w->errors, w->tokens);
    for (size_t t = 0; c->same_state && t < w->tokens; t++)
        c->same_state = w->errors[t].error2 == 0;
    if (!again) {
        if (c->side.routed)
            memcpy(c->local_chosen, c->side.chosen, w->tokens * w->report->top_k * sizeof *c->local_chosen);
        return true;
    }
    if (!side_layer_on(&c->side, l->layer, in, &c->local, c->local_chosen, e))
        return false;
    translate(w, c, l->layer, c->local_chosen);
    if (!states_compare(w->threads, in, out, &c->local, w->tokens, w->errors, e))
        return false;
    l->local_error = state_error_of_update(w->errors, w->tokens);
    return true;
}

static void compare_routing(const struct walk *w, const struct walk_candidate *c, struct diff_layer *l)
{
    struct routing_agreement r;
    size_t k = w->report->top_k;

    if (!c->side.routed || !w->ref.routed)
        return;
    routing_compare(&r, w->ref.chosen, c->side.chosen, w->tokens, k);
    l->overlap = r.overlap;
    l->jaccard = r.jaccard;
    l->sets_changed = (double)r.changed / (double)r.tokens;
    routing_compare(&r, w->ref.chosen, c->local_chosen, w->tokens, k);
    l->sets_changed_local = (double)r.changed / (double)r.tokens;
}

/* Against a golden file: its sums of this layer and of the one below. */
static bool compare_projections(struct walk *w, struct walk_candidate *c, struct diff_layer *l, struct err *e)
{
    const struct golden *g = w->job->golden;
    size_t size = g->contexts * GOLDEN_PROJECTIONS;
    const float *ref = g->projections + l->layer * size, *below = l->layer ? ref - size : NULL;
    float *last = c->sums[0];

    c->sums[0] = c->sums[1];
    c->sums[1] = last;
    if (!states_project(w->threads, side_state(&c->side), w->job->batch, c->sums[0], e))
        return false;
    l->cumulative_error = golden_state_error(ref, c->sums[0], NULL, NULL, g->starts, g->contexts);
    l->added_error = golden_state_error(ref, c->sums[0], below, c->sums[1], g->starts, g->contexts);
    return true;
}

static bool walk_candidate_layer(struct walk *w, size_t index, uint64_t layer, size_t moe_index, struct err *e)
{
    struct walk_candidate *c = &w->candidates[index];
    struct diff_candidate *out = &w->report->candidates[index];
    struct diff_layer *l = &out->layers[layer];

    *l = (struct diff_layer){.layer = layer,
                             .moe = arch_is_moe_layer(w->arch, layer),
                             .local_error = NAN,
                             .local_floor = NAN,
                             .added_error = NAN,
                             .cosine = NAN,
                             .overlap = NAN};
    if (!side_layer(&c->side, layer, e))
        return false;
    translate(w, c, layer, c->side.chosen);
    if (!(walk_has_ref(w) ? compare_layer : compare_projections)(w, c, l, e))
        return false;
    if (!c->side.routed)
        return true;
    uint64_t *load = c->loads + moe_index * w->report->experts;
    routing_count(load, c->side.chosen, w->tokens, w->report->top_k);
    out->loads[moe_index] =
        (struct diff_load){layer, w->ref_loads ? w->ref_loads + moe_index * w->report->experts : NULL, load};
    compare_routing(w, c, l);
    return true;
}

static bool walk_ref_layer(struct walk *w, uint64_t layer, size_t moe_index, struct err *e)
{
    struct golden *g = w->job->record;

    if (!side_layer(&w->ref, layer, e))
        return false;
    if (w->ref.routed)
        routing_count(w->ref_loads + moe_index * w->report->experts, w->ref.chosen, w->tokens, w->report->top_k);
    size_t size = w->job->batch->sequence_count * GOLDEN_PROJECTIONS;
    return !g || states_project(w->threads, side_state(&w->ref), w->job->batch, g->projections + layer * size, e);
}

static bool walk_floor_layer(struct walk *w, struct walk_floor *f, uint64_t layer, struct err *e)
{
    struct routing_agreement r;

    if (!f->wanted)
        return true;
    if (!side_layer(&f->side, layer, e))
        return false;
    if (f->side.routed && w->ref.routed) {
        routing_compare(&r, w->ref.chosen, f->side.chosen, w->floor_tokens, w->report->top_k);
        f->overlap_sum += r.overlap;
    }
    return f == &w->bf16 || states_nudge(w->threads, &f->side.states[f->side.now], layer, e);
}

/* What BF16 does to this layer alone. */
static bool walk_local_floor(struct walk *w, uint64_t layer, struct err *e)
{
    struct diff_side *s = &w->bf16.side;

    if (!w->bf16.wanted)
        return true;
    if (!states_copy(w->threads, side_before(&w->ref), &w->floor_in, e) ||
        !states_copy(w->threads, side_state(&w->ref), &w->floor_out, e) ||
        !side_layer_on(s, layer, &w->floor_in, &w->floor_local, NULL, e) ||
        !states_compare(w->threads, &w->floor_in, &w->floor_out, &w->floor_local, w->floor_tokens, w->errors, e))
        return false;
    double floor = state_error_of_update(w->errors, w->floor_tokens);
    for (size_t i = 0; i < w->job->candidate_count; i++)
        w->report->candidates[i].layers[layer].local_floor = floor;
    return true;
}

static bool walk_layer(struct walk *w, uint64_t layer, size_t moe_index, struct err *e)
{
    char label[32];

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "stopped by a signal");
    snprintf(label, sizeof label, "layer %" PRIu64, layer);
    progress_label(w->progress, label);
    if (walk_has_ref(w) && !walk_ref_layer(w, layer, moe_index, e))
        return err_in(e, "'%s'", w->job->ref->checkpoint.path);
    for (size_t i = 0; i < w->job->candidate_count; i++)
        if (!walk_candidate_layer(w, i, layer, moe_index, e))
            return err_in(e, "'%s'", w->job->candidates[i]->checkpoint.path);
    if (!walk_floor_layer(w, &w->bf16, layer, e) || !walk_floor_layer(w, &w->order, layer, e) ||
        !walk_local_floor(w, layer, e))
        return err_in(e, "noise floor");
    return true;
}

static bool walk_embed(struct walk *w, struct err *e)
{
    struct diff_side *floors[] = {w->bf16.wanted ? &w->bf16.side : NULL, w->order.wanted ? &w->order.side : NULL};

    if (walk_has_ref(w) && !side_embed(&w->ref, e))
        return false;
    for (size_t i = 0; i < w->job->candidate_count; i++) {
        struct walk_candidate *c = &w->candidates[i];
        if (!side_embed(&c->side, e))
            return false;
        if (!walk_has_ref(w))
            continue;
        if (!states_compare(w->threads, NULL, side_state(&w->ref), side_state(&c->side), w->tokens, w->errors, e))
            return false;
        for (size_t t = 0; c->same_state && t < w->tokens; t++)
            c->same_state = w->errors[t].error2 == 0;
    }
    for (size_t i = 0; i < 2; i++)
        if (floors[i] && !side_embed(floors[i], e))
            return false;
    return true;
}

static uint64_t bytes_to_read(const struct walk *w)
{
    uint64_t bytes = walk_has_ref(w) ? w->job->ref->checkpoint.tensor_bytes : 0;

    for (size_t i = 0; i < w->job->candidate_count; i++)
        bytes += w->job->candidates[i]->checkpoint.tensor_bytes;
    return bytes;
}

static bool walk_layers(struct walk *w, struct err *e)
{
    uint64_t total = bytes_to_read(w), steps = w->report->layer_count + 1;
    size_t moe_index = 0;

    if (!walk_embed(w, e))
        return false;
    for (uint64_t layer = 0; layer < w->report->layer_count; layer++) {
        if (!walk_layer(w, layer, moe_index, e))
            return err_in(e, "layer %" PRIu64, layer);
        moe_index += arch_is_moe_layer(w->arch, layer);
        progress_add(w->progress, total / steps);
    }
    progress_label(w->progress, "logits");
    bool ok = walk_logits(w, e) && walk_mtp(w, e);
    progress_add(w->progress, total - total / steps * w->report->layer_count);
    return ok;
}

/* ---- summing up ---- */

static void find_outliers(struct diff_report *r, struct diff_candidate *c)
{
    size_t n = r->layer_count;
    double *errors = mem_alloc((2 * n + 1) * sizeof *errors), *floors = errors + n;
    bool *flags = mem_alloc((2 * n + 1) * sizeof *flags), *moe = flags + n;

    for (size_t i = 0; i < n; i++) {
        errors[i] = r->golden ? c->layers[i].added_error : c->layers[i].local_error;
        floors[i] = c->layers[i].local_floor;
        moe[i] = c->layers[i].moe;
    }
    c->first_outlier = outliers_find(flags, errors, floors, moe, n);
    for (size_t i = 0; i < n; i++) {
        c->layers[i].stands_out = flags[i];
        c->layers[i].peer_median = outlier_peer_median(errors, moe, n, i);
    }
    mem_free(flags);
    mem_free(errors);
}

static void sum_candidate(struct walk *w, size_t index)
{
    struct diff_report *r = w->report;
    struct diff_candidate *c = &r->candidates[index];
    double overlap = 0, changed = 0;

    outputs_summarize(&c->outputs, w->candidates[index].positions, w->starts, w->job->batch->sequence_count);
    find_outliers(r, c);
    for (size_t i = 0; i < r->layer_count; i++)
        if (!isnan(c->layers[i].overlap)) {
            overlap += c->layers[i].overlap;
            changed += c->layers[i].sets_changed;
        }
    bool known = walk_has_ref(w) && r->load_count > 0;
    c->routing_overlap = known ? overlap / (double)r->load_count : NAN;
    c->routing_sets_changed = known ? changed / (double)r->load_count : NAN;
}

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

static void sum_up(struct walk *w)
{
    struct diff_report *r = w->report;

    for (size_t i = 0; i < r->candidate_count; i++)
        sum_candidate(w, i);
    sum_floor(w, &w->bf16, "BF16 activations", &r->bf16);
    sum_floor(w, &w->order, "summation order", &r->order);
    if (!walk_has_ref(w)) {
        r->bf16 = w->job->golden->bf16;
        r->ref_mtp_acceptance = w->job->golden->mtp_acceptance;
    }
    r->has_paired = r->candidate_count == 2;
    if (r->has_paired)
        paired_summarize(&r->paired, w->candidates[0].positions, w->candidates[1].positions, w->starts,
                         w->job->batch->sequence_count);
}

bool diff_walk(struct diff_report *r, const struct diff_job *job, struct err *e)
{
    struct walk w = {.job = job, .report = r, .threads = job->forward.threads};

    start_report(&w);
    cut_floor_batch(&w);
    bool ok = begin_sides(&w, e);
    if (ok) {
        w.progress = progress_new("diff", bytes_to_read(&w), job->quiet);
        ok = walk_layers(&w, e);
        progress_end(w.progress, ok);
    }
    if (ok)
        sum_up(&w);
    walk_close(&w);
    return ok;
}
