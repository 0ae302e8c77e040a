#include "verify/sampler.h"

#include <assert.h>
#include <stdlib.h>

#include "formats/base/mem.h"
#include "quant/vecmath.h"

struct sampler_candidate {
    uint32_t id;
    float logit;
    double weight; /* exp, not divided by the sum */
};

void sampler_init(struct sampler *s, const struct sampler_options *o)
{
    *s = (struct sampler){.options = *o, .random = {o->seed}};
}

void sampler_release(struct sampler *s)
{
    mem_free(s->candidates);
    *s = (struct sampler){0};
}

static uint32_t highest(const float *logits, size_t count)
{
    size_t best = 0;

    for (size_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return (uint32_t)best;
}

static int by_logit(const void *a, const void *b)
{
    const struct sampler_candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* All ids, the highest logit first. */
static void order(struct sampler *s, const float *logits, size_t count)
{
    if (count > s->candidate_room) {
        s->candidates = mem_grow(s->candidates, count, sizeof *s->candidates);
        s->candidate_room = count;
    }
    for (size_t i = 0; i < count; i++)
        s->candidates[i] = (struct sampler_candidate){.id = (uint32_t)i, .logit = logits[i]};
    qsort(s->candidates, count, sizeof *s->candidates, by_logit);
}

static double weigh(struct sampler_candidate *c, size_t count, double temperature)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++) {
        c[i].weight = math_exp(((double)c[i].logit - (double)c[0].logit) / temperature);
        sum += c[i].weight;
    }
    return sum;
}

/* How many from the first on have `share` of the sum; *kept: their own sum. */
static size_t keep_share(const struct sampler_candidate *c, size_t count, double wanted, double *kept)
{
    size_t i = 0;

    *kept = 0;
    while (i < count && (i == 0 || *kept < wanted))
        *kept += c[i++].weight;
    return i;
}

uint32_t sampler_pick(struct sampler *s, const float *logits, size_t count)
{
    const struct sampler_options *o = &s->options;
    struct sampler_candidate *c = NULL;
    double sum = 0, drawn = 0;

    assert(count > 0);
    if (o->temperature <= 0)
        return highest(logits, count);
    order(s, logits, count);
    c = s->candidates;
    if (o->top_k && o->top_k < count)
        count = (size_t)o->top_k;
    sum = weigh(c, count, o->temperature);
    if (o->top_p < 1)
        count = keep_share(c, count, o->top_p * sum, &sum);
    drawn = random_unit(&s->random) * sum;
    for (size_t i = 0; i + 1 < count; i++) {
        if (drawn < c[i].weight)
            return c[i].id;
        drawn -= c[i].weight;
    }
    return c[count - 1].id;
}
