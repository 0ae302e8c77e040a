/* Linears that all tokens go through: attention, dense layers, shared experts; and the input of the routed ones as a
 * whole, which is their prior. */
#include "convert/pipeline_private.h"
#include "formats/calib_stats.h"

/* Which input a linear reads: routed experts' gate and up the whole of it, which is their prior. */
static enum role input_of(enum role role)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP ? ROLE_ROUTER : calib_input_of(role);
}

static void want(struct pipeline *p, enum role role, uint32_t row, bool expert)
{
    struct watched *w = &p->inputs[input_of(role)];
    bool moments = row > 0 && method_is_calibrated(p->out->rows[row - 1].scheme.method);

    w->watched |= row > 0;
    w->wanted |= moments;
    w->rounded_by |= moments && !expert;
}

void pipeline_flows_want(struct pipeline *p)
{
    for (enum role role = 0; role < ROLE_COUNT; role++)
        want(p, role, p->linear[role], false);
    for (uint64_t i = 0; p->any_expert && i < p->plan->source->arch.experts; i++)
        for (enum mlp_part part = 0; part < MLP_PARTS; part++)
            want(p, ROLE_ROUTER, p->experts[i][part], true);
}

void pipeline_flows_release(struct pipeline *p)
{
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        flow_release(&p->inputs[role].flow);
        p->inputs[role] = (struct watched){0};
    }
    for (size_t i = 0; i < p->held_count; i++)
        mem_free(p->held[i]);
    p->held_count = 0;
}

/* ---- memory ---- */

static size_t scratch_of(const struct plan_row *row)
{
    const struct weight *w = row->weight;
    struct loss_matrix m = {.from = w->stored, .to = row->scheme, .rows = w->rows, .cols = w->cols};
    size_t all[] = {moments_scratch_bytes(w->cols), calibrated_scratch_bytes(w->cols),
                    row->scheme.static_input ? 0 : calibrated_round_scratch_bytes(&m)};
    size_t most = 0;

    for (size_t i = 0; i < 3; i++)
        most = all[i] > most ? all[i] : most;
    return most;
}

uint64_t pipeline_flows_bytes(struct pipeline *p)
{
    uint64_t bytes = 0, scratch = 0, partner = 0;
    size_t cols[ROLE_COUNT] = {0};
    struct slices none;

    for (enum role role = 0; role < ROLE_COUNT; role++) {
        const struct plan_row *row = p->linear[role] > 0 ? &p->out->rows[p->linear[role] - 1] : NULL;
        if (!row)
            continue;
        cols[input_of(role)] = row->weight->cols;
        bytes += pipeline_out_bytes(row, NULL, &none);
        scratch = scratch_of(row) > scratch ? scratch_of(row) : scratch;
        uint64_t stored = row->scheme.static_input ? weight_memory_bytes(row->weight) : 0;
        partner = stored > partner ? stored : partner;
    }
    if (p->any_expert) {
        cols[ROLE_ROUTER] = p->plan->source->arch.hidden_size;
        size_t most = moments_scratch_bytes(cols[ROLE_ROUTER]);
        scratch = most > scratch ? most : scratch;
    }
    for (enum role role = 0; role < ROLE_COUNT; role++)
        bytes += p->inputs[role].wanted ? flow_bytes(cols[role], p->inputs[role].rounded_by) : 0;
    return bytes + scratch + partner;
}

struct expert_layer pipeline_prior(const struct pipeline *p)
{
    const struct flow *f = &p->inputs[ROLE_ROUTER].flow;

    return (struct expert_layer){
        .prior = f->moments.sum ? &f->moments : NULL, .sample = f->kept, .sample_tokens = f->kept_tokens};
}

float pipeline_input_most(const struct pipeline *p, enum role role)
{
    return p->inputs[input_of(role)].most;
}

/* ---- inputs ---- */

bool pipeline_on_input(void *ctx, const struct linear_input *in, struct err *e)
{
    struct pipeline *p = ctx;
    struct watched *w = &p->inputs[input_of(in->role)];

    if (!w->watched || in->role == ROLE_SHARED_GATE) /* the router's, once more */
        return true;
    for (size_t t = 0; t < in->tokens; t++) {
        float most = p->kernel->absmax(in->x + t * in->x_stride, in->cols);
        w->most = most > w->most ? most : w->most;
    }
    w->tokens += in->tokens;
    return !w->wanted || flow_take(&w->flow, p->kernel, in, p->tokens, p->threads, &p->scratch, e);
}

/* ---- rounding ---- */

static void hold(struct pipeline *p, void *memory)
{
    p->held = mem_grow(p->held, p->held_count + 1, sizeof *p->held);
    p->held[p->held_count++] = memory;
}

static bool round_moments(struct pipeline *p, struct flow *f, enum method method, const struct loss_matrix *m,
                          struct rounded *rounded, struct calibrated_result *about, struct err *e)
{
    struct calibrated_options o = calibrated_defaults(method);
    struct calibrated *c = flow_calibrated(f, &o, p->threads, &p->scratch);

    about->to_diagonal = c->has_moments ? c->shrunk.to_diagonal : 0;
    return calibrated_round(c, m, flow_scratch_get(&p->scratch, calibrated_round_scratch_bytes(m)), rounded, e);
}

bool pipeline_on_linear(void *ctx, uint64_t layer, enum role role, struct coded *w, struct err *e)
{
    struct pipeline *p = ctx;
    uint32_t row = p->linear[role];
    struct watched *input = &p->inputs[input_of(role)];
    struct rounded rounded = {0};

    (void)layer;
    if (row == 0)
        return true;
    const struct plan_row *to = &p->out->rows[row - 1];
    struct loss_matrix m = {.from = w->scheme, .to = to->scheme, .rows = w->rows, .cols = w->cols, .in = w->parts};
    struct calibrated_result about = {.tokens = input->tokens};
    uint8_t *out = mem_aligned(pipeline_out_bytes(to, NULL, &m.out));
    hold(p, out);
    pipeline_out_bytes(to, out, &m.out);
    bool ok = to->scheme.static_input ? pipeline_round_static(p, role, w, &m, &rounded, e)
                                      : round_moments(p, &input->flow, to->scheme.method, &m, &rounded, &about, e);
    if (!ok)
        return err_in(e, "'%s'", to->weight->name);
    if (!pipeline_put(p, row - 1, &m.out, &rounded, &about, e))
        return false;
    if (p->options->propagate)
        *w = (struct coded){.scheme = to->scheme, .rows = m.rows, .cols = m.cols, .parts = m.out};
    return true;
}
