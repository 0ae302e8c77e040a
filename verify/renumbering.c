#include "verify/renumbering.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/progress.h"
#include "verify/metrics.h"
#include "verify/mtp.h"

#define TOKENS ((size_t)FINGERPRINT_TOKENS)

/* What the source does with the prompt: the result is held against it. */
struct record {
    size_t hidden, top_k, vocab, layers; /* layers: the model's own */
    float *states;                       /* [layers + 1][TOKENS][hidden]: embedded, then behind each layer */
    float *mtp;                          /* [TOKENS - 1][hidden] behind MTP's layer */
    uint32_t *chosen;                    /* [layers + 1][TOKENS][top_k] */
    float *logits;                       /* [TOKENS][vocab] */
    bool has_mtp;
};

static uint64_t record_bytes(const struct arch *a)
{
    uint64_t row = a->hidden_size * sizeof(float) + a->experts_per_token * sizeof(uint32_t);

    return TOKENS * ((a->layers + 2) * row + 2 * a->vocab_size * sizeof(float)); /* two: the result's logits as well */
}

static void record_init(struct record *r, const struct source *s)
{
    const struct arch *a = &s->arch;

    *r = (struct record){.hidden = (size_t)a->hidden_size,
                         .top_k = (size_t)a->experts_per_token,
                         .vocab = (size_t)a->vocab_size,
                         .layers = (size_t)a->layers,
                         .has_mtp = mtp_is_stored(s)};
    r->states = mem_aligned((r->layers + 1) * TOKENS * r->hidden * sizeof *r->states);
    r->mtp = mem_aligned(TOKENS * r->hidden * sizeof *r->mtp);
    r->chosen = mem_alloc((r->layers + 1) * TOKENS * r->top_k * sizeof *r->chosen);
    r->logits = mem_aligned(TOKENS * r->vocab * sizeof *r->logits);
}

static void record_release(struct record *r)
{
    mem_free(r->states);
    mem_free(r->mtp);
    mem_free(r->chosen);
    mem_free(r->logits);
}

static float *states_of(const struct record *r, size_t layer)
{
    return r->states + layer * TOKENS * r->hidden;
}

static uint32_t *chosen_of(const struct record *r, size_t layer)
{
    return r->chosen + layer * TOKENS * r->top_k;
}

/* ---- a pass of either ---- */

static uint64_t read_bytes(const struct source *s)
{
    uint64_t layers = s->arch.layers + mtp_is_stored(s), bytes = 0;

    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        if (w->id.role != ROLE_UNKNOWN && (w->id.layer < 0 || (uint64_t)w->id.layer < layers))
            bytes += fingerprint_weight_bytes(s, w, TOKENS);
    }
    return bytes;
}

/* Tokens [0, TOKENS) of the result's batch are the source's states, which are put in before each layer; behind them
 * are its own. The source has the former alone. */
struct pass {
    const struct source *s;
    struct forward *f;
    struct batch batch;
    struct sequence sequences[2];
    uint32_t ids[2 * TOKENS];
    struct stream x[2];
    uint32_t *chosen; /* [batch.tokens][top_k], of the last layer */
    bool routed;
    struct progress *progress;
    uint64_t layer_bytes; /* for the progress line */
};

static bool note_routing(void *ctx, const struct routing *r, struct err *e)
{
    struct pass *p = ctx;

    (void)e;
    p->routed = true;
    memcpy(p->chosen + r->first * r->top_k, r->ids, r->tokens * r->top_k * sizeof *r->ids);
    return true;
}

static void pass_batch(struct pass *p, size_t copies)
{
    p->batch =
        (struct batch){.ids = p->ids, .tokens = copies * TOKENS, .sequences = p->sequences, .sequence_count = copies};
    for (size_t i = 0; i < copies; i++)
        p->sequences[i] = (struct sequence){.first = i * TOKENS, .tokens = TOKENS};
}

