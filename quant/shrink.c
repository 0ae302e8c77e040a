#include "quant/shrink.h"

#include <math.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/tile.h"

#define LANES           16
#define DIAGONAL_EXTRA  1e-4
#define TO_DIAGONAL_MAX 0.98
#define DEAD            1e-12
#define DEAD_VARIANCE   1e-6

size_t shrink_bytes(size_t cols)
{
    return 3 * tile_padded(cols) * sizeof(float);
}

static void place(struct shrunk *s, const struct moments *own, const struct moments *prior, void *memory)
{
    memset(memory, 0, shrink_bytes(own->cols));
    *s = (struct shrunk){.own = own, .prior = prior, .variance = memory};
    s->own_scale = s->variance + own->stride;
    s->prior_scale = s->own_scale + own->stride;
}

static float inverse_root(float x)
{
    return x > 0 ? 1.0f / sqrtf(x) : 0.0f;
}

static double mean(const float *x, size_t n)
{
    double sum = 0;

    for (size_t j = 0; j < n; j++)
        sum += (double)x[j];
    return n > 0 ? sum / (double)n : 0;
}

/* What dead columns are held against. False: every column is. */
static bool find_average(const float *variance, size_t cols, double *average)
{
    *average = mean(variance, cols);
    return *average > 0 && isfinite(*average);
}

static bool is_dead(float variance, double average)
{
    return (double)variance < DEAD * average;
}

static float dead_variance(double average)
{
    return (float)(DEAD_VARIANCE * average);
}

/* D as it would be, and the scales; then what is dead. */
static bool set_variances(struct shrunk *s, double pseudo_tokens)
{
    const struct moments *own = s->own, *prior = s->prior;
    double n = (double)own->tokens, d0 = prior ? pseudo_tokens : 0, average;

    if (n + d0 == 0)
        return false;
    for (size_t j = 0; j < own->cols; j++) {
        size_t at = j * own->stride + j;
        double all = prior ? d0 * (double)moments_variance(prior, j) : 0;

        s->variance[j] = (float)(((double)own->sum[at] + all) / (n + d0));
        s->own_scale[j] = inverse_root(own->sum[at]);
        s->prior_scale[j] = prior ? inverse_root(prior->sum[at]) : 0;
    }
    if (!find_average(s->variance, own->cols, &average))
        return false;
    for (size_t j = 0; j < own->cols; j++)
        if (is_dead(s->variance[j], average)) {
            s->dead++;
            s->variance[j] = dead_variance(average);
            s->own_scale[j] = s->prior_scale[j] = 0;
        }
    return true;
}

bool shrink_variances(float *variance, size_t cols, const struct channel_sums *own, const struct channel_sums *prior,
                      double pseudo_tokens)
{
    bool has_prior = prior && prior->tokens > 0;
    double n = (double)own->tokens, d0 = has_prior ? pseudo_tokens : 0, average;

    if (n + d0 == 0)
        return false;
    for (size_t j = 0; j < cols; j++) {
        double mine = own->tokens > 0 ? own->sum2[j] : 0;
        double all = has_prior ? d0 * (prior->sum2[j] / (double)prior->tokens) : 0;

        variance[j] = (float)((mine + all) / (n + d0));
    }
    if (!find_average(variance, cols, &average))
        return false;
    for (size_t j = 0; j < cols; j++)
        if (is_dead(variance[j], average))
            variance[j] = dead_variance(average);
    return true;
}

/* |C|^2, |Ca|^2 and |C - Ca|^2 over i != j. Rows in float32 lanes (lane = j % 16, folded as a tree), then in float64.
 */
struct norms {
    double own, prior, apart;
};

static double fold(float lanes[LANES])
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return (double)lanes[0];
}

/* Columns from `first`, a multiple of LANES, on; columns up to i count nothing. */
static void add_row(const struct shrunk *s, size_t i, struct norms *sum)
{
    const float *h = s->own->sum + i * s->own->stride;
    const float *p = s->prior ? s->prior->sum + i * s->own->stride : NULL;
    float own[LANES] = {0}, prior[LANES] = {0}, apart[LANES] = {0};
    float hi = s->own_scale[i], pi = s->prior_scale[i];

    for (size_t j = (i + 1) / LANES * LANES; j < s->own->stride; j += LANES) {
        float c[LANES], ca[LANES];

        for (size_t l = 0; l < LANES; l++)
            c[l] = h[j + l] * hi * s->own_scale[j + l];
        for (size_t l = 0; l < LANES; l++)
            ca[l] = p ? p[j + l] * pi * s->prior_scale[j + l] : 0;
        for (size_t l = 0; j <= i && l <= i - j; l++)
            c[l] = ca[l] = 0;
        for (size_t l = 0; l < LANES; l++) {
            float d = c[l] - ca[l];

            own[l] += c[l] * c[l];
            prior[l] += ca[l] * ca[l];
            apart[l] += d * d;
        }
    }
    sum->own += 2 * fold(own);
    sum->prior += 2 * fold(prior);
    sum->apart += 2 * fold(apart);
}

