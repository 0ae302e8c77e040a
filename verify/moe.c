/* Routed experts. All tokens are routed first; then experts are taken in
 * waves, ascending: the workers run a wave's experts, each reading its own, and
 * leave the outputs in memory; then every token adds up what the wave has for
 * it, ids ascending. So the order of the sum is that of the ids, whoever was
 * first, and an expert is read once. */
#include <string.h>

#include "formats/base/pool.h"
#include "quant/vecmath.h"
#include "verify/forward_private.h"

struct expert_feed {
    const struct forward *f;
    const struct stream *residual;
    const float *norm; /* post_attention_layernorm */
};

bool expert_inputs(const struct expert_call *c, size_t first, size_t count, float *x, struct err *e)
{
    const struct forward *f = c->feed->f;
    size_t d = f->arch->hidden_size;

    if (!stream_gather(c->feed->residual, c->tokens + first, count, x, e))
        return false;
    for (size_t t = 0; t < count; t++)
        crew_norm(&f->crew, x + t * d, x + t * d, c->feed->norm, d, f->arch->rms_norm_eps);
    return true;
}

/* Tokens that a worker takes through an expert at a time. */
static size_t block_tokens(size_t chunk)
{
    return chunk < CREW_TOKENS ? chunk : CREW_TOKENS;
}

struct worker_memory {
    uint8_t *weights; /* one expert as stored; NULL: by slices, or read ahead */
    float *x;         /* [block][hidden] */
    float *gate, *up; /* [block][width] */
    void *router;
};

struct moe {
    const struct layer_run *run;
    struct router rule;
    struct vector_place norm, bias;
    struct matrix_place router;
    size_t width, block;

    /* choices: [tokens][top_k] */
    uint32_t *ids;
    float *weights;
    uint32_t *slots; /* where the token stands in its expert's list */
    /* lists: expert e has the entries [start[e], start[e + 1]) */
    size_t *start; /* [experts + 1] */
    uint32_t *list_tokens;
    float *list_weights;
    bool *wanted; /* [experts]: those that got tokens */

    float *in, *normed, *scores; /* [chunk] rows */
    struct worker_memory *workers;
    float *wave; /* [wave_rows][hidden] */
    float *sums; /* [chunk][hidden] rows of out */

    struct expert_feed feed;
    const float *x; /* of the chunk */
    size_t first;
    float *to;
    size_t begin, end;    /* entries of the wave */
    size_t first_expert;  /* of the wave */
    struct matrix *large; /* the wave is a part of this one expert */
    struct expert_call large_call;
};

static void moe_place(struct moe *m, const struct forward *f, const struct layer_weights *l, const struct stream *out,
                      size_t chunk, size_t tokens, size_t wave_rows, struct scratch *s)
{
    size_t d = f->arch->hidden_size, k = f->arch->experts_per_token, experts = f->arch->experts;
    size_t layer = (size_t)(l - f->layers);

    m->width = f->arch->moe_intermediate_size;
    m->block = block_tokens(chunk);
    place_vector(&m->norm, l->post_norm, s);
    place_matrix(f, &m->router, l->router, s);
    if (l->router_bias)
        place_vector(&m->bias, l->router_bias, s);
    m->ids = scratch_take(s, tokens * k * sizeof *m->ids);
    m->weights = scratch_take(s, tokens * k * sizeof *m->weights);
    m->slots = scratch_take(s, tokens * k * sizeof *m->slots);
    m->start = scratch_take(s, (experts + 1) * sizeof *m->start);
    m->list_tokens = scratch_take(s, tokens * k * sizeof *m->list_tokens);
    m->list_weights = scratch_take(s, tokens * k * sizeof *m->list_weights);
    m->wanted = scratch_take(s, experts * sizeof *m->wanted);
    m->in = place_rows(s, &f->residual, chunk, d);
    m->sums = place_rows(s, out, chunk, d);
    m->normed = place_floats(s, chunk, d);
    m->scores = place_floats(s, chunk, experts);
    m->workers = scratch_take(s, f->crew.threads * sizeof *m->workers);
    router_init(&m->rule, f->arch, NULL);
    for (unsigned i = 0; i < f->crew.threads; i++) {
        struct worker_memory w = {
            .weights = f->options.by_slices || f->places > 0 ? NULL : scratch_take(s, f->expert_bytes[layer]),
            .x = place_floats(s, m->block, d),
            .gate = place_floats(s, m->block, m->width),
            .up = place_floats(s, m->block, m->width),
            .router = scratch_take(s, router_scratch_bytes(&m->rule)),
        };
        if (m->workers)
            m->workers[i] = w;
    }
    m->wave = place_floats(s, wave_rows, d);
}