static bool pass_open(struct pass *p, const struct source *s, size_t copies, const uint32_t ids[TOKENS],
                      const struct fingerprint_options *o, struct err *e)
{
    struct forward_options options = {.threads = o->threads,
                                      .memory_bytes = o->memory_bytes,
                                      .caller_bytes = record_bytes(&s->arch),
                                      .by_slices = true};

    p->s = s;
    pass_batch(p, copies);
    for (size_t i = 0; i < copies; i++)
        memcpy(p->ids + i * TOKENS, ids, TOKENS * sizeof *ids);
    p->chosen = mem_alloc((p->batch.tokens * (size_t)s->arch.experts_per_token + 1) * sizeof *p->chosen);
    p->layer_bytes = read_bytes(s) / (s->arch.layers + 1);
    return forward_open(&p->f, s, &options, e) && forward_begin(p->f, &p->batch, e) &&
           forward_stream(p->f, &p->x[0], e) && forward_stream(p->f, &p->x[1], e);
}

static void pass_close(struct pass *p)
{
    stream_close(&p->x[0]);
    stream_close(&p->x[1]);
    forward_close(p->f);
    mem_free(p->chosen);
}

static bool pass_layer(struct pass *p, size_t layer, struct err *e)
{
    struct observer observer = {.ctx = p, .routing = note_routing};
    char label[40];

    snprintf(label, sizeof label, "layer %zu", layer);
    progress_label(p->progress, label);
    progress_add(p->progress, p->layer_bytes);
    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    p->routed = false;
    return forward_layer(p->f, layer, &p->x[layer % 2], &p->x[(layer + 1) % 2], &observer, e);
}

/* Behind the last layer; the batch is MTP's afterwards. */
static bool pass_mtp(struct pass *p, struct mtp_batch *m, struct stream *out, struct err *e)
{
    struct observer observer = {.ctx = p, .routing = note_routing};

    progress_label(p->progress, "MTP layer");
    mtp_batch_init(m, &p->batch);
    p->routed = false;
    return forward_mtp(p->f, m, &p->x[p->s->arch.layers % 2], out, &observer, e);
}

/* ---- the source ---- */

static bool take_rows(const struct stream *from, size_t count, size_t width, float *to, struct err *e)
{
    const float *rows = NULL;

    if (!stream_read(from, 0, count, to, &rows, e))
        return false;
    if (rows != to)
        memcpy(to, rows, count * width * sizeof *to);
    return true;
}

static bool record_mtp(struct record *r, struct pass *p, struct err *e)
{
    struct mtp_batch m = {0};
    struct stream out = {0};
    bool ok = pass_mtp(p, &m, &out, e) && take_rows(&out, m.batch.tokens, r->hidden, r->mtp, e);

    memcpy(chosen_of(r, r->layers), p->chosen, (TOKENS - 1) * r->top_k * sizeof *r->chosen);
    stream_close(&out);
    mtp_batch_release(&m);
    return ok;
}

static bool record_layers(struct record *r, struct pass *p, struct err *e)
{
    if (!forward_embed(p->f, &p->x[0], e) || !take_rows(&p->x[0], TOKENS, r->hidden, states_of(r, 0), e))
        return false;
    for (size_t layer = 0; layer < r->layers; layer++) {
        if (!pass_layer(p, layer, e) ||
            !take_rows(&p->x[(layer + 1) % 2], TOKENS, r->hidden, states_of(r, layer + 1), e))
            return false;
        memcpy(chosen_of(r, layer), p->chosen, TOKENS * r->top_k * sizeof *r->chosen);
    }
    return forward_logits(p->f, &p->x[r->layers % 2], 0, TOKENS, r->logits, e) && (!r->has_mtp || record_mtp(r, p, e));
}

static bool record_source(struct record *r, const struct source *s, const uint32_t ids[TOKENS],
                          struct progress *progress, const struct fingerprint_options *o, struct err *e)
{
    struct pass p = {.progress = progress};
    bool ok = pass_open(&p, s, 1, ids, o, e) && record_layers(r, &p, e);

    pass_close(&p);
    return ok || err_in(e, "'%s'", s->checkpoint.path);
}

/* ---- the result, held against it ---- */

struct proving {
    const struct record *record;
    const struct expert_numbers *map;
    struct renumbering_proof *proof;
    struct err differs; /* the first thing that does */
};

static void note(struct proving *k, const struct err *what)
{
    if (k->differs.code == ERR_NONE)
        k->differs = *what;
}

