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

static bool open_sides(struct walk *w, size_t count, struct err *e)
{
    struct forward_options o = w->job->forward;

    o.memory_bytes /= count;
    if (walk_has_ref(w) && !side_open(&w->ref, w->job->ref, w->job->batch, &o, e))
        return false;
    for (size_t i = 0; i < w->job->candidate_count; i++)
        if (!side_open(&w->candidates[i].side, w->job->candidates[i], w->job->batch, &o, e))
            return false;
    return floors_open(w, &o, e);
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
           err_memory(e, given, most * count,
                      count == 1 ? "one layer of the model needs" : "one layer of %zu forward passes in step needs",
                      count);
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
    return floors_begin(w, e);
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

static void walk_close(struct walk *w)
{
    floors_close(w);
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
    mem_free(w->errors);
    mem_free(w->starts);
}

/* ---- a layer ---- */

static void translate(const struct walk *w, const struct walk_candidate *c, uint64_t layer, uint32_t *chosen)
{
    if (c->numbers && c->side.routed)
        expert_numbers_translate(c->numbers, layer, chosen, w->tokens, w->report->top_k);
}

/* The reference's state through the candidate's layer; the reference's own when the layer is the same. */
static bool run_local(struct walk *w, struct walk_candidate *c, uint64_t layer, const struct stream **local,
                      struct err *e)
{
    *local = c->same.whole ? side_state(&w->ref) : &c->local;
    if (c->same.whole) {
        if (w->ref.routed)
            memcpy(c->local_chosen, w->ref.chosen, w->tokens * w->report->top_k * sizeof *c->local_chosen);
        return true;
    }
    if (!side_layer_on(&c->side, layer, side_before(&w->ref), &c->local, c->local_chosen,
                       c->same.attention ? &w->ref : NULL, e))
        return false;
    translate(w, c, layer, c->local_chosen);
    return true;
}

/* The errors of a candidate's layer against the reference's. While nothing differs the candidate's own state is what
 * the reference's would become in it, and its layer need not run twice. */
static bool compare_layer(struct walk *w, struct walk_candidate *c, struct diff_layer *l, struct err *e)
{
    const struct stream *in = side_before(&w->ref), *out = side_state(&w->ref), *own = side_state(&c->side), *local;
    bool again = !c->same_state;

    if (!states_compare(w->threads, in, out, own, w->tokens, w->errors, e))
        return false;
    l->cumulative_error = state_error_of_state(w->errors, w->tokens);
    l->cosine = state_cosine(w->errors, w->tokens);
    l->local_error = state_error_of_update(w->errors, w->tokens);
    c->same_state = c->same_state && states_same(w->errors, w->tokens);
    if (!again) {
        if (c->side.routed)
            memcpy(c->local_chosen, c->side.chosen, w->tokens * w->report->top_k * sizeof *c->local_chosen);
        return true;
    }
    if (!run_local(w, c, l->layer, &local, e) || !states_compare(w->threads, in, out, local, w->tokens, w->errors, e))
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

/* A layer of the candidate on its own state. What the reference made of the same state with the same weights is taken:
 * of attention, or, where no trace is kept of its routing, of all. */
static bool run_own(struct walk *w, struct walk_candidate *c, uint64_t layer, struct err *e)
{
    if (c->same_state && c->same.whole && !c->side.trace)
        return side_take(&c->side, &w->ref, w->threads, e);
    if (!side_layer(&c->side, layer, c->same_state && c->same.attention ? &w->ref : NULL, e))
        return false;
    translate(w, c, layer, c->side.chosen);
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
    if (!run_own(w, c, layer, e) || !(walk_has_ref(w) ? compare_layer : compare_projections)(w, c, l, e))
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

    if (!side_layer(&w->ref, layer, NULL, e))
        return false;
    if (w->ref.routed)
        routing_count(w->ref_loads + moe_index * w->report->experts, w->ref.chosen, w->tokens, w->report->top_k);
    size_t size = w->job->batch->sequence_count * GOLDEN_PROJECTIONS;
    return !g || states_project(w->threads, side_state(&w->ref), w->job->batch, g->projections + layer * size, e);
}

static bool find_same(struct walk *w, uint64_t layer, struct err *e)
{
    for (size_t i = 0; walk_has_ref(w) && i < w->job->candidate_count; i++)
        if (!layer_same_find(&w->candidates[i].same, w->ref.f, w->candidates[i].side.f, layer, e))
            return false;
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
    if (!find_same(w, layer, e))
        return err_in(e, "comparing weights");
    for (size_t i = 0; i < w->job->candidate_count; i++)
        if (!walk_candidate_layer(w, i, layer, moe_index, e))
            return err_in(e, "'%s'", w->job->candidates[i]->checkpoint.path);
    return floors_layer(w, layer, e) || err_in(e, "noise floor");
}

static bool walk_embed(struct walk *w, struct err *e)
{
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
        c->same_state = states_same(w->errors, w->tokens);
    }
    return floors_embed(w, e);
}

static uint64_t bytes_to_read(const struct walk *w)
{
    uint64_t bytes = walk_has_ref(w) ? w->job->ref->checkpoint.tensor_bytes : 0;

    for (size_t i = 0; i < w->job->candidate_count; i++)
        bytes += w->job->candidates[i]->checkpoint.tensor_bytes;
    return bytes;
}

static bool find_same_outputs(struct walk *w, struct err *e)
{
    for (size_t i = 0; walk_has_ref(w) && i < w->job->candidate_count; i++) {
        struct walk_candidate *c = &w->candidates[i];
        if (c->same_state && !outputs_same_find(&c->same_outputs, w->ref.f, c->side.f, e))
            return err_in(e, "comparing weights");
    }
    return true;
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
    bool ok = find_same_outputs(w, e) && walk_logits(w, e) && walk_mtp(w, e);
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

static void sum_up(struct walk *w)
{
    struct diff_report *r = w->report;

    for (size_t i = 0; i < r->candidate_count; i++)
        sum_candidate(w, i);
    floors_sum(w);
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
    floors_init(&w);
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
