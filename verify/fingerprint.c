#include "verify/fingerprint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/progress.h"
#include "formats/base/units.h"
#include "quant/kernel.h"
#include "quant/logits.h"
#include "quant/vecmath.h"
#include "verify/forward.h"
#include "verify/metrics.h"
#include "verify/mtp.h"

#define PROMPT_TOKENS_MAX 4096u /* of a manifest that someone else wrote */

/* ---- asking ---- */

/* One pass over a prompt, with what is kept of it: first of the main head, then, in the same place, of the MTP layer.
 */
struct asking {
    const struct source *s;
    struct arena *a;
    const uint32_t *ids;
    size_t count; /* positions */
    struct sequence sequence;
    struct batch batch;
    struct forward *f;
    struct stream x[2];
    struct progress *progress;
    uint64_t *bytes;
    float *logits;                    /* [count][vocabulary] */
    double *log_sums;                 /* [count]: ln of the sum of exp(logit) */
    struct manifest_choices *routing; /* one for each layer with a router, in the arena */
    size_t routing_count;
};

static bool take_routing(void *ctx, const struct routing *r, struct err *e)
{
    struct asking *k = ctx;
    struct manifest_choices *c = k->routing_count > 0 ? &k->routing[k->routing_count - 1] : NULL;

    (void)e;
    if (!c || c->layer != r->layer) {
        c = &k->routing[k->routing_count++];
        *c = (struct manifest_choices){.layer = r->layer, .expert_count = k->count * r->top_k};
        c->experts = arena_array(k->a, c->expert_count, sizeof *c->experts);
    }
    memcpy(c->experts + r->first * r->top_k, r->ids, r->tokens * r->top_k * sizeof *r->ids);
    return true;
}

static bool begin_layer(struct asking *k, const char *label, struct err *e)
{
    progress_label(k->progress, label);
    return !signal_cancelled() || err_set(e, ERR_CANCELLED, "interrupted");
}

static bool run_layers(struct asking *k, struct err *e)
{
    struct observer observer = {.ctx = k, .routing = take_routing};
    uint64_t layers = k->s->arch.layers;
    char label[32];

    if (!forward_stream(k->f, &k->x[0], e) || !forward_stream(k->f, &k->x[1], e) || !forward_embed(k->f, &k->x[0], e))
        return false;
    for (uint64_t layer = 0; layer < layers; layer++) {
        snprintf(label, sizeof label, "layer %" PRIu64, layer);
        if (!begin_layer(k, label, e) ||
            !forward_layer(k->f, layer, &k->x[layer % 2], &k->x[(layer + 1) % 2], &observer, e))
            return false;
        progress_add(k->progress, k->bytes[layer]);
    }
    if (!forward_logits(k->f, &k->x[layers % 2], 0, k->count, k->logits, e))
        return false;
    progress_add(k->progress, k->bytes[layers]);
    return true;
}

static bool run_mtp(struct asking *k, const struct mtp_batch *m, struct err *e)
{
    struct observer observer = {.ctx = k, .routing = take_routing};
    uint64_t layers = k->s->arch.layers;
    struct stream out = {0};
    bool ok = begin_layer(k, "MTP layer", e) && forward_mtp(k->f, m, &k->x[layers % 2], &out, &observer, e) &&
              forward_mtp_logits(k->f, &out, 0, k->count, k->logits, e);

    stream_close(&out);
    progress_add(k->progress, k->bytes[layers + 1]);
    return ok;
}

/* ln of the sum of exp: the largest logit, and the log of a sum that holds it as 1. */
static bool take_log_sums(struct asking *k, struct err *e)
{
    size_t vocabulary = (size_t)k->s->arch.vocab_size;

    for (size_t t = 0; t < k->count; t++) {
        const float *row = k->logits + t * vocabulary;
        if (!kernel_get()->f32_check(row, vocabulary))
            return err_set(e, ERR_FORMAT, "the logits of position %zu are not finite", t);
        double most = (double)kernel_get()->vec->max(row, vocabulary);
        k->log_sums[t] = most + log64(kernel_get()->logits_pair(row, most, row, most, vocabulary).a_sum);
    }
    return true;
}