static double noise_of(const struct moments *m, double norm)
{
    double n = (double)m->tokens, v;

    if (m->tokens < 2 || m->spread_tokens == 0)
        return INFINITY;
    v = (m->spread / (double)m->spread_tokens - norm) / (n - 1);
    return v > 0 ? v : 0;
}

/* mu v / norm, at most `most`; unknown noise and nothing to keep are the most there is. */
static double intensity(double mu, double v, double norm, double most)
{
    double r = mu * v / norm;

    if (norm <= 0 || !(r < most))
        return most;
    return r;
}

static void set_parts(struct shrunk *s)
{
    s->own_part = (float)((1 - s->to_prior) * (1 - s->to_diagonal));
    s->prior_part = (float)(s->to_prior * (1 - s->to_diagonal));
}

bool shrink_moments(struct shrunk *s, const struct moments *own, const struct moments *prior,
                    const struct shrink_options *o, void *memory)
{
    struct norms norms = {0};
    double v1, both, keep, mu;

    if (prior && prior->tokens == 0)
        prior = NULL;
    mu = prior ? o->mu : o->mu_alone;
    place(s, own, prior, memory);
    if (!set_variances(s, o->pseudo_tokens))
        return false;
    for (size_t i = 0; i < own->cols; i++)
        add_row(s, i, &norms);
    s->noise = noise_of(own, norms.own);
    s->to_prior = prior ? intensity(mu, s->noise, norms.apart, 1) : 0;
    keep = 1 - s->to_prior;
    v1 = keep > 0 ? keep * keep * s->noise : 0;
    if (prior)
        v1 += s->to_prior * s->to_prior * noise_of(prior, norms.prior);
    /* |C1|^2, by the norms: the mixed term is (own + prior - apart) / 2. */
    both = keep * keep * norms.own + s->to_prior * s->to_prior * norms.prior +
           keep * s->to_prior * (norms.own + norms.prior - norms.apart);
    s->to_diagonal = intensity(mu, v1, both, TO_DIAGONAL_MAX);
    s->diagonal = (float)(1 + DIAGONAL_EXTRA);
    set_parts(s);
    return true;
}

bool shrink_damp(struct shrunk *s, const struct moments *own, double fraction, void *memory)
{
    double damp;

    place(s, own, NULL, memory);
    if (own->tokens == 0)
        return false;
    for (size_t j = 0; j < own->cols; j++) {
        s->variance[j] = moments_variance(own, j);
        s->dead += s->variance[j] <= 0;
        s->variance[j] = s->variance[j] > 0 ? s->variance[j] : 1.0f;
    }
    damp = fraction * mean(s->variance, own->cols);
    if (s->dead == own->cols || !isfinite(damp))
        return false;
    for (size_t j = 0; j < own->cols; j++) {
        s->variance[j] = (float)((double)s->variance[j] + damp);
        s->own_scale[j] = inverse_root((float)own->tokens * s->variance[j]);
    }
    s->diagonal = 1;
    set_parts(s);
    return true;
}

void shrink_more(struct shrunk *s)
{
    double more = 2 * s->to_diagonal > 0.01 ? 2 * s->to_diagonal : 0.01;

    s->to_diagonal = more < 1 ? more : 1;
    set_parts(s);
}

void shrink_row(const struct shrunk *s, size_t i, float *restrict row)
{
    size_t n = s->own->stride;
    const float *restrict h = s->own->sum + i * n, *restrict p = s->prior ? s->prior->sum + i * n : NULL;
    const float *restrict own = s->own_scale, *restrict prior = s->prior_scale;
    float hi = own[i] * s->own_part, pi = prior[i] * s->prior_part;

    /* Whole lanes at a time, so that they become vectors. */
    for (size_t j = 0; j < n; j += LANES)
        for (size_t l = 0; l < LANES; l++)
            row[j + l] = h[j + l] * hi * own[j + l];
    for (size_t j = 0; p && j < n; j += LANES)
        for (size_t l = 0; l < LANES; l++)
            row[j + l] += p[j + l] * pi * prior[j + l];
    row[i] = s->diagonal;
}