void moe_need_place(const struct forward *f, const struct layer_weights *l, size_t chunk, size_t tokens,
                    size_t wave_rows, struct scratch *s)
{
    struct moe m = {0};

    moe_place(&m, f, l, NULL, chunk, tokens, wave_rows, s);
}

/* ---- routing ---- */

static bool norm_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct moe *m = ctx;
    const struct forward *f = m->run->f;
    size_t d = f->arch->hidden_size;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++)
        crew_norm(&f->crew, m->normed + t * d, m->x + t * d, m->norm.x, d, f->arch->rms_norm_eps);
    return true;
}

static bool choose_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct moe *m = ctx;
    const struct forward *f = m->run->f;
    size_t k = m->rule.top_k;

    for (size_t t = first; t < first + count; t++) {
        float *scores = m->scores + t * m->rule.experts;
        size_t at = (m->first + t) * k;
        router_score(&m->rule, f->crew.kernel, scores, scores);
        if (!f->crew.kernel->f32_check(scores, m->rule.experts))
            return err_set(e, ERR_FORMAT, "layer %llu, token %zu: the router's score is not finite",
                           (unsigned long long)m->run->layer, m->first + t);
        router_choose(&m->rule, scores, m->ids + at, m->weights + at, m->workers[worker].router);
    }
    return true;
}

/* Logits in float32 whatever is emulated. */
static bool route_chunk(struct moe *m, size_t first, size_t count, struct err *e)
{
    const struct layer_run *r = m->run;
    struct forward *f = r->f;
    struct crew exact = f->crew;
    size_t d = f->arch->hidden_size, k = m->rule.top_k;

    exact.emulate = EMULATE_NONE;
    m->first = first;
    if (!stream_read(run_residual(r), first, count, m->in, &m->x, e) || !crew_rows(&f->crew, count, norm_rows, m, e) ||
        !show_input(r, ROLE_ROUTER, first, count, m->normed, d, d, e) ||
        !crew_linear(&exact, &m->router.matrix, m->normed, d, count, m->scores, m->rule.experts, e) ||
        !crew_rows(&f->crew, count, choose_rows, m, e))
        return false;
    struct routing seen = {r->layer, first, count, m->rule.experts, k, m->ids + first * k, m->weights + first * k,
                           m->scores};
    return !r->observer->routing || r->observer->routing(r->observer->ctx, &seen, e);
}

static void make_lists(struct moe *m)
{
    size_t choices = m->run->f->batch.tokens * m->rule.top_k, *start = m->start;

    memset(start, 0, (m->rule.experts + 1) * sizeof *start);
    for (size_t i = 0; i < choices; i++)
        m->slots[i] = (uint32_t)start[m->ids[i] + 1]++;
    for (size_t e = 0; e < m->rule.experts; e++) {
        m->wanted[e] = start[e + 1] > 0;
        start[e + 1] += start[e];
    }
    for (size_t i = 0; i < choices; i++) {
        size_t at = start[m->ids[i]] + m->slots[i];
        m->list_tokens[at] = (uint32_t)(i / m->rule.top_k);
        m->list_weights[at] = m->weights[i];
    }
}

/* ---- a wave ---- */

static size_t expert_tokens(const struct moe *m, size_t expert)
{
    return m->start[expert + 1] - m->start[expert];
}

static void show_made(const struct moe *m, const struct expert_call *call, const float *act, const float *out,
                      size_t count)
{
    const struct observer *o = m->run->observer;
    struct expert_made made = {call->layer, call->expert, count, m->width, m->run->f->arch->hidden_size, act, out};

    if (o->made)
        o->made(o->ctx, &made);
}

