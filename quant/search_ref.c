/* The scale search: the specification, as quant/search.h words it. */
#include "quant/search.h"

#include <float.h>
#include <math.h>

#include "quant/int4.h"

struct group {
    const float *w;
    const float *h; /* NULL: 1 */
    size_t n;
};

struct fit {
    float num, den;
};

static float weight_of(const struct group *g, size_t j)
{
    return g->h ? g->h[j] : 1.0f;
}

static float clamp(float t, float lo, float hi)
{
    t = t > lo ? t : lo;
    return t < hi ? t : hi;
}

static struct fit fit_codes(const struct group *g, float r, float lo, float hi)
{
    struct fit f = {0};

    for (size_t j = 0; j < g->n; j++) {
        float h = weight_of(g, j);
        float z = clamp(nearbyintf(g->w[j] * r), lo, hi);

        f.num += (h * g->w[j]) * z;
        f.den += h * (z * z);
    }
    return f;
}

static float residual(const struct group *g, float r, float lo, float hi, float s)
{
    float sum = 0;

    for (size_t j = 0; j < g->n; j++) {
        float d = g->w[j] - s * clamp(nearbyintf(g->w[j] * r), lo, hi);

        sum += weight_of(g, j) * (d * d);
    }
    return sum;
}

static float largest(const struct group *g)
{
    float v = 0;

    for (size_t j = 0; j < g->n; j++)
        v = fabsf(g->w[j]) > fabsf(v) ? g->w[j] : v;
    return v;
}

static float search_symmetric(const struct group *g, bool positive)
{
    float v = largest(g);
    float base = fabsf(v) / 7.5f;
    float first = positive ? 1.0f : copysignf(1.0f, v);
    float best = INFINITY, scale = base;

    if (v == 0)
        return 1.0f;
    if (fabsf(v) <= INT4_SCALE_MIN / 2)
        return INT4_SCALE_MIN;
    for (int c = 0; c < (positive ? 1 : 2) * SEARCH_CANDIDATES; c++) {
        float sign = c < SEARCH_CANDIDATES ? first : -first;
        float lo = sign > 0 ? -8 : -7, hi = lo + 15;
        float s = base * search_f[c % SEARCH_CANDIDATES];
        float r = 0;
        struct fit f = {0};

        for (int pass = 0; pass < SEARCH_PASSES; pass++) {
            r = 1.0f / s;
            f = fit_codes(g, r, lo, hi);
            if (f.den > 0 && f.num != 0)
                s = f.num / f.den;
        }
        float err = residual(g, r, lo, hi, s);

        if (f.den > 0 && err < best) {
            best = err;
            scale = sign * s;
        }
    }
    return scale;
}

/* What does not change from candidate to candidate. */
struct range {
    float min, size;
    float sh, shw;
};

static struct range measure(const struct group *g)
{
    struct range m = {0};
    float max = 0;

    for (size_t j = 0; j < g->n; j++) {
        m.min = g->w[j] < m.min ? g->w[j] : m.min;
        max = g->w[j] > max ? g->w[j] : max;
        m.sh += weight_of(g, j);
        m.shw += weight_of(g, j) * g->w[j];
    }
    m.size = max - m.min < FLT_MAX ? max - m.min : FLT_MAX;
    return m;
}

struct line {
    float s, m; /* w = s u + m */
};

static struct line fit_line(const struct group *g, const struct range *range, float r)
{
    float su = 0, suu = 0, suw = 0;

    for (size_t j = 0; j < g->n; j++) {
        float h = weight_of(g, j);
        float u = clamp(nearbyintf((g->w[j] - range->min) * r), 0, 15);

        su += h * u;
        suu += h * (u * u);
        suw += (h * g->w[j]) * u;
    }
    float det = range->sh * suu - su * su;
    float m = (suu * range->shw - su * suw) / det;

    if (det > 0 && m <= 0)
        return (struct line){.s = (range->sh * suw - range->shw * su) / det, .m = m};
    return (struct line){.s = suw / suu, .m = 0};
}

static void search_asymmetric(const struct group *g, uint16_t *scale, int8_t *zero)
{
    struct range range = measure(g);
    float best = INFINITY;

    if (!(range.size > INT4_SCALE_MIN / 2)) {
        *scale = int4_scale_code(range.size > 0 ? INT4_SCALE_MIN : 1.0f, true);
        *zero = 0;
        return;
    }
    for (int i = 0; i < SEARCH_ASYM_CANDIDATES; i++) {
        struct line l = fit_line(g, &range, SEARCH_ASYM_STEPS(i) / range.size);
        float r = 1.0f / l.s;
        float z = clamp(nearbyintf(-l.m * r), 0, 15);
        struct fit f = fit_codes(g, r, -z, 15 - z);
        float s = f.num / f.den;
        float err = residual(g, r, -z, 15 - z, s);

        if (f.den > 0 && f.num > 0 && err < best) {
            best = err;
            *scale = int4_scale_code(s, true);
            *zero = (int8_t)(z - 8);
        }
    }
}

void int4_search_ref(const struct int4_rows *q, const float *x, size_t x_stride, const float *h, bool positive,
                     struct row_error *err)
{
    size_t groups = q->cols / q->group_cols;

    /* Absmax's pairs stand where no candidate is chosen. */
    if (q->zeros)
        int4_absmax_ref(q, x, x_stride, err);
    for (size_t row = 0; row < q->rows; row++)
        for (size_t i = 0; i < groups; i++) {
            struct group g = {
                .w = x + row * x_stride + i * q->group_cols, .h = h ? h + i * q->group_cols : NULL, .n = q->group_cols};
            size_t at = row * groups + i;

            if (q->zeros)
                search_asymmetric(&g, q->scales + at, q->zeros + at);
            else
                q->scales[at] = int4_scale_code(search_symmetric(&g, positive), false);
        }
    int4_round_ref(q, x, x_stride, err);
}
