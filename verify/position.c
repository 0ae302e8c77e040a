/* One row of logits against another. */
#include <math.h>

#include "quant/kernel.h"
#include "quant/logits.h"
#include "quant/vecmath.h"
#include "verify/metrics.h"

#define TOP5 5u
/* Logits that are passed over together when none is large enough. */
#define SPAN 32u

static void take(struct top *t, float x, size_t id, size_t room)
{
    if (t->count == room && !(x > t->logits[room - 1]))
        return;
    size_t at = t->count < room ? t->count++ : room - 1;
    for (; at > 0 && x > t->logits[at - 1]; at--) {
        t->logits[at] = t->logits[at - 1];
        t->ids[at] = t->ids[at - 1];
    }
    t->logits[at] = x;
    t->ids[at] = (uint32_t)id;
}

void top_find(struct top *t, const float *logits, size_t vocab, uint32_t most)
{
    const struct vecmath *vec = kernel_get()->vec;
    size_t room = vocab < most ? vocab : most;

    t->count = 0;
    for (size_t i = 0; i < vocab; i += SPAN) {
        size_t end = vocab - i < SPAN ? vocab : i + SPAN;
        if (t->count == room && !(vec->max(logits + i, end - i) > t->logits[room - 1]))
            continue;
        for (size_t id = i; id < end; id++)
            take(t, logits[id], id, room);
    }
}

static bool find_top(struct top *t, const float *logits, size_t vocab, uint32_t most, const char *whose, struct err *e)
{
    if (!kernel_get()->f32_check(logits, vocab))
        return err_set(e, ERR_FORMAT, "the logits of %s are not finite", whose);
    top_find(t, logits, vocab, most);
    return true;
}

/* ln(1 - sum of exp(logprobs)), from what is left beside them; a share below rounding is none. */
static double rest_logprob(const double *logprobs, uint32_t count, size_t vocab)
{
    double sum = 0;

    if (count == vocab)
        return -INFINITY;
    for (uint32_t i = count; i > 0; i--) /* from small to large */
        sum += exp64(logprobs[i - 1]);
    return sum < 1 ? log64(1 - sum) : -INFINITY;
}

/* KL over the top entries and one bucket for all others: merging outcomes never raises it. The terms
 * p ln(p / q) - p + q are each non-negative, so nothing cancels between them. */
static double bound(const double *p_logs, const double *q_logs, uint32_t count, double p_rest, double q_rest)
{
    double sum = 0;

    for (uint32_t i = 0; i < count; i++) {
        double p = exp64(p_logs[i]);
        sum += p * (p_logs[i] - q_logs[i]) - p + exp64(q_logs[i]);
    }
    double p = exp64(p_rest), q = exp64(q_rest);
    if (p > 0 && q > 0)
        sum += p * (p_rest - q_rest) - p + q;
    return sum > 0 ? sum : 0;
}

static uint8_t overlap5(const uint32_t *a, const uint32_t *b, uint32_t count)
{
    uint8_t both = 0;

    if (count < TOP5) /* so small a vocabulary is all overlap */
        return TOP5;
    for (uint32_t i = 0; i < TOP5; i++)
        for (uint32_t j = 0; j < TOP5; j++)
            both = (uint8_t)(both + (a[i] == b[j]));
    return both;
}

static float margin_of(const double *logprobs, uint32_t count)
{
    return (float)(exp64(logprobs[0]) - (count > 1 ? exp64(logprobs[1]) : 0));
}

/* What one side is given by: its largest entries and ln sum exp. */
struct side {
    struct top top;
    double lse;
};

static double logprob(const struct side *s, const float *logits, uint32_t id)
{
    return (double)logits[id] - s->lse;
}

bool position_compare(struct position *p, const float *ref, const float *cand, size_t vocab, uint32_t next,
                      struct err *e)
{
    struct side a, b;

