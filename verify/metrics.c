/* Many positions together. */
#include "verify/metrics.h"

#include <math.h>
#include <stdlib.h>

#include "formats/base/mem.h"
#include "quant/logits.h"

/* 97.5% of a normal distribution. */
#define NORMAL_95 1.96
/* Where the reference leads by less, another top 1 is no loss. */
#define DECISIVE_MARGIN 0.1f

struct stat_mean clustered_mean(const double *values, const size_t *starts, size_t contexts)
{
    size_t first = starts[0], n = starts[contexts] - first;
    double sum = 0, squares = 0;

    if (n == 0)
        return (struct stat_mean){NAN, NAN};
    for (size_t i = first; i < starts[contexts]; i++)
        sum += values[i];
    double mean = sum / (double)n;
    for (size_t c = 0; c < contexts; c++) {
        double away = 0;
        for (size_t i = starts[c]; i < starts[c + 1]; i++)
            away += values[i] - mean;
        squares += away * away;
    }
    double count = (double)contexts;
    return (struct stat_mean){mean, contexts > 1 ? sqrt(count / (count - 1) * squares) / (double)n : NAN};
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double quantile_sorted(const double *ascending, size_t count, double q)
{
    if (count == 0)
        return NAN;
    double at = q * (double)(count - 1), below = floor(at);
    size_t i = (size_t)below, j = i + 1 < count ? i + 1 : i;
    return ascending[i] + (at - below) * (ascending[j] - ascending[i]);
}

double median_of(double *values, size_t count)
{
    if (count)
        qsort(values, count, sizeof *values, compare_doubles);
    return quantile_sorted(values, count, 0.5);
}

/* Sorts the values. */
static struct stat_spread spread(double *values, const size_t *starts, size_t contexts)
{
    size_t n = starts[contexts] - starts[0];
    struct stat_mean m = clustered_mean(values, starts, contexts);

