/* Linears that all tokens go through: attention, dense layers, shared experts; and the input of the routed ones as a
 * whole, which is their prior. */
#include <string.h>

#include "convert/pipeline_private.h"
#include "quant/vecmath.h"

/* Which input a linear reads, by the role that names it. */
static enum role input_of(enum role role)
{
    static const enum role shared[ROLE_COUNT] = {
        [ROLE_Q_PROJ] = ROLE_Q_A_PROJ,       [ROLE_KV_A_PROJ] = ROLE_Q_A_PROJ, [ROLE_DENSE_UP] = ROLE_DENSE_GATE,
        [ROLE_SHARED_UP] = ROLE_SHARED_GATE, [ROLE_EXPERT_GATE] = ROLE_ROUTER, [ROLE_EXPERT_UP] = ROLE_ROUTER,
    };

    return shared[role] != ROLE_UNKNOWN ? shared[role] : role;
}

static void want(struct pipeline *p, enum role role, uint32_t row)
{
    struct flow *f = &p->flows[input_of(role)];

    f->watched |= row > 0;
    f->wanted |= row > 0 && method_is_calibrated(p->out->rows[row - 1].scheme.method);
}

void pipeline_flows_want(struct pipeline *p)
{
    for (enum role role = 0; role < ROLE_COUNT; role++)
        want(p, role, p->linear[role]);
    for (uint64_t i = 0; p->any_expert && i < p->plan->source->arch.experts; i++)
        for (enum mlp_part part = 0; part < MLP_PARTS; part++)
            want(p, ROLE_ROUTER, p->experts[i][part]);
}

void pipeline_flows_release(struct pipeline *p)
{
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        struct flow *f = &p->flows[role];
        mem_free(f->moments.sum);
        mem_free(f->chunk);
        mem_free(f->kept);
        mem_free(f->memory);
        *f = (struct flow){0};
    }
    for (size_t i = 0; i < p->held_count; i++)
        mem_free(p->held[i]);
    p->held_count = 0;
}

/* ---- memory ---- */

static uint64_t flow_bytes(const struct pipeline *p, enum role role, size_t cols)
{
    uint64_t bytes = moments_bytes(cols) + (PIPELINE_CHUNK + PIPELINE_SPREAD_TOKENS) * cols * sizeof(float);

    return p->flows[role].wanted ? bytes + (role == ROLE_ROUTER ? 0 : calibrated_bytes(cols)) : 0;
}

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
        bytes += cols[role] > 0 ? flow_bytes(p, role, cols[role]) : 0;
    return bytes + scratch + partner;
}

struct expert_layer pipeline_prior(const struct pipeline *p)
{
    const struct flow *f = &p->flows[ROLE_ROUTER];

    return (struct expert_layer){
        .prior = f->moments.sum ? &f->moments : NULL, .sample = f->kept, .sample_tokens = f->kept_tokens};
}

float pipeline_input_most(const struct pipeline *p, enum role role)
{
    return p->flows[input_of(role)].most;
}

/* The main thread's scratch is as large as the largest need so far. */
void *pipeline_scratch(struct pipeline *p, size_t bytes)
{
    if (bytes > p->scratch_bytes) {
        mem_free(p->scratch);
        p->scratch = mem_aligned(bytes);
        p->scratch_bytes = bytes;
    }
    return p->scratch;
}

/* ---- inputs ---- */

static void flow_open(struct pipeline *p, struct flow *f, size_t cols)
{
    f->chunk = mem_aligned(PIPELINE_CHUNK * cols * sizeof *f->chunk);
    f->kept = mem_aligned(PIPELINE_SPREAD_TOKENS * cols * sizeof *f->kept);
    moments_init(&f->moments, p->kernel, cols, mem_aligned(moments_bytes(cols)));
}

static void flow_add(struct pipeline *p, struct flow *f)
{
    size_t cols = f->moments.cols;

    moments_add(&f->moments, f->chunk, cols, f->chunk_tokens, p->threads,
                pipeline_scratch(p, moments_scratch_bytes(cols)));
    f->chunk_tokens = 0;
}

