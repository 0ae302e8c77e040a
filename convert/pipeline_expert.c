/* Routed experts: each by the tokens that were routed to it. Gate and up read one input; down reads what the rounded
 * gate and up make of it. */
#include <string.h>

#include "convert/pipeline_private.h"
#include "quant/gemm.h"
#include "quant/vecmath.h"

struct expert_work {
    struct pipeline *p;
    struct expert_room *room;
    const struct expert_call *call; /* NULL: no tokens */
    const uint32_t *rows;           /* [MLP_PARTS] row index + 1; 0: stays as it is */
    struct coded *mlp;              /* [MLP_PARTS] what the expert computes with */
    uint64_t count;
};

/* ---- the inputs, chunk by chunk, rounded as moments want them ---- */

typedef void chunk_fn(struct moments *m, const float *x, size_t tokens, void *scratch);

static void chunk_moments(struct moments *m, const float *x, size_t tokens, void *scratch)
{
    moments_add(m, x, m->cols, tokens, 1, scratch);
}

static void chunk_spread(struct moments *m, const float *x, size_t tokens, void *scratch)
{
    moments_spread(m, x, m->cols, tokens, scratch);
}

/* Rows that a hot expert is not measured by go, in place. */
static size_t keep_taken(const struct expert_work *w, float *x, size_t first, size_t tokens, size_t cols)
{
    uint64_t cap = (uint64_t)MOMENTS_CAP_PER_COL * cols;
    size_t kept = 0;

    for (size_t t = 0; t < tokens; t++) {
        if (!moments_takes(first + t, w->count, cap))
            continue;
        if (kept != t)
            memcpy(x + kept * cols, x + t * cols, cols * sizeof *x);
        kept++;
    }
    return kept;
}

/* What enters down: silu(gate x) * (up x), into room->gate. */
static bool hidden_of(const struct expert_work *w, size_t tokens, struct err *e)
{
    const struct kernel *k = w->p->kernel;
    struct expert_room *r = w->room;
    const struct coded *gate = &w->mlp[MLP_GATE], *up = &w->mlp[MLP_UP];
    size_t width = gate->rows;

    if (!gemm(k, gate, 0, width, r->x, gate->cols, tokens, r->gate, width, false, r->scratch, e) ||
        !gemm(k, up, 0, width, r->x, up->cols, tokens, r->up, width, false, r->scratch, e))
        return false;
    for (size_t t = 0; t < tokens; t++)
        k->vec->silu_mul(r->gate + t * width, r->gate + t * width, r->up + t * width, width);
    return true;
}

static bool each_chunk(const struct expert_work *w, bool down, struct moments *m, chunk_fn *fn, struct err *e)
{
    struct expert_room *r = w->room;

    for (uint64_t first = 0; first < w->count; first += PIPELINE_CHUNK) {
        size_t tokens = w->count - first < PIPELINE_CHUNK ? (size_t)(w->count - first) : PIPELINE_CHUNK;
        float *x = down ? r->gate : r->x;
        if (!expert_inputs(w->call, (size_t)first, tokens, r->x, e) || (down && !hidden_of(w, tokens, e)))
            return false;
        tokens = keep_taken(w, x, (size_t)first, tokens, m->cols);
        w->p->kernel->vec->round_bf16(x, x, tokens * m->cols);
        fn(m, x, tokens, r->scratch);
    }
    return true;
}

/* ---- rounding ---- */

static bool measure(const struct expert_work *w, bool down, size_t cols, struct moments *m, struct err *e)
{
    moments_init(m, w->p->kernel, cols, w->room->sum);
    if (!each_chunk(w, down, m, chunk_moments, e))
        return false;
    /* Sums past float32 are for calibrated_make to see: the matrix ends in a search, the run goes on. */
    return !moments_close(m) || each_chunk(w, down, m, chunk_spread, e);
}

static double routed_weight(const struct expert_work *w)
{
    double sum = 0;

    for (uint64_t i = 0; i < w->count; i++)
        sum += (double)w->call->weights[i];
    return sum;
}