    if (!find_top(&a.top, ref, vocab, TOP_MAX, "the reference", e) ||
        !find_top(&b.top, cand, vocab, TOP5, "the candidate", e))
        return false;
    double m = (double)a.top.logits[0], n = (double)b.top.logits[0];
    struct logits_sums s = kernel_get()->logits_pair(ref, m, cand, n, vocab);
    double a_log = log64(s.a_sum), b_log = log64(s.b_sum), kl = s.product / s.a_sum - a_log + b_log;
    a.lse = m + a_log;
    b.lse = n + b_log;

    double p_logs[TOP_MAX] = {0}, q_logs[TOP_MAX] = {0};
    for (uint32_t i = 0; i < a.top.count; i++) {
        p_logs[i] = (double)a.top.logits[i] - a.lse;
        q_logs[i] = logprob(&b, cand, a.top.ids[i]);
    }
    *p = (struct position){
        .kl = kl > 0 ? kl : 0,
        .kl_bound = bound(p_logs, q_logs, a.top.count, rest_logprob(p_logs, a.top.count, vocab),
                          rest_logprob(q_logs, a.top.count, vocab)),
        .top_ref = a.top.ids[0],
        .top_cand = b.top.ids[0],
        .margin = margin_of(p_logs, a.top.count),
        .top5 = overlap5(a.top.ids, b.top.ids, a.top.count),
        .top1 = a.top.ids[0] == b.top.ids[0],
        .scored = next != NO_TOKEN,
    };
    /* Both are right to about 1e-15; the bound must not look greater for that. */
    p->kl_bound = p->kl_bound < p->kl ? p->kl_bound : p->kl;
    if (p->scored) {
        p->nll_ref = -logprob(&a, ref, next);
        p->nll_cand = -logprob(&b, cand, next);
    }
    return true;
}

static bool side_of(struct side *s, const float *logits, size_t vocab, uint32_t most, const char *whose, struct err *e)
{
    if (!find_top(&s->top, logits, vocab, most, whose, e))
        return false;
    double m = (double)s->top.logits[0];
    s->lse = m + log64(kernel_get()->logits_pair(logits, m, logits, m, vocab).a_sum);
    return true;
}

bool position_compare_golden(struct position *p, const struct top_logprobs *ref, double nll_ref, const float *cand,
                             size_t vocab, uint32_t next, struct err *e)
{
    struct side b;
    double p_logs[TOP_MAX] = {0}, q_logs[TOP_MAX] = {0};

    if (!side_of(&b, cand, vocab, TOP5, "the candidate", e))
        return false;
    for (uint32_t i = 0; i < ref->count; i++) {
        p_logs[i] = (double)ref->logprobs[i];
        q_logs[i] = logprob(&b, cand, ref->ids[i]);
    }
    *p = (struct position){
        .kl = NAN,
        .kl_bound = bound(p_logs, q_logs, ref->count, (double)ref->rest, rest_logprob(q_logs, ref->count, vocab)),
        .top_ref = ref->ids[0],
        .top_cand = b.top.ids[0],
        .margin = margin_of(p_logs, ref->count),
        .top5 = overlap5(ref->ids, b.top.ids, ref->count),
        .top1 = ref->ids[0] == b.top.ids[0],
        .scored = next != NO_TOKEN,
    };
    if (p->scored) {
        p->nll_ref = nll_ref;
        p->nll_cand = -logprob(&b, cand, next);
    }
    return true;
}

bool position_record(struct top_logprobs *t, double *nll, const float *logits, size_t vocab, uint32_t next,
                     struct err *e)
{
    struct side s;
    double logs[TOP_MAX] = {0};

    if (!side_of(&s, logits, vocab, TOP_MAX, "the reference", e))
        return false;
    t->count = s.top.count;
    for (uint32_t i = 0; i < s.top.count; i++) {
        logs[i] = (double)s.top.logits[i] - s.lse;
        t->ids[i] = s.top.ids[i];
        t->logprobs[i] = (float)logs[i];
    }
    t->rest = (float)rest_logprob(logs, s.top.count, vocab);
    *nll = next == NO_TOKEN ? 0 : -logprob(&s, logits, next);
    return true;
}
