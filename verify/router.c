#include "verify/router.h"

#include <math.h>
#include <string.h>

#include "quant/vecmath.h"

void router_init(struct router *r, const struct arch *arch, const float *bias)
{
    *r = (struct router){
        .scoring = arch->scoring,
        .topk = arch->topk,
        .experts = arch->experts,
        .top_k = arch->experts_per_token,
        .groups = arch->topk == TOPK_GREEDY ? 1 : arch->groups,
        .topk_groups = arch->topk == TOPK_GREEDY ? 1 : arch->topk_groups,
        .normalize = arch->norm_topk_prob,
        .scaling = (float)arch->routed_scaling,
        .bias = bias,
    };
}

size_t router_scratch_bytes(const struct router *r)
{
    return (r->experts + r->groups) * sizeof(float) + r->experts + r->groups;
}

void router_score(const struct router *r, const struct kernel *k, const float *logits, float *scores)
{
    if (r->scoring == SCORING_SIGMOID)
        k->vec->sigmoid(scores, logits, r->experts);
    else
        softmax(k, scores, logits, r->experts);
}

/* Marks the `count` largest of n; what is taken already is passed over. */
static void take_largest(const float *values, size_t n, size_t count, bool *taken)
{
    for (; count > 0; count--) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!taken[i] && (best == n || values[i] > values[best]))
                best = i;
        taken[best] = true;
    }
}

/* The best, or the sum of the two best. */
static float group_score(const float *values, size_t n, bool two)
{
    float best = -INFINITY, second = -INFINITY;

    for (size_t i = 0; i < n; i++) {
        if (values[i] > best) {
            second = best;
            best = values[i];
        } else if (values[i] > second) {
            second = values[i];
        }
    }
    return two && n > 1 ? best + second : best;
}

static void mask_groups(const struct router *r, float *choice, float *group_scores, bool *kept)
{
    size_t each = r->experts / r->groups;
    bool noaux = r->topk == TOPK_NOAUX_TC;

    memset(kept, 0, r->groups);
    for (size_t g = 0; g < r->groups; g++)
        group_scores[g] = group_score(choice + g * each, each, noaux);
    take_largest(group_scores, r->groups, r->topk_groups, kept);
    for (size_t g = 0; g < r->groups; g++)
        for (size_t i = g * each; !kept[g] && i < (g + 1) * each; i++)
            choice[i] = noaux ? -INFINITY : 0.0f;
}

static void weigh(const struct router *r, float *weights)
{
    float sum = 0.0f;

    for (size_t j = 0; j < r->top_k; j++)
        sum += weights[j];
    for (size_t j = 0; j < r->top_k; j++) {
        if (r->normalize)
            weights[j] /= sum + 1e-20f;
        weights[j] *= r->scaling;
    }
}

void router_choose(const struct router *r, const float *scores, uint32_t *ids, float *weights, void *scratch)
{
    float *choice = scratch, *group_scores = choice + r->experts;
    bool *taken = (bool *)(group_scores + r->groups), *kept = taken + r->experts;
    size_t n = 0;

    for (size_t i = 0; i < r->experts; i++)
        choice[i] = r->bias ? scores[i] + r->bias[i] : scores[i];
    if (r->groups > 1)
        mask_groups(r, choice, group_scores, kept);
    memset(taken, 0, r->experts);
    take_largest(choice, r->experts, r->top_k, taken);
    for (size_t i = 0; i < r->experts; i++)
        if (taken[i]) {
            ids[n] = (uint32_t)i;
            weights[n++] = scores[i];
        }
    weigh(r, weights);
}
