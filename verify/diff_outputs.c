/* The logits, in chunks of tokens: every side's rows of a chunk are there together, positions are compared on all
 * threads, each into its own slot. */
#include <inttypes.h>
#include <unistd.h>

#include "formats/base/pool.h"
#include "verify/diff_walk_private.h"

/* The head is read once for each chunk and side, so chunks are large; and small beside the rest. */
#define CHUNK_TOKENS_MIN 16u
#define CHUNK_TOKENS_MAX 1024u
/* Unless a side's rows of so many tokens are this small: then they stay in a cache until they have been compared, and
 * a head of so few rows is soon read again. */
#define CACHED_TOKENS 256u
#define CACHED_BYTES  ((size_t)4 << 20)

struct chunk {
    struct walk *w;
    size_t first, count;
    size_t ref_elems, elems[DIFF_CANDIDATES_MAX]; /* a row: the vocabulary of its model */
    float *ref, *floor, *candidates[DIFF_CANDIDATES_MAX];
    struct walk_floor *against; /* the floor whose rows are in `floor` */
};

static uint64_t memory_bytes(const struct walk *w)
{
    uint64_t asked = w->job->forward.memory_bytes;

    return asked ? asked : (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
}

size_t walk_chunk_tokens(const struct walk *w, size_t rows, size_t vocab)
{
    uint64_t tokens = memory_bytes(w) / 8 / (rows * vocab * sizeof(float)), most = CACHED_BYTES / sizeof(float) / vocab;

    most = most < CACHED_TOKENS || most > CHUNK_TOKENS_MAX ? CHUNK_TOKENS_MAX : most;
    tokens = tokens < CHUNK_TOKENS_MIN ? CHUNK_TOKENS_MIN : tokens > most ? most : tokens;
    return tokens < w->tokens ? tokens : w->tokens;
}

/* The token behind t in its context. */
static uint32_t next_token(const struct walk *w, size_t t)
{
    const struct batch *b = w->job->batch;
    size_t low = 0, high = b->sequence_count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (w->starts[middle + 1] <= t)
            low = middle + 1;
        else
            high = middle;
    }
    return t + 1 < w->starts[low + 1] ? b->ids[t + 1] : NO_TOKEN;
}

static const float *row(const float *rows, size_t elems, size_t i)
{
    return rows + i * elems;
}

static bool compare_position(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct chunk *k = ctx;
    struct walk *w = k->w;
    size_t t = k->first + job;
    uint32_t next = next_token(w, t);
    const struct golden *g = w->job->golden;
    struct golden *record = w->job->record;
    double nll = 0;

    (void)worker;
    for (size_t i = 0; i < w->job->candidate_count; i++) {
        const float *cand = row(w->candidates[i].same_outputs.logits ? k->ref : k->candidates[i], k->elems[i], job);
        struct position *p = &w->candidates[i].positions[t];
        bool ok = walk_has_ref(w)
                      ? position_compare(p, row(k->ref, k->ref_elems, job), cand, w->job->vocab, next, e)
                      : position_compare_golden(p, &g->rows[t], (double)g->nll[t], cand, w->job->vocab, next, e);
        if (!ok)
            return err_in(e, "token %zu", t);
    }
    if (!record)
        return true;
    if (!position_record(&record->rows[t], &nll, row(k->ref, k->ref_elems, job), w->job->vocab, next, e))
        return err_in(e, "token %zu", t);
    record->nll[t] = (float)nll;
    return true;
}

static bool compare_floor(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct chunk *k = ctx;
    size_t t = k->first + job;

    (void)worker;
    return position_compare(&k->against->positions[t], row(k->ref, k->ref_elems, job), row(k->floor, k->ref_elems, job),
                            k->w->job->vocab, next_token(k->w, t), e) ||
           err_in(e, "token %zu", t);
}

static bool logits_of(const struct diff_side *s, const struct chunk *k, size_t count, float *rows, struct err *e)
{
    return forward_logits(s->f, side_state(s), k->first, count, rows, e);
}

static bool run_floor(struct chunk *k, struct walk_floor *f, struct err *e)
{
    struct walk *w = k->w;

    if (!f->wanted || k->first >= w->floor_tokens)
        return true;
    size_t left = w->floor_tokens - k->first, count = k->count < left ? k->count : left;
    k->against = f;
    return logits_of(&f->side, k, count, k->floor, e) && pool_run(w->threads, count, compare_floor, k, e);
}

static bool run_chunk(struct chunk *k, struct err *e)
{
    struct walk *w = k->w;

    if (walk_has_ref(w) && !logits_of(&w->ref, k, k->count, k->ref, e))
        return err_in(e, "'%s'", w->job->ref->checkpoint.path);
    for (size_t i = 0; i < w->job->candidate_count; i++)
        if (!w->candidates[i].same_outputs.logits &&
            !logits_of(&w->candidates[i].side, k, k->count, k->candidates[i], e))
            return err_in(e, "'%s'", w->job->candidates[i]->checkpoint.path);
    if (!pool_run(w->threads, k->count, compare_position, k, e))
        return false;
    return (run_floor(k, &w->bf16, e) && run_floor(k, &w->order, e)) || err_in(e, "noise floor");
}

bool walk_logits(struct walk *w, struct err *e)
{
    struct chunk k = {.w = w};
    size_t rows = 2 * walk_has_ref(w) + w->job->candidate_count;
    bool ok = true;

    k.ref_elems = w->arch->vocab_size;
    size_t widest = k.ref_elems;
    for (size_t i = 0; i < w->job->candidate_count; i++) {
        k.elems[i] = w->job->candidates[i]->arch.vocab_size;
        widest = k.elems[i] > widest ? k.elems[i] : widest;
    }
    size_t step = walk_chunk_tokens(w, rows, widest);
    float *memory = mem_aligned(rows * step * widest * sizeof *memory);
    for (size_t i = 0; i < w->job->candidate_count; i++)
        k.candidates[i] = memory + i * step * widest;
    k.ref = memory + w->job->candidate_count * step * widest;
    k.floor = k.ref + step * widest;
    for (; ok && k.first < w->tokens; k.first += step) {
        k.count = w->tokens - k.first < step ? w->tokens - k.first : step;
        ok = run_chunk(&k, e);
    }
    mem_free(memory);
    return ok || err_in(e, "logits");
}