static int compare_ids(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

/* Of the source's choices, those that are the result's too; *missing: the first of the others. */
static size_t count_common(const uint32_t *want, const uint32_t *got, size_t count, uint32_t *missing)
{
    size_t common = 0;

    for (size_t i = count; i > 0; i--) {
        if (bsearch(&want[i - 1], got, count, sizeof *got, compare_ids))
            common++;
        else
            *missing = want[i - 1];
    }
    return common;
}

/* Rows from `first` on of the result's choices in this layer. Returns how many of the source's are among them. */
static uint64_t count_mapped(struct proving *k, struct pass *p, size_t layer, size_t first, size_t tokens, bool must)
{
    size_t top_k = k->record->top_k;
    const uint32_t *want = chosen_of(k->record, layer);
    uint64_t mapped = 0;

    for (size_t t = 0; t < tokens; t++) {
        uint32_t *got = p->chosen + (first + t) * top_k, missing = 0;
        struct err e = {0};
        expert_numbers_translate(k->map, layer, got, 1, top_k);
        size_t common = count_common(want + t * top_k, got, top_k, &missing);
        mapped += common;
        if (!must || common == top_k)
            continue;
        err_set(&e, ERR_DIFFERS,
                "layer %zu, position %zu: %zu of the %zu experts that the source chooses are chosen; expert %" PRIu32
                " of the source is not",
                layer, t, common, top_k, missing);
        note(k, &e);
    }
    return mapped;
}

static double square(double x)
{
    return x * x;
}

/* What the layer made of the source's states against what the source made of them. before: the states it was given;
 * NULL: none, and sizes stand for what is added. */
static void compare_rows(struct proving *k, const char *what, const float *before, const float *want, const float *got,
                         size_t tokens)
{
    size_t n = k->record->hidden;

    for (size_t t = 0; t < tokens; t++) {
        double error = 0, added = 0;
        struct err e = {0};
        for (size_t i = t * n; i < (t + 1) * n; i++) {
            error += square((double)got[i] - (double)want[i]);
            added += square((double)want[i] - (before ? (double)before[i] : 0));
        }
        double relative = error > 0 ? sqrt(error / added) : 0;
        k->proof->layer_error = relative > k->proof->layer_error ? relative : k->proof->layer_error;
        if (relative <= RENUMBERING_ERROR_MAX)
            continue;
        err_set(&e, ERR_DIFFERS, "%s, position %zu: given the source's state, the output is %.2g from the source's",
                what, t, relative);
        note(k, &e);
    }
}

static bool prove_embedding(struct proving *k, struct pass *p, float *rows, struct err *e)
{
    if (!forward_embed(p->f, &p->x[0], e) || !take_rows(&p->x[0], TOKENS, k->record->hidden, rows, e))
        return false;
    compare_rows(k, "the embedding", NULL, states_of(k->record, 0), rows, TOKENS);
    return true;
}

static bool prove_layer(struct proving *k, struct pass *p, size_t layer, float *rows, struct err *e)
{
    const struct record *r = k->record;
    char what[40];

    if (!stream_write(&p->x[layer % 2], 0, TOKENS, states_of(r, layer), e) || !pass_layer(p, layer, e) ||
        !take_rows(&p->x[(layer + 1) % 2], TOKENS, r->hidden, rows, e))
        return false;
    if (p->routed) {
        k->proof->choices += TOKENS * r->top_k;
        k->proof->mapped += count_mapped(k, p, layer, 0, TOKENS, true);
        k->proof->own_choices += TOKENS * r->top_k;
        k->proof->own += count_mapped(k, p, layer, TOKENS, TOKENS, false);
    }
    snprintf(what, sizeof what, "layer %zu", layer);
    compare_rows(k, what, states_of(r, layer), states_of(r, layer + 1), rows, TOKENS);
    return true;
}

/* MTP's layer joins two states to one, so that there is none before it. */
static bool prove_mtp(struct proving *k, struct pass *p, float *rows, struct err *e)
{
    const struct record *r = k->record;
    struct mtp_batch m = {0};
    struct stream out = {0};
    bool ok = stream_write(&p->x[r->layers % 2], 0, TOKENS, states_of(r, r->layers), e) && pass_mtp(p, &m, &out, e) &&
              take_rows(&out, TOKENS - 1, r->hidden, rows, e);

    if (ok) {
        if (p->routed) {
            k->proof->choices += (TOKENS - 1) * r->top_k;
            k->proof->mapped += count_mapped(k, p, r->layers, 0, TOKENS - 1, true);
        }
        compare_rows(k, "MTP's layer", NULL, r->mtp, rows, TOKENS - 1);
    }
    stream_close(&out);
    mtp_batch_release(&m);
    return ok;
}

static bool compare_logits(struct proving *k, struct pass *p, struct err *e)
{
    const struct record *r = k->record;
    struct renumbering_proof *out = k->proof;
    float *logits = mem_aligned(TOKENS * r->vocab * sizeof *logits);
    bool ok = forward_logits(p->f, &p->x[r->layers % 2], TOKENS, TOKENS, logits, e);

    for (size_t i = 0; ok && i < TOKENS * r->vocab; i++) {
        double delta = fabs((double)logits[i] - (double)r->logits[i]);
        out->logit_delta = delta > out->logit_delta ? delta : out->logit_delta;
    }
    for (size_t t = 0; ok && t < TOKENS; t++) {
        struct position at;
        ok = position_compare(&at, r->logits + t * r->vocab, logits + t * r->vocab, r->vocab, NO_TOKEN, e);
        if (!ok)
            break;
        out->kl += at.kl / (double)TOKENS;
        out->kl_max = at.kl > out->kl_max ? at.kl : out->kl_max;
    }
    mem_free(logits);
    return ok;
}

static bool prove(struct proving *k, struct pass *p, struct err *e)
{
    float *rows = mem_aligned(TOKENS * k->record->hidden * sizeof *rows);
    bool ok = prove_embedding(k, p, rows, e);

    for (size_t layer = 0; ok && layer < k->record->layers; layer++)
        ok = prove_layer(k, p, layer, rows, e);
    ok = ok && compare_logits(k, p, e) && (!k->record->has_mtp || prove_mtp(k, p, rows, e));
    mem_free(rows);
    return ok;
}

static bool judge(struct proving *k, struct err *e)
{
    const struct renumbering_proof *p = k->proof;

    if (k->differs.code == ERR_NONE && p->own == p->own_choices && !(p->kl_max <= RENUMBERING_KL_MAX))
        err_set(&k->differs, ERR_DIFFERS, "the logits are KL %.2g from the source's", p->kl_max);
    if (k->differs.code == ERR_NONE)
        return true;
    *e = k->differs;
    return err_in(e, "not the same function (%" PRIu64 " of %" PRIu64 " chosen experts map one to one)", p->mapped,
                  p->choices);
}

/* ---- the door ---- */

bool renumbering_cost(struct fingerprint_cost *cost, const struct source *before, const struct source *after,
                      unsigned threads, struct err *e)
{
    const struct source *both[] = {before, after};

    *cost = (struct fingerprint_cost){0};
    for (size_t i = 0; i < 2; i++) {
        struct forward_options options = {.threads = threads, .by_slices = true};
        struct pass p = {.s = both[i]};
        pass_batch(&p, i + 1);
        if (!forward_open(&p.f, both[i], &options, e))
            return false;
        uint64_t bytes = forward_memory_bytes(p.f, &p.batch) + record_bytes(&before->arch);
        cost->memory_bytes = bytes > cost->memory_bytes ? bytes : cost->memory_bytes;
        cost->read_bytes += read_bytes(both[i]);
        forward_close(p.f);
    }
    return true;
}

bool renumbering_prove(struct renumbering_proof *proof, const struct source *before, const struct source *after,
                       const struct expert_numbers *r, const struct fingerprint_options *o, struct err *e)
{
    uint32_t ids[TOKENS];
    struct record record;
    struct proving k = {.record = &record, .map = r, .proof = proof};
    struct pass p = {0};
    struct progress *progress = progress_new("proof", read_bytes(before) + read_bytes(after), o->quiet);

    *proof = (struct renumbering_proof){.positions = TOKENS};
    record_init(&record, before);
    bool ok = fingerprint_prompt(ids, before, e) && record_source(&record, before, ids, progress, o, e);
    if (ok) {
        p.progress = progress;
        ok = (pass_open(&p, after, 2, ids, o, e) && prove(&k, &p, e)) || err_in(e, "the result");
        pass_close(&p);
    }
    progress_end(progress, ok);
    record_release(&record);
    return ok && judge(&k, e);
}
