/* The end of a layer: a dense MLP or the shared expert, and the sums. out =
 * residual + mlp, or residual + (routed + shared), where the routed experts'
 * sum is in out already. */
#include "verify/forward_private.h"

struct mlp {
    const struct layer_run *run;
    bool routed;
    struct vector_place norm;
    struct matrix_place parts[MLP_PARTS];
    size_t width;
    float *in, *normed, *gate, *up, *down, *out; /* [chunk] rows */
    float *rounded;
    const float *x;
    float *to;
    size_t first;
};

static void mlp_place(struct mlp *m, const struct forward *f, const struct layer_weights *l, const struct stream *out,
                      size_t chunk, struct scratch *s)
{
    size_t d = f->arch->hidden_size;

    m->routed = l->experts != NULL;
    m->in = place_rows(s, &f->residual, chunk, d);
    m->out = place_rows(s, out, chunk, d);
    if (!l->mlp[MLP_GATE])
        return;
    m->width = l->mlp[MLP_GATE]->rows;
    place_vector(&m->norm, l->post_norm, s);
    for (size_t i = 0; i < MLP_PARTS; i++)
        place_matrix(f, &m->parts[i], l->mlp[i], s);
    m->normed = place_floats(s, chunk, d);
    m->gate = place_floats(s, chunk, m->width);
    m->up = place_floats(s, chunk, m->width);
    m->down = m->routed ? place_floats(s, chunk, d) : NULL;
    if (f->options.emulate == EMULATE_FP8_ACTIVATIONS)
        m->rounded = place_floats(s, chunk, m->width > d ? m->width : d);
}

void mlp_need_place(const struct forward *f, const struct layer_weights *l, size_t chunk, struct scratch *s)
{
    struct mlp m = {0};

    mlp_place(&m, f, l, NULL, chunk, s);
}

static enum role role_of(const struct mlp *m, enum mlp_part part)
{
    static const enum role roles[2][MLP_PARTS] = {
        {ROLE_DENSE_GATE, ROLE_DENSE_UP, ROLE_DENSE_DOWN},
        {ROLE_SHARED_GATE, ROLE_SHARED_UP, ROLE_SHARED_DOWN},
    };

    return roles[m->routed][part];
}

static bool norm_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct mlp *m = ctx;
    const struct forward *f = m->run->f;
    size_t d = f->arch->hidden_size;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++)
        crew_norm(&f->crew, m->normed + t * d, m->x + t * d, m->norm.x, d, f->arch->rms_norm_eps);
    return true;
}

static bool act_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct mlp *m = ctx;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++)
        crew_silu_mul(&m->run->f->crew, m->gate + t * m->width, m->up + t * m->width, m->width);
    return true;
}

static bool sum_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct mlp *m = ctx;
    const struct forward *f = m->run->f;
    size_t d = f->arch->hidden_size;

    (void)worker;
    for (size_t t = first; t < first + count; t++) {
        float *to = m->to + t * d;
        if (m->routed)
            crew_round(&f->crew, to, d);
        if (m->down)
            crew_add(&f->crew, to, m->down + t * d, d);
        crew_add(&f->crew, to, m->x + t * d, d);
    }
    return check_rows(f, m->run->layer, m->first + first, count, m->to + first * d, e);
}

/* What gate and up take. */
static bool normed_chunk(struct mlp *m, size_t first, size_t count, struct err *e)
{
    struct forward *f = m->run->f;

    m->first = first;
    return stream_read(run_residual(m->run), first, count, m->in, &m->x, e) &&
           (!m->width || crew_rows(&f->crew, count, norm_rows, m, e));
}

/* What down takes. */
static bool act_chunk(struct mlp *m, size_t count, struct err *e)
{
    struct crew *c = &m->run->f->crew;
    size_t d = m->run->f->arch->hidden_size;

    return crew_linear(c, &m->parts[MLP_GATE].matrix, m->normed, d, count, m->gate, m->width, e) &&
           crew_linear(c, &m->parts[MLP_UP].matrix, m->normed, d, count, m->up, m->width, e) &&
           crew_rows(c, count, act_rows, m, e);
}

static bool run_chunk(struct mlp *m, size_t first, size_t count, struct err *e)
{
    struct forward *f = m->run->f;
    struct stream *out = m->run->out;
    size_t d = f->arch->hidden_size;
    const float *sums;

    if (!normed_chunk(m, first, count, e))
        return false;
    m->to = stream_place(out, first, m->out);
    if (m->routed && !stream_read(out, first, count, m->out, &sums, e))
        return false;
    if (m->width && (!act_chunk(m, count, e) || !crew_linear(&f->crew, &m->parts[MLP_DOWN].matrix, m->gate, m->width,
                                                             count, m->down ? m->down : m->to, d, e)))
        return false;
    return crew_rows(&f->crew, count, sum_rows, m, e) && stream_write(out, first, count, m->to, e);
}

/* Down's inputs come from gate and up as they will be used: so these are offered first, and run twice. */
static bool observe(struct mlp *m, struct err *e)
{
    const struct layer_run *r = m->run;
    size_t tokens = r->f->batch.tokens, chunk = r->f->chunk, d = r->f->arch->hidden_size;

    for (size_t t = 0; wants_inputs(r) && t < tokens; t += chunk) {
        size_t count = tokens - t < chunk ? tokens - t : chunk;
        if (!normed_chunk(m, t, count, e) || !show_input(r, role_of(m, MLP_GATE), t, count, m->normed, d, d, e))
            return false;
    }
    if (!offer_linear(r, role_of(m, MLP_GATE), &m->parts[MLP_GATE].matrix, e) ||
        !offer_linear(r, role_of(m, MLP_UP), &m->parts[MLP_UP].matrix, e))
        return false;
    for (size_t t = 0; wants_inputs(r) && t < tokens; t += chunk) {
        size_t count = tokens - t < chunk ? tokens - t : chunk;
        if (!normed_chunk(m, t, count, e) || !act_chunk(m, count, e) ||
            !show_input(r, role_of(m, MLP_DOWN), t, count, m->gate, m->width, m->width, e))
            return false;
    }
    return offer_linear(r, role_of(m, MLP_DOWN), &m->parts[MLP_DOWN].matrix, e);
}

bool mlp_run(const struct layer_run *r, struct err *e)
{
    struct forward *f = r->f;
    struct scratch s = {.base = f->memory};
    struct mlp m = {.run = r};
    size_t tokens = f->batch.tokens;

    mlp_place(&m, f, r->weights, r->out, f->chunk, &s);
    f->crew.rounded = m.rounded;
    if (m.width) {
        if (!load_vector(f, &m.norm, e))
            return false;
        for (size_t i = 0; i < MLP_PARTS; i++)
            if (!load_matrix(f, &m.parts[i], e))
                return false;
        if (!observe(&m, e))
            return false;
    }
    for (size_t t = 0; t < tokens; t += f->chunk)
        if (!run_chunk(&m, t, tokens - t < f->chunk ? tokens - t : f->chunk, e))
            return false;
    return true;
}