    if (n == 0)
        return (struct stat_spread){NAN, NAN, NAN, NAN, NAN, NAN};
    qsort(values, n, sizeof *values, compare_doubles);
    return (struct stat_spread){
        .mean = m.mean,
        .se = m.se,
        .median = quantile_sorted(values, n, 0.5),
        .p90 = quantile_sorted(values, n, 0.9),
        .p99 = quantile_sorted(values, n, 0.99),
        .max = values[n - 1],
    };
}

static size_t histogram_bin(double kl)
{
    if (!(kl > 0))
        return 0;
    double bin = floor(3 * (log64(kl) / log64(10) - KL_BIN_LOW));
    return bin < 0 ? 0 : bin >= KL_BINS ? KL_BINS - 1 : (size_t)bin;
}

static void count_flips(struct outputs *o, const struct position *p)
{
    if (p->margin <= DECISIVE_MARGIN)
        return;
    o->decisive++;
    o->decisive_flips += !p->top1;
}

/* Perplexities and their ratio: of the scored positions, which are fewer than all in each context. */
static void summarize_scored(struct outputs *o, const struct position *positions, const size_t *starts, size_t contexts,
                             double *delta, size_t *scored_starts)
{
    double ref = 0, cand = 0, squares = 0;
    size_t n = 0;

    for (size_t c = 0; c < contexts; c++) {
        scored_starts[c] = n;
        for (size_t i = starts[c]; i < starts[c + 1]; i++) {
            const struct position *p = &positions[i];
            if (!p->scored)
                continue;
            double change = exp64(-p->nll_cand) - exp64(-p->nll_ref);
            ref += p->nll_ref;
            cand += p->nll_cand;
            squares += change * change;
            delta[n++] = p->nll_cand - p->nll_ref;
        }
    }
    scored_starts[contexts] = n;
    o->scored = n;
    o->log_ratio = clustered_mean(delta, scored_starts, contexts);
    o->ppl_ref = n ? exp64(ref / (double)n) : NAN;
    o->ppl_cand = n ? exp64(cand / (double)n) : NAN;
    o->ppl_ratio = exp64(o->log_ratio.mean);
    o->ratio_low = exp64(o->log_ratio.mean - NORMAL_95 * o->log_ratio.se);
    o->ratio_high = exp64(o->log_ratio.mean + NORMAL_95 * o->log_ratio.se);
    o->delta_p_rms = n ? sqrt(squares / (double)n) : NAN;
}

void outputs_summarize(struct outputs *o, const struct position *positions, const size_t *starts, size_t contexts)
{
    size_t n = starts[contexts];
    double *values = mem_alloc((n + 1) * sizeof *values);
    size_t *scored_starts = mem_alloc((contexts + 1) * sizeof *scored_starts);

    *o = (struct outputs){.contexts = contexts, .positions = n, .kl_known = n > 0 && !isnan(positions[0].kl)};
    for (size_t i = 0; i < n; i++) {
        o->histogram[histogram_bin(o->kl_known ? positions[i].kl : positions[i].kl_bound)]++;
        count_flips(o, &positions[i]);
        values[i] = positions[i].top1;
    }
    o->top1 = clustered_mean(values, starts, contexts);
    for (size_t i = 0; i < n; i++)
        values[i] = positions[i].top5 / 5.0;
    o->top5 = clustered_mean(values, starts, contexts);
    for (size_t i = 0; i < n; i++)
        values[i] = positions[i].kl_bound;
    o->kl_bound = spread(values, starts, contexts);
    o->kl = (struct stat_spread){NAN, NAN, NAN, NAN, NAN, NAN};
    if (o->kl_known) {
        for (size_t i = 0; i < n; i++)
            values[i] = positions[i].kl;
        o->kl = spread(values, starts, contexts);
    }
    summarize_scored(o, positions, starts, contexts, values, scored_starts);
    mem_free(scored_starts);
    mem_free(values);
}

/* Two-sided: how often n fair coins fall at least as unevenly. Logarithms, since 2^-n leaves the range. */
static double sign_test(uint64_t a, uint64_t b)
{
    uint64_t n = a + b, few = a < b ? a : b;
    double log_choose = 0, sum = 0, half = (double)n * log64(2);

    for (uint64_t k = 0; k <= few; k++) {
        sum += exp64(log_choose - half);
        log_choose += log64((double)(n - k)) - log64((double)(k + 1));
    }
    return 2 * sum < 1 ? 2 * sum : 1;
}

static double divergence(const struct position *p)
{
    return isnan(p->kl) ? p->kl_bound : p->kl;
}

void paired_summarize(struct paired *out, const struct position *a, const struct position *b, const size_t *starts,
                      size_t contexts)
{
    size_t n = starts[contexts];
    double *values = mem_alloc((n + 1) * sizeof *values);

    *out = (struct paired){0};
    for (size_t i = 0; i < n; i++) {
        values[i] = divergence(&a[i]) - divergence(&b[i]);
        out->a_nearer_positions += values[i] < 0;
        out->b_nearer_positions += values[i] > 0;
    }
    out->kl = clustered_mean(values, starts, contexts);
    for (size_t c = 0; c < contexts; c++) {
        double sum = 0;
        for (size_t i = starts[c]; i < starts[c + 1]; i++)
            sum += values[i];
        out->a_nearer += sum < 0;
        out->b_nearer += sum > 0;
        out->ties += sum == 0;
    }
    out->sign_p = sign_test(out->a_nearer, out->b_nearer);

    /* Of the scored positions alone, which are the same in both. */
    size_t *scored_starts = mem_alloc((contexts + 1) * sizeof *scored_starts), scored = 0;
    for (size_t c = 0; c < contexts; c++) {
        scored_starts[c] = scored;
        for (size_t i = starts[c]; i < starts[c + 1]; i++)
            if (a[i].scored)
                values[scored++] = a[i].nll_cand - b[i].nll_cand;
    }
    scored_starts[contexts] = scored;
    out->nll = clustered_mean(values, scored_starts, contexts);
    mem_free(scored_starts);
    mem_free(values);
}