static bool round_part(struct expert_work *w, enum mlp_part part, const struct calibrated *c, struct err *e)
{
    struct pipeline *p = w->p;
    uint32_t row = w->rows[part];
    const struct plan_row *to = &p->out->rows[row - 1];
    struct coded *from = &w->mlp[part];
    struct loss_matrix m = {
        .from = from->scheme, .to = to->scheme, .rows = from->rows, .cols = from->cols, .in = from->parts};
    struct rounded rounded = {0};

    pipeline_out_bytes(to, w->room->out[part], &m.out);
    if (!calibrated_round(c, &m, w->room->scratch, &rounded, e))
        return err_in(e, "'%s'", to->weight->name);
    struct calibrated_result about = {
        .to_prior = c->has_moments ? c->shrunk.to_prior : 0,
        .to_diagonal = c->has_moments ? c->shrunk.to_diagonal : 0,
        .tokens = w->count,
        .routed_weight = routed_weight(w),
    };
    if (!pipeline_put(p, row - 1, &m.out, &rounded, &about, e))
        return false;
    *from = (struct coded){.scheme = to->scheme, .rows = m.rows, .cols = m.cols, .parts = m.out};
    return true;
}

/* The parts of one input: gate and up, or down. Their methods may differ; then what they share is made anew. */
static bool round_input(struct expert_work *w, bool down, struct err *e)
{
    static const enum mlp_part wide[] = {MLP_GATE, MLP_UP}, narrow[] = {MLP_DOWN};
    const enum mlp_part *parts = down ? narrow : wide;
    struct pipeline *p = w->p;
    struct moments m = {0};
    struct calibrated c = {0};
    bool made = false;

    for (size_t i = 0; i < (down ? 1 : 2); i++) {
        uint32_t row = w->rows[parts[i]];
        if (row == 0)
            continue;
        struct calibrated_options o = calibrated_defaults(p->out->rows[row - 1].scheme.method);
        size_t cols = w->mlp[parts[i]].cols;
        if (!m.sum && !measure(w, down, cols, &m, e))
            return false;
        if (!made || c.options.method != o.method)
            calibrated_make(&c, p->kernel, &o, &m, down ? NULL : pipeline_prior(p), 1, w->room->memory,
                            w->room->scratch);
        made = true;
        if (!round_part(w, parts[i], &c, e))
            return false;
    }
    return true;
}

static bool check_tokens(const struct expert_work *w, struct err *e)
{
    const struct pipeline_options *o = w->p->options;

    if (!o->starved_fails || w->count >= o->min_tokens)
        return true;
    return err_set(e, ERR_UNSUPPORTED,
                   "%llu tokens reached it, fewer than --min-tokens %llu: give a longer or a more varied text",
                   (unsigned long long)w->count, (unsigned long long)o->min_tokens);
}

static bool round_expert(struct expert_work *w, struct err *e)
{
    struct coded source[MLP_PARTS];

    memcpy(source, w->mlp, sizeof source);
    if (!check_tokens(w, e) || !round_input(w, false, e))
        return false;
    if (!w->p->options->propagate)
        memcpy(w->mlp, source, sizeof source);
    if (!round_input(w, true, e))
        return false;
    if (!w->p->options->propagate)
        memcpy(w->mlp, source, sizeof source);
    return true;
}

bool pipeline_on_expert(void *ctx, unsigned worker, const struct expert_call *c, struct coded mlp[3], struct err *e)
{
    struct pipeline *p = ctx;
    struct expert_work w = {
        .p = p, .room = &p->rooms[worker], .call = c, .rows = p->experts[c->expert], .mlp = mlp, .count = c->count};

    return round_expert(&w, e);
}

/* ---- experts that no token reached ---- */

static bool silent_expert(struct pipeline *p, uint64_t expert, struct err *e)
{
    const struct source *s = p->plan->source;
    const struct weight *parts[MLP_PARTS];
    struct coded mlp[MLP_PARTS];
    struct expert_work w = {.p = p, .room = &p->rooms[0], .rows = p->experts[expert], .mlp = mlp};
    uint8_t *at = w.room->in;

    if (!layer_expert(s, p->layer, expert, parts, e))
        return false;
    for (enum mlp_part part = 0; part < MLP_PARTS; part++) {
        if (!weight_load(s, parts[part], at, &mlp[part], e))
            return false;
        at += weight_memory_bytes(parts[part]);
    }
    return round_expert(&w, e) ||
           err_in(e, "layer %llu, expert %llu", (unsigned long long)p->layer, (unsigned long long)expert);
}