/* Entries [begin, end) of the lists, at most a block, all of one expert. */
static bool run_block(const struct moe *m, const struct matrix mlp[MLP_PARTS], const struct expert_call *call,
                      size_t begin, size_t end, unsigned worker, struct err *e)
{
    const struct crew *c = &m->run->f->crew;
    const struct worker_memory *w = &m->workers[worker];
    size_t count = end - begin;
    float *out = m->wave + (begin - m->begin) * m->run->f->arch->hidden_size;

    if (!expert_inputs(call, begin - m->start[call->expert], count, w->x, e) ||
        !worker_linear(c, worker, &mlp[MLP_GATE], w->x, count, w->gate, e) ||
        !worker_linear(c, worker, &mlp[MLP_UP], w->x, count, w->up, e))
        return false;
    crew_silu_mul(c, w->gate, w->up, count * m->width);
    if (!worker_linear(c, worker, &mlp[MLP_DOWN], w->gate, count, out, e))
        return false;
    show_made(m, call, w->gate, out, count);
    return true;
}

/* Into the worker's own memory, or out of the places of those that were read ahead. */
static bool read_expert(const struct moe *m, uint64_t expert, const struct weight *const weights[MLP_PARTS],
                        unsigned worker, struct coded coded[MLP_PARTS], struct err *e)
{
    const struct forward *f = m->run->f;
    uint8_t *memory = m->workers[worker].weights;

    if (f->reader)
        return expert_reader_take(f->reader, expert, coded, e);
    for (size_t i = 0; i < MLP_PARTS; i++) {
        if (!weight_load(f->source, weights[i], memory, &coded[i], e))
            return false;
        memory += weight_memory_bytes(weights[i]);
    }
    return true;
}

/* As stored, then as the observer would have it. give_expert follows, whatever it says. */
static bool load_expert(const struct moe *m, const struct expert_call *call, unsigned worker,
                        struct matrix mlp[MLP_PARTS], struct err *e)
{
    const struct layer_run *r = m->run;
    const struct weight *weights[MLP_PARTS];
    struct coded coded[MLP_PARTS];

    if (!layer_expert(r->f->source, r->layer, call->expert, weights, e))
        return false;
    for (size_t i = 0; i < MLP_PARTS && r->f->options.by_slices; i++)
        matrix_by_slices(&mlp[i], r->f->source, weights[i]);
    if (r->f->options.by_slices)
        return true;
    if (!read_expert(m, call->expert, weights, worker, coded, e))
        return false;
    if (r->observer->expert && !r->observer->expert(r->observer->ctx, worker, call, coded, e))
        return err_in(e, "layer %llu, expert %llu", (unsigned long long)r->layer, (unsigned long long)call->expert);
    for (size_t i = 0; i < MLP_PARTS; i++)
        mlp[i] = (struct matrix){
            .name = weights[i]->name, .coded = coded[i], .input_scale = input_scale_of(r->f, weights[i])};
    return true;
}

static void give_expert(const struct moe *m, uint64_t expert)
{
    if (m->run->f->reader)
        expert_reader_give(m->run->f->reader, expert);
}

/* While this one is worked on, the system reads the one that comes when all workers have had theirs. */
static void expect_expert(const struct moe *m, size_t expert)
{
    const struct layer_run *r = m->run;
    const struct weight *weights[MLP_PARTS];

    if (r->f->reader)
        return;
    for (unsigned ahead = r->f->crew.threads; ++expert < m->rule.experts;)
        if (expert_tokens(m, expert) > 0 && --ahead == 0)
            break;
    if (expert < m->rule.experts && layer_expert(r->f->source, r->layer, expert, weights, NULL))
        for (size_t i = 0; i < MLP_PARTS; i++)
            weight_expect(r->f->source, weights[i]);
}

static struct expert_call call_of(const struct moe *m, size_t expert)
{
    return (struct expert_call){
        .layer = m->run->layer,
        .expert = expert,
        .tokens = m->list_tokens + m->start[expert],
        .weights = m->list_weights + m->start[expert],
        .count = expert_tokens(m, expert),
        .feed = &m->feed,
    };
}

static bool run_blocks(const struct moe *m, const struct expert_call *call, unsigned worker, struct err *e)
{
    size_t end = m->start[call->expert + 1];
    struct matrix mlp[MLP_PARTS];

    if (!load_expert(m, call, worker, mlp, e))
        return false;
    for (size_t i = m->start[call->expert]; i < end; i += m->block)
        if (!run_block(m, mlp, call, i, end - i < m->block ? end : i + m->block, worker, e))
            return false;
    return true;
}

static bool run_expert(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct moe *m = ctx;
    size_t expert = m->first_expert + job;
    struct expert_call call = call_of(m, expert);

    if (call.count == 0)
        return true;
    expect_expert(m, expert);
    bool ok = run_blocks(m, &call, worker, e);
    give_expert(m, expert);
    return ok;
}