/* Opening is apart: what fails there cannot be asked at all. */
static bool open_pass(struct asking *k, const struct fingerprint_options *o, struct err *e)
{
    struct forward_options options = {.threads = o->threads, .memory_bytes = o->memory_bytes, .by_slices = true};

    k->sequence = (struct sequence){.tokens = k->count};
    k->batch = (struct batch){.ids = k->ids, .tokens = k->count, .sequences = &k->sequence, .sequence_count = 1};
    return forward_open(&k->f, k->s, &options, e) && forward_begin(k->f, &k->batch, e);
}

static bool ask(struct asking *k, bool mtp, bool quiet, struct err *e)
{
    uint64_t total = 0;

    k->bytes = fingerprint_read_bytes(k->s, k->count, mtp, &total);
    k->progress = progress_new("fingerprint", total, quiet);
    k->logits = mem_aligned(k->count * (size_t)k->s->arch.vocab_size * sizeof *k->logits);
    k->log_sums = mem_alloc(k->count * sizeof *k->log_sums);
    k->routing = arena_array(k->a, (size_t)k->s->arch.layers + 1, sizeof *k->routing);
    return run_layers(k, e) && take_log_sums(k, e);
}

/* What was asked before is gone then, but for the choices of experts. A prompt of one token has no successor to tell.
 */
static bool ask_mtp(struct asking *k, struct err *e)
{
    struct mtp_batch m = {0};

    mtp_batch_init(&m, &k->batch);
    k->count = m.batch.tokens;
    bool ok = k->count == 0 || (run_mtp(k, &m, e) && take_log_sums(k, e)) || err_in(e, "MTP layer");
    mtp_batch_release(&m);
    return ok;
}

static void asking_end(struct asking *k, bool ok)
{
    if (k->progress)
        progress_end(k->progress, ok);
    stream_close(&k->x[0]);
    stream_close(&k->x[1]);
    forward_close(k->f);
    mem_free(k->bytes);
    mem_free(k->log_sums);
    mem_free(k->logits);
}

static double logprob(const struct asking *k, size_t position, uint32_t id)
{
    return (double)k->logits[position * (size_t)k->s->arch.vocab_size + id] - k->log_sums[position];
}

/* ---- making ---- */

static void take_position(const struct asking *k, size_t position, struct manifest_position *p)
{
    size_t vocabulary = (size_t)k->s->arch.vocab_size;
    struct top top;

    top_find(&top, k->logits + position * vocabulary, vocabulary, FINGERPRINT_TOP);
    p->id_count = p->logprob_count = top.count;
    p->ids = arena_array(k->a, FINGERPRINT_TOP, sizeof *p->ids);
    p->logprobs = arena_array(k->a, FINGERPRINT_TOP, sizeof *p->logprobs);
    for (size_t i = 0; i < top.count; i++) {
        p->ids[i] = top.ids[i];
        p->logprobs[i] = (double)top.logits[i] - k->log_sums[position];
    }
}

static struct manifest_position *take_positions(const struct asking *k, size_t *count)
{
    struct manifest_position *positions = arena_array(k->a, k->count, sizeof *positions);

    for (size_t t = 0; t < k->count; t++)
        take_position(k, t, &positions[t]);
    *count = k->count;
    return positions;
}

static bool take_fingerprint(struct asking *k, bool quiet, struct manifest_fingerprint *f, struct err *e)
{
    bool mtp = forward_has_mtp(k->f);

    f->kernel_class = kernel_get()->kernel_class;
    f->prompt_count = k->count;
    f->prompt = arena_array(k->a, k->count, sizeof *f->prompt);
    memcpy(f->prompt, k->ids, k->count * sizeof *f->prompt);
    if (!ask(k, mtp, quiet, e))
        return false;
    f->positions = take_positions(k, &f->position_count);
    if (mtp && !ask_mtp(k, e))
        return false;
    if (mtp)
        f->mtp = take_positions(k, &f->mtp_count);
    f->routing = k->routing;
    f->routing_count = k->routing_count;
    return true;
}

