#include "convert/calibration_cost.h"

#include "formats/base/mem.h"
#include "formats/calib_stats.h"
#include "quant/expert.h"

#define BIT(role) (UINT64_C(1) << (role))
#define EXPERTS   (BIT(ROLE_EXPERT_GATE) | BIT(ROLE_EXPERT_UP) | BIT(ROLE_EXPERT_DOWN))

struct shape {
    double rows, cols;
};

/* 0 x 0: the model has none. */
static struct shape shape_of(const struct arch *arch, enum role role)
{
    uint64_t rows, cols;

    if (!arch_shape(arch, role, &rows, &cols))
        return (struct shape){0};
    return (struct shape){(double)rows, (double)cols};
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

/* An input of d columns whose moments are taken of n tokens, `times` over. */
static void count_input(struct calibration_work *w, double cols, double tokens, double times)
{
    w->moments += times * least(tokens, MOMENTS_CAP_PER_COL * cols) * cols * cols;
    w->factor += times * cols * cols * cols / 3;
}

static void count_matrix(struct calibration_work *w, struct shape s, double times, bool alone)
{
    w->solve += times * s.rows * s.cols * s.cols;
    w->search += times * s.rows * s.cols;
    w->alone += alone ? times * s.rows * s.cols * s.cols : 0;
}

/* ---- a layer ---- */

struct layer {
    struct calibration_work *work;
    const struct arch *arch;
    uint64_t roles;       /* calibrated */
    double tokens, pairs; /* of positions that see each other */
};

static bool any(const struct layer *l, uint64_t roles)
{
    return (l->roles & roles) != 0;
}

static void count_linears(const struct layer *l, const enum role *roles, size_t count)
{
    uint64_t inputs = 0;

    for (size_t i = 0; i < count; i++) {
        struct shape s = shape_of(l->arch, roles[i]);
        uint64_t input = BIT(calib_input_of(roles[i]));
        l->work->forward += 2 * s.rows * s.cols * l->tokens;
        if (!any(l, BIT(roles[i])))
            continue;
        count_matrix(l->work, s, 1, true);
        if (!(inputs & input))
            count_input(l->work, s.cols, l->tokens, 1);
        inputs |= input;
    }
}

static void count_attention(const struct layer *l)
{
    static const enum role low_rank[] = {ROLE_Q_A_PROJ, ROLE_Q_B_PROJ, ROLE_KV_A_PROJ, ROLE_KV_B_PROJ, ROLE_O_PROJ};
    static const enum role plain[] = {ROLE_Q_PROJ, ROLE_KV_A_PROJ, ROLE_KV_B_PROJ, ROLE_O_PROJ};
    const struct arch *a = l->arch;
    bool low = a->q_lora_rank > 0;

    count_linears(l, low ? low_rank : plain, low ? 5 : 4);
    l->work->forward += 2 * (double)a->heads * (double)(a->qk_nope_dim + a->qk_rope_dim + a->v_dim) * l->pairs;
}

static void count_mlp(const struct layer *l, enum role gate)
{
    const enum role roles[] = {gate, gate + 1, gate + 2};
    struct shape s = shape_of(l->arch, gate);

    count_linears(l, roles, 3);
    if (any(l, BIT(gate) | BIT(gate + 1) | BIT(gate + 2)))
        l->work->twice += 2 * 2 * s.rows * s.cols * l->tokens;
}

static void count_experts(const struct layer *l)
{
    const struct arch *a = l->arch;
    struct shape gate = shape_of(a, ROLE_EXPERT_GATE), down = shape_of(a, ROLE_EXPERT_DOWN);
    double experts = (double)a->experts, choices = l->tokens * (double)a->experts_per_token;
    double tokens = choices / experts, measured = least(tokens, MOMENTS_CAP_PER_COL * gate.cols);
    struct shape router = shape_of(a, ROLE_ROUTER);

    l->work->forward += choices * 2 * (2 * gate.rows * gate.cols + down.rows * down.cols);
    l->work->forward += 2 * router.rows * router.cols * l->tokens;
    if (!any(l, EXPERTS))
        return;
    l->work->moments += least(l->tokens, MOMENTS_CAP_PER_COL * gate.cols) * gate.cols * gate.cols;
    if (any(l, BIT(ROLE_EXPERT_GATE) | BIT(ROLE_EXPERT_UP)))
        count_input(l->work, gate.cols, measured, experts);
    for (enum role role = ROLE_EXPERT_GATE; role <= ROLE_EXPERT_DOWN; role++)
        if (any(l, BIT(role)))
            count_matrix(l->work, shape_of(a, role), experts, false);
    if (!any(l, BIT(ROLE_EXPERT_DOWN)))
        return;
    l->work->moments += experts * measured * down.cols * down.cols;
    l->work->factor += experts * down.cols * down.cols * down.cols / 3;
    l->work->twice +=
        experts * 2 * 2 * gate.rows * gate.cols * (measured + (tokens < EXPERT_STARVED ? EXPERT_STARVED : 0));
}

void calibration_work_count(struct calibration_work *w, const struct arch *arch, const uint64_t *roles,
                            const struct batch *b)
{
    struct layer l = {.work = w, .arch = arch, .tokens = (double)b->tokens};

    *w = (struct calibration_work){0};
    for (size_t i = 0; i < b->sequence_count; i++)
        l.pairs += (double)b->sequences[i].tokens * ((double)b->sequences[i].tokens + 1) / 2;
    for (uint64_t layer = 0; layer <= arch->layers; layer++) {
        l.roles = roles[layer];
        if (layer == arch->layers && l.roles == 0)
            break;
        count_attention(&l);
        if (!arch_is_moe_layer(arch, layer)) {
            count_mlp(&l, ROLE_DENSE_GATE);
            continue;
        }
        count_experts(&l);
        if (arch->shared_experts > 0)
            count_mlp(&l, ROLE_SHARED_GATE);
    }
    if (roles[arch->layers] != 0) {
        struct shape mtp = shape_of(arch, ROLE_MTP_PROJ);
        w->forward += 2 * mtp.rows * mtp.cols * l.tokens;
    }
}

void calibration_work_plan(struct calibration_work *w, const struct plan *p, size_t output, const struct batch *b)
{
    const struct arch *arch = &p->source->arch;
    uint64_t *roles = mem_alloc((arch->layers + 1) * sizeof *roles);

    for (size_t i = 0; i < p->weight_count; i++)
        if (p->outputs[output].rows[i].calibrated)
            roles[p->weights[i]->id.layer] |= BIT(p->weights[i]->id.role);
    calibration_work_count(w, arch, roles, b);
    mem_free(roles);
}

double calibration_work_flop(const struct calibration_work *w)
{
    return w->forward + w->twice + w->moments + w->factor + w->solve;
}

/* ---- time ---- */

static double solve_seconds(const struct calibration_work *w, const struct calibration_rates *r)
{
    return w->solve / r->solve + w->search / r->search;
}

double calibration_core_seconds(const struct calibration_work *w, const struct calibration_rates *r)
{
    return (w->forward + w->twice) / r->product + w->moments / r->moments + w->factor / r->factor + solve_seconds(w, r);
}

double calibration_wall_seconds(const struct calibration_work *w, const struct calibration_rates *r, unsigned threads)
{
    double alone = w->solve > 0 ? solve_seconds(w, r) * (w->alone / w->solve) : 0;

    return alone + (calibration_core_seconds(w, r) - alone) / (threads > 0 ? threads : 1);
}
