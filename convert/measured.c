#include "convert/measured.h"

#include <inttypes.h>

#include "quant/decode.h"
#include "quant/shrink.h"

/* ---- the file ---- */

bool statistics_open(struct statistics *s, const char *path, const struct source *source, struct err *e)
{
    *s = (struct statistics){.path = path};
    if (!calib_stats_open(&s->stats, path, e))
        return false;
    return (calib_stats_check(&s->stats, source, e) && calib_stats_sha256(&s->stats, s->sha256, e)) ||
           err_in(e, "statistics '%s'", path);
}

void statistics_close(struct statistics *s)
{
    calib_stats_release(&s->stats);
    *s = (struct statistics){0};
}

/* ---- a row ---- */

static bool is_expert(const struct weight *w)
{
    return w->id.expert >= 0;
}

bool measured_wants(const struct scheme *scheme)
{
    return scheme_is_calibrated(scheme) || (scheme->kind == SCHEME_INT4 && scheme->method == METHOD_SEARCH);
}

/* Which input the experts' gate and up have besides their own: that of all the layer's tokens. */
static const struct calib_input *prior_of(const struct statistics *s, const struct weight *w)
{
    bool wide = w->id.role == ROLE_EXPERT_GATE || w->id.role == ROLE_EXPERT_UP;

    return wide ? calib_input_find(&s->stats, (uint64_t)w->id.layer, ROLE_ROUTER) : NULL;
}

/* Engines take the largest of a layer's experts, and some have none of their own. */
static float static_most(const struct measured *m)
{
    float most = 0;

    if (m->prior)
        return m->prior->peak[0];
    for (size_t i = 0; i < m->own->n; i++)
        most = m->own->peak[i] > most ? m->own->peak[i] : most;
    return most;
}

static bool has_tokens(const struct calib_input *in, size_t index)
{
    return in && in->seen[index] > 0;
}

static bool is_silent(const struct calib_input *in, size_t index)
{
    return !(in && in->peak[index] > 0);
}

static void set_ending(struct measured *m, bool asked)
{
    struct calibrated_result *c = &m->about;
    bool own = has_tokens(m->own, m->index), prior = has_tokens(m->prior, 0);

    c->ending = ENDING_SEARCH;
    if (!own && !prior) {
        c->reason = REASON_NO_TOKENS;
    } else if (is_silent(m->own, m->index) && is_silent(m->prior, 0)) {
        c->reason = REASON_SILENT;
    } else {
        c->ending = ENDING_DIAGONAL;
        c->reason = !own ? REASON_PRIOR : asked ? REASON_ASKED : REASON_VARIANCES;
        c->to_diagonal = 1;
    }
}

static double routed_weight(const struct statistics *s, const struct weight *w)
{
    const struct routing_layer *l = routing_stats_layer(&s->stats.routing, (uint64_t)w->id.layer);

    return is_expert(w) && l ? l->weight_sums[w->id.expert] : 0;
}

/* FP8 codes are the nearest whatever their variance, and the textbook's feedback is nothing without correlations. */
static bool check_method(const struct plan_row *row, struct err *e)
{
    const struct scheme *to = &row->scheme;

    if (!method_is_calibrated(to->method) || (to->kind == SCHEME_INT4 && to->method == METHOD_LDLQ))
        return true;
    return err_set(e, ERR_UNSUPPORTED,
                   "'%s' is to be %s by %s, which needs the second moments that --text gives: --stats has variances "
                   "alone, and they decide nothing there",
                   row->weight->module, to->kind == SCHEME_INT4 ? "int4" : "fp8", scheme_method_name(to->method));
}

bool measured_row(struct arena *a, const struct statistics *s, struct plan_row *row, struct err *e)
{
    const struct weight *w = row->weight;
    struct measured *m = arena_alloc(a, sizeof *m);
    bool asked = row->scheme.method != METHOD_LDLQ;

    if (!check_method(row, e))
        return false;
    m->own = calib_input_find(&s->stats, (uint64_t)w->id.layer, calib_input_of(w->id.role));
    m->prior = prior_of(s, w);
    m->index = is_expert(w) ? (size_t)w->id.expert : 0;
    if (!m->own || m->own->cols != w->cols || m->index >= m->own->n)
        return err_set(e, ERR_FORMAT, "statistics '%s' have nothing of what enters '%s'", s->path, w->module);
    m->about = (struct calibrated_result){.done = true,
                                          .tokens = (uint64_t)m->own->seen[m->index],
                                          .routed_weight = routed_weight(s, w),
                                          .input_most = m->own->peak[m->index],
                                          .output_most = -1};
    row->measured = m;
    if (row->scheme.static_input) {
        m->static_most = static_most(m);
        return true;
    }
    set_ending(m, asked);
    if (!asked)
        row->why = arena_printf(a, "%s; ldlq by statistics: %s", row->why, ending_name(m->about.ending));
    row->scheme.method = METHOD_SEARCH;
    return true;
}

/* ---- weights of a search ---- */

struct room {
    float *weights;
    double *own, *prior;
};

static struct room place(size_t cols, struct scratch *s)
{
    struct room r;

    r.weights = scratch_take(s, cols * sizeof *r.weights);
    r.own = scratch_take(s, cols * sizeof *r.own);
    r.prior = scratch_take(s, cols * sizeof *r.prior);
    return r;
}

size_t measured_scratch_bytes(size_t cols)
{
    struct scratch s = {0};

    (void)place(cols, &s);
    return s.used_bytes;
}

bool measured_weights(const struct statistics *s, const struct measured *m, void *scratch, const float **weights,
                      struct err *e)
{
    size_t cols = m->own->cols;
    struct scratch memory = {.base = scratch};
    struct room r = place(cols, &memory);
    struct channel_sums own = {.sum2 = r.own, .tokens = (uint64_t)m->own->seen[m->index]};
    struct channel_sums prior = {.sum2 = r.prior, .tokens = m->prior ? (uint64_t)m->prior->seen[0] : 0};

    *weights = NULL;
    if (m->about.ending != ENDING_DIAGONAL)
        return true;
    if (!calib_stats_sum2(&s->stats, m->own, m->index, r.own, e) ||
        (m->prior && !calib_stats_sum2(&s->stats, m->prior, 0, r.prior, e)))
        return err_in(e, "statistics");
    if (!shrink_variances(r.weights, cols, &own, &prior, SHRINK_PSEUDO_TOKENS))
        return err_set(e, ERR_FORMAT,
                       "statistics '%s': layer %" PRIu64 ", input '%s': sums of nothing, and a largest magnitude of %g",
                       s->path, m->own->layer, role_get(m->own->role)->name, (double)m->about.input_most);
    *weights = r.weights;
    return true;
}
