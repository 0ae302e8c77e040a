#include "samples/generate/synthetic_trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double draw_unit(uint64_t *state)
{
    return (double)(draw(state) >> 11) * 0x1p-53;
}

static void shuffle(uint32_t *list, size_t count, uint64_t *state)
{
    for (size_t i = count; i > 1; i--) {
        size_t k = (size_t)(draw(state) % i);
        uint32_t x = list[i - 1];
        list[i - 1] = list[k];
        list[k] = x;
    }
}

/* Sums of i^-zipf, for drawing by. */
static double *zipf_sums(size_t count, double zipf)
{
    double *sums = mem_alloc(count * sizeof *sums), sum = 0;

    for (size_t i = 0; i < count; i++)
        sums[i] = sum += pow((double)(i + 1), -zipf);
    return sums;
}

static size_t draw_zipf(const double *sums, size_t count, uint64_t *state)
{
    double x = draw_unit(state) * sums[count - 1];
    size_t low = 0, high = count - 1;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sums[middle] > x)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int compare_ids(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

/* members: experts by community. */
struct plant {
    uint32_t *members;
    size_t experts, width, communities;
    double *community_sums, *member_sums, *all_sums;
    uint32_t *heat; /* all experts, hottest first */
};

static void plant_open(struct plant *p, const struct routing_stats *s, const struct synthetic_trace *t, uint64_t *state)
{
    size_t group = (size_t)(s->experts / t->groups);

    p->experts = (size_t)s->experts;
    p->communities = (size_t)t->communities;
    p->width = p->experts / p->communities;
    p->members = mem_alloc(p->experts * sizeof *p->members);
    p->heat = mem_alloc(p->experts * sizeof *p->heat);
    for (uint32_t i = 0; i < p->experts; i++)
        p->members[i] = p->heat[i] = i;
    for (size_t g = 0; g < t->groups; g++)
        shuffle(p->members + g * group, group, state);
    shuffle(p->heat, p->experts, state);
    p->community_sums = zipf_sums(p->communities, t->zipf);
    p->member_sums = zipf_sums(p->width, t->zipf);
    p->all_sums = zipf_sums(p->experts, t->zipf);
}

static void plant_release(struct plant *p)
{
    mem_free(p->members);
    mem_free(p->heat);
    mem_free(p->community_sums);
    mem_free(p->member_sums);
    mem_free(p->all_sums);
}

static uint32_t choose(const struct plant *p, const struct synthetic_trace *t, size_t community, uint64_t *state)
{
    if (p->communities > 1 && draw_unit(state) < t->loyalty)
        return p->members[community * p->width + draw_zipf(p->member_sums, p->width, state)];
    return p->heat[draw_zipf(p->all_sums, p->experts, state)];
}

void synthetic_trace_add(struct routing_stats *s, uint64_t layer, const struct synthetic_trace *t)
{
    uint64_t state = t->seed * 1000003 + layer;
    size_t k = (size_t)s->experts_per_token;
    uint32_t *ids = mem_alloc(k * sizeof *ids);
    float *weights = mem_alloc(k * sizeof *weights);
    struct plant p;

    plant_open(&p, s, t, &state);
    for (size_t i = 0; i < k; i++)
        weights[i] = 1.0f / (float)k;
    for (uint64_t token = 0; token < t->tokens; token++) {
        size_t community = draw_zipf(p.community_sums, p.communities, &state);
        for (size_t i = 0; i < k;) {
            size_t same = 0;
            ids[i] = choose(&p, t, community, &state);
            while (ids[same] != ids[i])
                same++;
            i += same == i; /* each once */
        }
        qsort(ids, k, sizeof *ids, compare_ids);
        routing_stats_add(s, layer, ids, weights, 1);
    }
    plant_release(&p);
    mem_free(ids);
    mem_free(weights);
}

void synthetic_loads(float *loads, uint64_t experts, double zipf, uint64_t seed)
{
    uint32_t *order = mem_alloc(experts * sizeof *order);
    uint64_t state = seed;

    for (uint32_t i = 0; i < experts; i++)
        order[i] = i;
    shuffle(order, (size_t)experts, &state);
    for (size_t i = 0; i < experts; i++)
        loads[order[i]] = (float)pow((double)(i + 1), -zipf);
    mem_free(order);
}
