#include "verify/layer_metrics.h"

#include <math.h>
#include <string.h>

#define LANES 8u

struct lanes {
    double error[LANES], ref[LANES], other[LANES], dot[LANES], update[LANES];
};

static double total(const double lanes[LANES])
{
    double sum = 0;

    for (size_t k = 0; k < LANES; k++)
        sum += lanes[k];
    return sum;
}

static void add_column(struct lanes *l, size_t k, double in, double ref, double other)
{
    double error = other - ref, update = ref - in;

    l->error[k] += error * error;
    l->ref[k] += ref * ref;
    l->other[k] += other * other;
    l->dot[k] += ref * other;
    l->update[k] += update * update;
}

void state_compare(struct state_error *s, const float *ref_in, const float *ref, const float *other, size_t cols)
{
    const float *in = ref_in ? ref_in : ref; /* added nothing */
    struct lanes l = {0};
    size_t i = 0;

    for (; i + LANES <= cols; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            add_column(&l, k, (double)in[i + k], (double)ref[i + k], (double)other[i + k]);
    for (size_t k = 0; i < cols; i++, k++)
        add_column(&l, k, (double)in[i], (double)ref[i], (double)other[i]);
    *s = (struct state_error){total(l.error), total(l.ref),    total(l.other),
                              total(l.dot),   total(l.update), memcmp(ref, other, cols * sizeof *ref) == 0};
}

bool states_same(const struct state_error *s, size_t tokens)
{
    for (size_t t = 0; t < tokens; t++)
        if (!s[t].same)
            return false;
    return true;
}

static double relative2(double error2, double size2, double otherwise2)
{
    double of = size2 > 0 ? size2 : otherwise2;

    return error2 == 0 ? 0 : error2 / of; /* over 0: infinite, which it is */
}

double state_error_of_update(const struct state_error *s, size_t tokens)
{
    double sum = 0;

    for (size_t t = 0; t < tokens; t++)
        sum += relative2(s[t].error2, s[t].update2, s[t].ref2);
    return sqrt(sum / (double)tokens);
}

double state_error_of_state(const struct state_error *s, size_t tokens)
{
    double sum = 0;

    for (size_t t = 0; t < tokens; t++)
        sum += relative2(s[t].error2, s[t].ref2, 0);
    return sqrt(sum / (double)tokens);
}

double state_cosine(const struct state_error *s, size_t tokens)
{
    double sum = 0;

    for (size_t t = 0; t < tokens; t++) {
        double size = sqrt(s[t].ref2) * sqrt(s[t].other2);
        double cosine = s[t].error2 == 0 ? 1 : size > 0 ? s[t].dot / size : 0;
        sum += cosine < 1 ? cosine : 1;
    }
    return sum / (double)tokens;
}

/* Both ascend. */
static size_t shared(const uint32_t *a, const uint32_t *b, size_t k)
{
    size_t both = 0;

    for (size_t i = 0, j = 0; i < k && j < k;) {
        both += a[i] == b[j];
        size_t i_next = i + (a[i] <= b[j]), j_next = j + (b[j] <= a[i]);
        i = i_next;
        j = j_next;
    }
    return both;
}

void routing_compare(struct routing_agreement *r, const uint32_t *ref, const uint32_t *other, size_t tokens,
                     size_t top_k)
{
    double overlap = 0, jaccard = 0, k = (double)top_k;

    *r = (struct routing_agreement){.tokens = tokens};
    for (size_t t = 0; t < tokens; t++) {
        double both = (double)shared(ref + t * top_k, other + t * top_k, top_k);
        r->changed += both < k;
        overlap += both / k;
        jaccard += both / (2 * k - both);
    }
    r->overlap = overlap / (double)tokens;
    r->jaccard = jaccard / (double)tokens;
}

void routing_count(uint64_t *load, const uint32_t *ids, size_t tokens, size_t top_k)
{
    for (size_t i = 0; i < tokens * top_k; i++)
        load[ids[i]]++;
}