/* The kept tokens' spread stands for that of all (quant/shrink.h). */
static bool flow_close(struct pipeline *p, struct flow *f, struct err *e)
{
    struct moments *m = &f->moments;

    flow_add(p, f);
    if (!moments_close(m))
        return err_set(e, ERR_FORMAT, "layer %llu: second moments of an input are past the range of float32",
                       (unsigned long long)p->layer);
    moments_spread(m, f->kept, m->cols, f->kept_tokens, pipeline_scratch(p, moments_scratch_bytes(m->cols)));
    return true;
}

bool pipeline_on_input(void *ctx, const struct linear_input *in, struct err *e)
{
    struct pipeline *p = ctx;
    struct flow *f = &p->flows[input_of(in->role)];
    uint64_t all = p->tokens, cap = MOMENTS_CAP_PER_COL * in->cols;

    if (!f->watched)
        return true;
    if (f->wanted && !f->chunk)
        flow_open(p, f, in->cols);
    for (size_t t = 0; t < in->tokens; t++, f->seen++) {
        float most = p->kernel->absmax(in->x + t * in->x_stride, in->cols);
        f->most = most > f->most ? most : f->most;
        if (!f->wanted || !moments_takes(f->seen, all, cap))
            continue;
        float *row = f->chunk + f->chunk_tokens++ * in->cols;
        p->kernel->vec->round_bf16(row, in->x + t * in->x_stride, in->cols);
        if (moments_takes(f->seen, all, PIPELINE_SPREAD_TOKENS))
            memcpy(f->kept + f->kept_tokens++ * in->cols, row, in->cols * sizeof *row);
        if (f->chunk_tokens == PIPELINE_CHUNK)
            flow_add(p, f);
    }
    return f->seen < all || !f->wanted || flow_close(p, f, e);
}

/* ---- rounding ---- */

static struct calibrated *flow_calibrated(struct pipeline *p, struct flow *f, enum method method)
{
    size_t cols = f->moments.cols;
    struct calibrated_options o = calibrated_defaults(method);

    if (f->memory && f->calibrated.options.method == method)
        return &f->calibrated;
    if (!f->memory)
        f->memory = mem_aligned(calibrated_bytes(cols));
    calibrated_make(&f->calibrated, p->kernel, &o, &f->moments, NULL, p->threads, f->memory,
                    pipeline_scratch(p, calibrated_scratch_bytes(cols)));
    return &f->calibrated;
}

static void hold(struct pipeline *p, void *memory)
{
    p->held = mem_grow(p->held, p->held_count + 1, sizeof *p->held);
    p->held[p->held_count++] = memory;
}

static bool round_moments(struct pipeline *p, struct flow *f, enum method method, const struct loss_matrix *m,
                          struct rounded *rounded, struct calibrated_result *about, struct err *e)
{
    struct calibrated *c = flow_calibrated(p, f, method);

    about->to_diagonal = c->has_moments ? c->shrunk.to_diagonal : 0;
    return calibrated_round(c, m, pipeline_scratch(p, calibrated_round_scratch_bytes(m)), rounded, e);
}

bool pipeline_on_linear(void *ctx, uint64_t layer, enum role role, struct coded *w, struct err *e)
{
    struct pipeline *p = ctx;
    uint32_t row = p->linear[role];
    struct flow *f = &p->flows[input_of(role)];
    struct rounded rounded = {0};

    (void)layer;
    if (row == 0)
        return true;
    const struct plan_row *to = &p->out->rows[row - 1];
    struct loss_matrix m = {.from = w->scheme, .to = to->scheme, .rows = w->rows, .cols = w->cols, .in = w->parts};
    struct calibrated_result about = {.tokens = f->seen};
    uint8_t *out = mem_aligned(pipeline_out_bytes(to, NULL, &m.out));
    hold(p, out);
    pipeline_out_bytes(to, out, &m.out);
    bool ok = to->scheme.static_input ? pipeline_round_static(p, role, w, &m, &rounded, e)
                                      : round_moments(p, f, to->scheme.method, &m, &rounded, &about, e);
    if (!ok)
        return err_in(e, "'%s'", to->weight->name);
    if (!pipeline_put(p, row - 1, &m.out, &rounded, &about, e))
        return false;
    if (p->options->propagate)
        *w = (struct coded){.scheme = to->scheme, .rows = m.rows, .cols = m.cols, .parts = m.out};
    return true;
}