bool fingerprint_make(struct manifest_fingerprint **out, struct arena *a, const struct source *s,
                      const struct fingerprint_options *o, struct err *e)
{
    uint32_t ids[FINGERPRINT_TOKENS];
    struct asking k = {.s = s, .a = a, .ids = ids, .count = FINGERPRINT_TOKENS};
    struct manifest_fingerprint *made = arena_alloc(a, sizeof *made);

    bool ok = fingerprint_prompt(ids, s, e) && open_pass(&k, o, e) && take_fingerprint(&k, o->quiet, made, e);
    if (ok)
        *out = made;
    asking_end(&k, ok);
    return ok;
}

/* ---- checking ---- */

static bool malformed(struct findings *findings, const char *what)
{
    findings_add(findings, RULE_MANIFEST_MALFORMED, MANIFEST_NAME ": 'fingerprint': %s", what);
    return false;
}

static bool ids_fit(const uint32_t *ids, size_t count, uint64_t limit)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= limit)
            return false;
    return true;
}

static bool check_positions(const struct manifest_position *positions, size_t count, const struct arch *a,
                            struct findings *findings)
{
    for (size_t i = 0; i < count; i++)
        if (positions[i].id_count != positions[i].logprob_count ||
            !ids_fit(positions[i].ids, positions[i].id_count, a->vocab_size))
            return malformed(findings, "a position has ids past the vocabulary, or not one log-probability for each");
    return true;
}

/* Tokens that go through a layer: the last one has no successor, which the MTP layer wants to be told. */
static size_t tokens_of(const struct manifest_fingerprint *f, const struct arch *a, uint64_t layer)
{
    return f->prompt_count - (layer == a->layers);
}

/* What a manifest may say that this checkpoint cannot be asked. */
static bool check_form(const struct manifest_fingerprint *want, const struct source *s, struct findings *findings)
{
    const struct arch *a = &s->arch;

    if (want->prompt_count == 0 || want->prompt_count > PROMPT_TOKENS_MAX)
        return malformed(findings, "the prompt has no tokens, or thousands");
    if (want->position_count != want->prompt_count)
        return malformed(findings, "there is not one position for each token of the prompt");
    if (want->mtp_count > 0 && want->mtp_count != want->prompt_count - 1)
        return malformed(findings, "there is not one position of the MTP layer for each token but the last");
    if (!ids_fit(want->prompt, want->prompt_count, a->vocab_size))
        return malformed(findings, "the prompt has ids past the vocabulary");
    if (!check_positions(want->positions, want->position_count, a, findings) ||
        !check_positions(want->mtp, want->mtp_count, a, findings))
        return false;
    for (size_t i = 0; i < want->routing_count; i++)
        if (want->routing[i].expert_count != tokens_of(want, a, want->routing[i].layer) * a->experts_per_token ||
            !ids_fit(want->routing[i].experts, want->routing[i].expert_count, a->experts))
            return malformed(findings, "the experts of a layer are not those of this model");
    return true;
}

