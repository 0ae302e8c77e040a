/* Draft acceptance. At token t the MTP layer, told token t + 1, guesses token t + 2; a serving engine keeps the guess
 * when the main head, at t + 1, says the same. Both along the given text. */
#include <math.h>

#include "formats/base/pool.h"
#include "verify/diff_walk_private.h"
#include "verify/mtp.h"

struct drafts {
    const float *logits;
    size_t vocab, row_elems;
    uint32_t *ids; /* [count] */
};

static bool draft(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct drafts *d = ctx;
    struct top top;

    (void)worker;
    (void)e;
    top_find(&top, d->logits + job * d->row_elems, d->vocab, 1);
    d->ids[job] = top.ids[0];
    return true;
}

/* drafts[t] for each token of the MTP batch. */
static bool draft_all(struct walk *w, struct diff_side *s, const struct stream *out, size_t tokens, uint32_t *ids,
                      struct err *e)
{
    size_t vocab = s->arch->vocab_size, step = walk_chunk_tokens(w, 1, vocab);
    float *logits = mem_aligned(step * vocab * sizeof *logits);
    bool ok = true;

    for (size_t first = 0; ok && first < tokens; first += step) {
        size_t count = tokens - first < step ? tokens - first : step;
        struct drafts d = {.logits = logits, .vocab = w->job->vocab, .row_elems = vocab, .ids = ids + first};
        ok = forward_mtp_logits(s->f, out, first, count, logits, e) && pool_run(w->threads, count, draft, &d, e);
    }
    mem_free(logits);
    return ok;
}

/* main_choice: what the side's main head says at each token of the text. */
static bool acceptance(struct walk *w, struct diff_side *s, const uint32_t *main_choice, double *share, struct err *e)
{
    struct mtp_batch m = {0};
    struct stream out = {0};
    size_t accepted = 0;

    mtp_batch_init(&m, s->batch);
    size_t tokens = m.batch.tokens;
    uint32_t *ids = mem_alloc((tokens + 1) * sizeof *ids);
    bool ok =
        tokens == 0 || (forward_mtp(s->f, &m, side_state(s), &out, NULL, e) && draft_all(w, s, &out, tokens, ids, e));
    for (size_t i = 0; ok && i < m.batch.sequence_count; i++)
        for (size_t t = 0; t < m.sequences[i].tokens; t++)
            accepted += ids[m.sequences[i].first + t] == main_choice[m.from[i] + t + 1];
    *share = tokens ? (double)accepted / (double)tokens : NAN;
    mem_free(ids);
    stream_close(&out);
    mtp_batch_release(&m);
    return ok || err_in(e, "MTP layer");
}

static bool ref_acceptance(struct walk *w, uint32_t *choice, struct err *e)
{
    if (!walk_has_ref(w) || !mtp_is_stored(w->job->ref))
        return true;
    for (size_t t = 0; t < w->tokens; t++)
        choice[t] = w->job->candidate_count ? w->candidates[0].positions[t].top_ref : w->job->record->rows[t].ids[0];
    return acceptance(w, &w->ref, choice, &w->report->ref_mtp_acceptance, e) ||
           err_in(e, "'%s'", w->job->ref->checkpoint.path);
}

static bool candidate_acceptance(struct walk *w, size_t i, uint32_t *choice, struct err *e)
{
    struct walk_candidate *c = &w->candidates[i];
    bool expected =
        !isnan(w->report->ref_mtp_acceptance) || (!walk_has_ref(w) && !isnan(w->job->golden->mtp_acceptance));

    if (!mtp_is_stored(w->job->candidates[i])) {
        if (expected)
            diff_report_note(w->report, "'%s' has no MTP layer", w->job->candidates[i]->checkpoint.path);
        return true;
    }
    if (c->same_outputs.drafts) {
        w->report->candidates[i].mtp_acceptance = w->report->ref_mtp_acceptance;
        return true;
    }
    for (size_t t = 0; t < w->tokens; t++)
        choice[t] = c->positions[t].top_cand;
    return acceptance(w, &c->side, choice, &w->report->candidates[i].mtp_acceptance, e) ||
           err_in(e, "'%s'", w->job->candidates[i]->checkpoint.path);
}

bool walk_mtp(struct walk *w, struct err *e)
{
    uint32_t *choice = mem_alloc(w->tokens * sizeof *choice);
    bool ok = ref_acceptance(w, choice, e);

    for (size_t i = 0; ok && i < w->job->candidate_count; i++)
        ok = candidate_acceptance(w, i, choice, e);
    mem_free(choice);
    return ok;
}