static bool run_large_block(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct moe *m = ctx;
    size_t begin = m->begin + job * m->block, end = begin + m->block;

    return run_block(m, m->large, &m->large_call, begin, end < m->end ? end : m->end, worker, e);
}

/* ---- sums ---- */

static bool add_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct moe *m = ctx;
    const struct forward *f = m->run->f;
    size_t d = f->arch->hidden_size, k = m->rule.top_k;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++)
        for (size_t j = (m->first + t) * k; j < (m->first + t + 1) * k; j++) {
            size_t entry = m->start[m->ids[j]] + m->slots[j];
            if (entry >= m->begin && entry < m->end)
                f->crew.kernel->vec->fma(m->to + t * d, m->weights[j], m->wave + (entry - m->begin) * d, d);
        }
    return true;
}

/* Every token takes what the wave has for it; the first wave finds zeros. */
static bool add_wave(struct moe *m, struct err *e)
{
    struct forward *f = m->run->f;
    struct stream *out = m->run->out;
    size_t tokens = f->batch.tokens, d = f->arch->hidden_size;
    const float *rows;

    for (size_t t = 0; t < tokens; t += f->chunk) {
        size_t count = tokens - t < f->chunk ? tokens - t : f->chunk;
        m->first = t;
        m->to = stream_place(out, t, m->sums);
        if (m->begin == 0)
            memset(m->to, 0, count * d * sizeof *m->to);
        else if (!stream_read(out, t, count, m->sums, &rows, e))
            return false;
        if (!crew_rows(&f->crew, count, add_rows, m, e) || !stream_write(out, t, count, m->to, e))
            return false;
    }
    return true;
}

static bool run_large_blocks(struct moe *m, size_t expert, struct err *e)
{
    struct forward *f = m->run->f;
    struct matrix mlp[MLP_PARTS];
    size_t end = m->start[expert + 1];

    m->large = mlp;
    m->large_call = call_of(m, expert);
    if (!load_expert(m, &m->large_call, 0, mlp, e))
        return false;
    for (m->begin = m->start[expert]; m->begin < end; m->begin = m->end) {
        m->end = end - m->begin < f->wave_rows ? end : m->begin + f->wave_rows;
        size_t blocks = (m->end - m->begin + m->block - 1) / m->block;
        if (!pool_run(f->crew.threads, blocks, run_large_block, m, e) || !add_wave(m, e))
            return false;
    }
    return true;
}

/* An expert with more tokens than outputs can be held: its blocks are shared among the workers. */
static bool run_large(struct moe *m, size_t expert, struct err *e)
{
    bool ok = run_large_blocks(m, expert, e);

    give_expert(m, expert);
    return ok;
}

static bool run_waves(struct moe *m, struct err *e)
{
    struct forward *f = m->run->f;
    size_t experts = m->rule.experts, end;

    for (size_t i = 0; i < experts; i = end) {
        for (end = i; end < experts && m->start[end + 1] - m->start[i] <= f->wave_rows;)
            end++;
        if (end == i) {
            if (!run_large(m, end++, e))
                return false;
            continue;
        }
        m->first_expert = i;
        m->begin = m->start[i];
        m->end = m->start[end];
        if (!pool_run(f->crew.threads, end - i, run_expert, m, e) || !add_wave(m, e))
            return false;
    }
    return true;
}

bool moe_run(const struct layer_run *r, struct err *e)
{
    struct forward *f = r->f;
    struct scratch s = {.base = f->memory};
    struct moe m = {.run = r};
    size_t tokens = f->batch.tokens;

    moe_place(&m, f, r->weights, r->out, f->chunk, tokens, f->wave_rows, &s);
    if (!load_vector(f, &m.norm, e) || !load_matrix(f, &m.router, e) ||
        (r->weights->router_bias && !load_vector(f, &m.bias, e)))
        return false;
    router_init(&m.rule, f->arch, m.bias.x);
    m.feed = (struct expert_feed){f, run_residual(r), m.norm.x};
    for (size_t t = 0; t < tokens; t += f->chunk)
        if (!route_chunk(&m, t, tokens - t < f->chunk ? tokens - t : f->chunk, e))
            return false;
    make_lists(&m);
    if (!f->reader)
        return run_waves(&m, e);
    expert_reader_choose(f->reader, m.wanted);
    bool ok = run_waves(&m, e);
    expert_reader_end(f->reader);
    return ok;
}