static bool has_expert(const uint32_t *experts, size_t count, uint32_t expert)
{
    for (size_t i = 0; i < count; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

static const struct manifest_choices *find_layer(const struct asking *k, uint64_t layer)
{
    for (size_t i = 0; i < k->routing_count; i++)
        if (k->routing[i].layer == layer)
            return &k->routing[i];
    return NULL;
}

static void count_flips(const struct asking *k, const struct manifest_choices *want, struct fingerprint_sum *sum)
{
    const struct manifest_choices *got = find_layer(k, want->layer);
    size_t top_k = k->s->arch.experts_per_token;

    sum->choices += want->expert_count;
    for (size_t i = 0; i < want->expert_count; i++)
        sum->flips += !got || !has_expert(got->experts + i / top_k * top_k, top_k, want->experts[i]);
}

/* Where the two are farthest apart. */
struct worst {
    const char *of; /* "" or " of the MTP layer" */
    size_t position;
    uint32_t id;
    double recorded, got;
    size_t past; /* log-probabilities that differ by too much */
};

static void compare_positions(const struct asking *k, const char *of, const struct manifest_position *want,
                              struct fingerprint_sum *sum, struct worst *worst)
{
    for (size_t t = 0; t < k->count; t++)
        for (size_t i = 0; i < want[t].id_count; i++) {
            double got = logprob(k, t, want[t].ids[i]), delta = fabs(got - want[t].logprobs[i]);
            sum->logprobs++;
            worst->past += !(delta <= FINGERPRINT_DELTA_MAX);
            if (delta <= sum->delta_max)
                continue;
            sum->delta_max = delta;
            *worst = (struct worst){of, t, want[t].ids[i], want[t].logprobs[i], got, worst->past};
        }
}

static void judge(const struct worst *worst, const struct fingerprint_sum *sum, bool same_class,
                  struct findings *findings)
{
    if (worst->past > 0)
        findings_add(findings, RULE_FINGERPRINT_OFF,
                     "%zu of %zu log-probabilities %s more than %g from those of " MANIFEST_NAME
                     "; at position %zu%s token %" PRIu32 " has %.5f, recorded was %.5f%s",
                     worst->past, sum->logprobs, is_are(worst->past), FINGERPRINT_DELTA_MAX, worst->position, worst->of,
                     worst->id, worst->got, worst->recorded, same_class ? "" : ", by kernels of another class");
    if (sum->flips > 0)
        findings_add(findings, RULE_ROUTER_FLIPS, "%" PRIu64 " of %" PRIu64 " choices of experts %s recorded",
                     sum->flips, sum->choices, sum->flips == 1 ? "is another than" : "are others than");
}

/* Bundles from before the MTP layer was asked have no answers of it. */
static bool compare(struct asking *k, const struct manifest_fingerprint *want, bool quiet, struct fingerprint_sum *sum,
                    struct findings *findings, struct err *e)
{
    struct worst worst = {.of = ""};

    if (!ask(k, want->mtp_count > 0, quiet, e))
        return false;
    compare_positions(k, "", want->positions, sum, &worst);
    if (want->mtp_count > 0 && !ask_mtp(k, e))
        return false;
    if (want->mtp_count > 0)
        compare_positions(k, " of the MTP layer", want->mtp, sum, &worst);
    for (size_t i = 0; i < want->routing_count; i++)
        count_flips(k, &want->routing[i], sum);
    sum->positions = want->position_count;
    sum->mtp_positions = want->mtp_count;
    judge(&worst, sum, strcmp(want->kernel_class, kernel_get()->kernel_class) == 0, findings);
    return true;
}

/* The bundle's fault, and so a finding. */
static bool take_failure(struct findings *findings, struct err *bad, struct err *e)
{
    if (bad->code == ERR_FORMAT || bad->code == ERR_UNSUPPORTED) {
        findings_add(findings, RULE_FINGERPRINT_FAILED, "%s", bad->text);
        return true;
    }
    *e = *bad;
    return false;
}

bool fingerprint_check(const struct manifest_fingerprint *want, const struct source *s,
                       const struct fingerprint_options *o, struct fingerprint_sum *sum, struct findings *findings,
                       struct err *e)
{
    struct arena a = {0};
    struct asking k = {.s = s, .a = &a, .ids = want->prompt, .count = want->prompt_count};
    struct err bad = {0};

    *sum = (struct fingerprint_sum){0};
    if (!check_form(want, s, findings))
        return true;
    bool asked = open_pass(&k, o, &bad) && compare(&k, want, o->quiet, sum, findings, &bad);
    asking_end(&k, asked);
    arena_release(&a);
    return asked || take_failure(findings, &bad, e);
}
