/* Routed experts: each by the tokens that were routed to it (quant/expert.h), on the worker that runs it. */
#include <string.h>

#include "convert/pipeline_private.h"
#include "formats/base/units.h"
#include "quant/expert.h"

/* ---- one expert ---- */

static bool read_inputs(void *ctx, size_t first, size_t count, float *x, struct err *e)
{
    return expert_inputs(ctx, first, count, x, e);
}

static struct expert_job job_of(const struct pipeline *p, const uint32_t *rows, const struct coded *mlp)
{
    struct expert_job job = {.kernel = p->kernel, .mlp = mlp, .options = calibrated_defaults(METHOD_LDLQ)};

    for (enum mlp_part part = 0; part < MLP_PARTS; part++)
        job.to[part] = p->out->rows[rows[part] - 1].scheme;
    job.cap = (uint64_t)MOMENTS_CAP_PER_COL * mlp[MLP_GATE].cols;
    return job;
}

static double routed_weight(const struct expert_call *c)
{
    double sum = 0;

    for (size_t i = 0; c && i < c->count; i++)
        sum += (double)c->weights[i];
    return sum;
}

static bool put_parts(struct pipeline *p, const uint32_t *rows, const struct expert_call *c, const struct coded *out,
                      const struct expert_result *result, struct err *e)
{
    for (enum mlp_part part = 0; part < MLP_PARTS; part++) {
        const struct expert_input *input = &result->inputs[part == MLP_DOWN];
        struct calibrated_result about = {.to_prior = input->to_prior,
                                          .to_diagonal = input->to_diagonal,
                                          .tokens = c ? c->count : 0,
                                          .routed_weight = routed_weight(c)};
        if (p->out->rows[rows[part] - 1].calibrated &&
            !pipeline_put(p, rows[part] - 1, &out[part].parts, &result->parts[part], &about, e))
            return false;
    }
    return true;
}

/* c: NULL for an expert that no token reached. What it computes with becomes what was rounded. */
static bool round_expert(struct pipeline *p, struct expert_room *room, const uint32_t *rows,
                         const struct expert_call *c, struct coded mlp[MLP_PARTS], struct err *e)
{
    const struct pipeline_options *o = p->options;
    struct expert_layer layer = pipeline_prior(p);
    struct expert_job job = job_of(p, rows, mlp);
    struct coded out[MLP_PARTS];
    struct expert_result result;

    job.layer = &layer;
    job.tokens = c ? c->count : 0;
    job.weights = c ? c->weights : NULL;
    job.inputs = read_inputs;
    job.ctx = (void *)c; /* only read */
    if (o->starved_fails && job.tokens < o->min_tokens)
        return err_set(e, ERR_UNSUPPORTED,
                       "%llu token%s reached it, fewer than --min-tokens %llu: give a longer or a more varied text",
                       (unsigned long long)job.tokens, plural(job.tokens), (unsigned long long)o->min_tokens);
    expert_place_output(&job, out, room->out);
    if (!expert_round(&job, out, room->memory, &result, e) || !put_parts(p, rows, c, out, &result, e))
        return false;
    if (o->propagate)
        memcpy(mlp, out, sizeof out);
    return true;
}

bool pipeline_on_expert(void *ctx, unsigned worker, const struct expert_call *c, struct coded mlp[3], struct err *e)
{
    struct pipeline *p = ctx;

    return round_expert(p, &p->rooms[worker], p->experts[c->expert], c, mlp, e);
}

void pipeline_on_made(void *ctx, const struct expert_made *m)
{
    struct pipeline *p = ctx;
    struct expert_most *most = &p->most[m->expert];
    float act = p->kernel->absmax(m->act, m->tokens * m->inner), out = p->kernel->absmax(m->out, m->tokens * m->hidden);

    pthread_mutex_lock(&p->lock);
    most->act = act > most->act ? act : most->act;
    most->out = out > most->out ? out : most->out;
    pthread_mutex_unlock(&p->lock);
}

/* ---- experts that no token reached ---- */

static bool silent_expert(struct pipeline *p, uint64_t expert, struct err *e)
{
    const struct source *s = p->plan->source;
    const struct weight *parts[MLP_PARTS];
    struct coded mlp[MLP_PARTS];
    uint8_t *at = p->rooms[0].in;

    if (!layer_expert(s, p->layer, expert, parts, e))
        return false;
    for (enum mlp_part part = 0; part < MLP_PARTS; part++) {
        if (!weight_load(s, parts[part], at, &mlp[part], e))
            return false;
        at += weight_memory_bytes(parts[part]);
    }
    return round_expert(p, &p->rooms[0], p->experts[expert], NULL, mlp, e) ||
           err_in(e, "layer %llu, expert %llu", (unsigned long long)p->layer, (unsigned long long)expert);
}

static bool is_done(const struct pipeline *p, const uint32_t *rows)
{
    for (enum mlp_part part = 0; part < MLP_PARTS; part++)
        if (p->out->rows[rows[part] - 1].calibrated && !p->result->calibrated[rows[part] - 1].done)
            return false;
    return true;
}

bool pipeline_silent_experts(struct pipeline *p, struct err *e)
{
    for (uint64_t expert = 0; p->any_expert && expert < p->plan->source->arch.experts; expert++)
        if (!is_done(p, p->experts[expert]) && !silent_expert(p, expert, e))
            return false;
    return true;
}

/* ---- rooms ---- */

struct need {
    size_t memory, out, in;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Of the largest expert in the model: those of its first layer's first expert, and of any that differs. */
static struct need find_need(struct pipeline *p)
{
    const struct plan *plan = p->plan;
    struct need n = {0};
    struct coded mlp[MLP_PARTS];
    uint32_t rows[MLP_PARTS] = {0};
    size_t in = 0;

    for (size_t i = 0; i < plan->weight_count; i++) {
        const struct weight *w = plan->weights[i];
        if (w->id.part == NAME_INPUT_SCALE || w->id.expert != 0)
            continue;
        enum mlp_part part = (enum mlp_part)(w->id.role - ROLE_EXPERT_GATE);
        rows[part] = (uint32_t)i + 1;
        mlp[part] = (struct coded){.scheme = w->stored, .rows = w->rows, .cols = w->cols};
        in += weight_memory_bytes(w);
        if (rows[MLP_GATE] == 0 || rows[MLP_UP] == 0 || rows[MLP_DOWN] == 0)
            continue;
        struct expert_job job = job_of(p, rows, mlp);
        n.memory = larger(n.memory, expert_memory_bytes(&job));
        n.out = larger(n.out, expert_place_output(&job, NULL, NULL));
        n.in = larger(n.in, in);
        memset(rows, 0, sizeof rows);
        in = 0;
    }
    return n;
}

size_t pipeline_room_bytes(struct pipeline *p)
{
    struct need n = find_need(p);

    return n.memory + n.out + n.in;
}

void pipeline_rooms_make(struct pipeline *p)
{
    struct need n = find_need(p);

    p->rooms = mem_alloc(p->threads * sizeof *p->rooms);
    for (unsigned i = 0; i < p->threads; i++) {
        p->rooms[i].memory = mem_aligned(n.memory + 1);
        p->rooms[i].out = mem_aligned(n.out + 1);
    }
    p->rooms[0].in = mem_aligned(n.in + 1);
}

void pipeline_rooms_release(struct pipeline *p)
{
    for (unsigned i = 0; i < p->threads && p->rooms; i++) {
        mem_free(p->rooms[i].memory);
        mem_free(p->rooms[i].out);
        mem_free(p->rooms[i].in);
    }
    mem_free(p->rooms);
    p->rooms = NULL;
}