bool pipeline_silent_experts(struct pipeline *p, struct err *e)
{
    for (uint64_t expert = 0; p->any_expert && expert < p->plan->source->arch.experts; expert++)
        for (enum mlp_part part = 0; part < MLP_PARTS; part++) {
            uint32_t row = p->experts[expert][part];
            if (row == 0 || p->result->calibrated[row - 1].done)
                continue;
            if (!silent_expert(p, expert, e))
                return false;
            break;
        }
    return true;
}

/* ---- rooms ---- */

/* Of all experts in the model. */
struct expert_need {
    size_t hidden, width, out[MLP_PARTS], in, scratch, sum, memory;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void need_weight(struct expert_need *n, const struct plan_row *row, enum mlp_part part)
{
    const struct weight *w = row->weight;
    struct slices ignored;
    struct coded from = {.scheme = w->stored, .rows = w->rows, .cols = w->cols};
    struct coded to = {.scheme = row->scheme, .rows = w->rows, .cols = w->cols};
    struct loss_matrix m = {.from = w->stored, .to = row->scheme, .rows = w->rows, .cols = w->cols};

    n->hidden = larger(n->hidden, part == MLP_DOWN ? w->rows : w->cols);
    n->width = larger(n->width, part == MLP_DOWN ? w->cols : w->rows);
    n->in = larger(n->in, weight_memory_bytes(w));
    n->sum = larger(n->sum, moments_bytes(w->cols));
    n->memory = larger(n->memory, calibrated_bytes(w->cols));
    n->scratch = larger(n->scratch, moments_scratch_bytes(w->cols));
    n->scratch = larger(n->scratch, calibrated_scratch_bytes(w->cols));
    n->scratch = larger(n->scratch, gemm_scratch_bytes(&from, PIPELINE_CHUNK));
    if (!row->calibrated)
        return;
    n->out[part] = larger(n->out[part], pipeline_out_bytes(row, NULL, &ignored));
    n->scratch = larger(n->scratch, gemm_scratch_bytes(&to, PIPELINE_CHUNK));
    n->scratch = larger(n->scratch, calibrated_round_scratch_bytes(&m));
}

static struct expert_need find_need(const struct pipeline *p)
{
    struct expert_need n = {0};

    for (size_t i = 0; i < p->plan->weight_count; i++) {
        enum role role = p->plan->weights[i]->id.role;
        if (p->plan->weights[i]->id.part == NAME_INPUT_SCALE)
            continue;
        if (role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_DOWN)
            need_weight(&n, &p->out->rows[i], (enum mlp_part)(role - ROLE_EXPERT_GATE));
    }
    return n;
}

size_t pipeline_room_bytes(const struct pipeline *p)
{
    struct expert_need n = find_need(p);

    return PIPELINE_CHUNK * (n.hidden + 2 * n.width) * sizeof(float) + n.sum + n.memory + n.scratch + n.out[MLP_GATE] +
           n.out[MLP_UP] + n.out[MLP_DOWN] + MLP_PARTS * n.in;
}

void pipeline_rooms_make(struct pipeline *p)
{
    struct expert_need n = find_need(p);

    p->rooms = mem_alloc(p->threads * sizeof *p->rooms);
    for (unsigned i = 0; i < p->threads && n.hidden > 0; i++) {
        struct expert_room *r = &p->rooms[i];
        r->x = mem_aligned(PIPELINE_CHUNK * n.hidden * sizeof *r->x);
        r->gate = mem_aligned(PIPELINE_CHUNK * n.width * sizeof *r->gate);
        r->up = mem_aligned(PIPELINE_CHUNK * n.width * sizeof *r->up);
        r->sum = mem_aligned(n.sum);
        r->memory = mem_aligned(n.memory);
        r->scratch = mem_aligned(n.scratch);
        for (enum mlp_part part = 0; part < MLP_PARTS; part++)
            r->out[part] = mem_aligned(n.out[part] + 1);
        if (i == 0)
            r->in = mem_aligned(MLP_PARTS * n.in);
    }
}

void pipeline_rooms_release(struct pipeline *p)
{
    for (unsigned i = 0; i < p->threads && p->rooms; i++) {
        struct expert_room *r = &p->rooms[i];
        void *all[] = {r->x, r->gate, r->up, r->sum, r->memory, r->scratch, r->out[0], r->out[1], r->out[2], r->in};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            mem_free(all[k]);
    }
    mem_free(p->rooms);
    p->rooms = NULL;
}
