/* Routed experts: each by the tokens that were routed to it, on the worker that runs it. */
#include "convert/calibrate_private.h"

static bool read_inputs(void *ctx, size_t first, size_t count, float *x, struct err *e)
{
    return expert_inputs(ctx, first, count, x, e);
}

static bool put_channels(struct calibrate *c, enum role role, uint64_t expert, const struct channels *s, struct err *e)
{
    struct calib_input *in = calibrate_input(c, role);

    in->seen[expert] = (int64_t)s->tokens;
    in->peak[expert] = s->peak;
    return calib_writer_sum2(&c->writer, in, (size_t)expert, s->sum2, e);
}

static bool try_expert(struct calibrate *c, uint64_t expert, const struct expert_job *job, void *memory, struct err *e)
{
    struct trial t[EXPERT_PARTS];

    if (!trial_expert(job, c->schemes, CALIB_SCHEME_COUNT, memory, t, e))
        return false;
    for (enum expert_part part = 0; part < EXPERT_PARTS; part++)
        calibrate_note_loss(c, (enum role)(ROLE_EXPERT_GATE + part), (size_t)expert, &t[part]);
    return true;
}

/* call: NULL for an expert that no token reached. */
static bool watch_expert(struct calibrate *c, const struct calibrate_room *room, uint64_t expert,
                         const struct expert_call *call, const struct coded *mlp, struct err *e)
{
    const struct flow *all = &c->flows[ROLE_ROUTER];
    struct expert_layer layer = {
        .prior = all->moments.sum ? &all->moments : NULL, .sample = all->kept, .sample_tokens = all->kept_tokens};
    struct expert_job job = {.kernel = c->kernel,
                             .layer = &layer,
                             .mlp = mlp,
                             .options = calibrate_method(),
                             .tokens = call ? call->count : 0,
                             .weights = call ? call->weights : NULL,
                             .cap = (uint64_t)MOMENTS_CAP_PER_COL * mlp[MLP_GATE].cols,
                             .inputs = read_inputs,
                             .ctx = (void *)(uintptr_t)call};
    struct channels wide, down;

    channels_init(&wide, c->kernel, mlp[MLP_GATE].cols, room->wide);
    channels_init(&down, c->kernel, mlp[MLP_DOWN].cols, room->down);
    return trial_channels(&job, room->memory, &wide, &down, e) && put_channels(c, ROLE_EXPERT_GATE, expert, &wide, e) &&
           put_channels(c, ROLE_EXPERT_DOWN, expert, &down, e) &&
           (!c->options->losses || try_expert(c, expert, &job, room->memory, e));
}

bool calibrate_on_expert(void *ctx, unsigned worker, const struct expert_call *call, struct coded mlp[3], struct err *e)
{
    struct calibrate *c = ctx;

    return watch_expert(c, &c->rooms[worker], call->expert, call, mlp, e);
}

/* ---- experts that no token reached ---- */

/* Without losses there is nothing to read it for. */
static bool write_zeros(struct calibrate *c, uint64_t expert, struct err *e)
{
    struct channels wide, down;

    channels_init(&wide, c->kernel, calibrate_input(c, ROLE_EXPERT_GATE)->cols, c->rooms[0].wide);
    channels_init(&down, c->kernel, calibrate_input(c, ROLE_EXPERT_DOWN)->cols, c->rooms[0].down);
    return put_channels(c, ROLE_EXPERT_GATE, expert, &wide, e) && put_channels(c, ROLE_EXPERT_DOWN, expert, &down, e);
}

static bool silent_expert(struct calibrate *c, uint64_t expert, uint8_t *memory, struct err *e)
{
    const struct weight *parts[MLP_PARTS];
    struct coded mlp[MLP_PARTS];

    if (!layer_expert(c->source, c->layer, expert, parts, e))
        return false;
    for (enum mlp_part part = 0; part < MLP_PARTS; part++) {
        if (!weight_load(c->source, parts[part], memory, &mlp[part], e))
            return false;
        memory += weight_memory_bytes(parts[part]);
    }
    return watch_expert(c, &c->rooms[0], expert, NULL, mlp, e) ||
           err_in(e, "layer %llu, expert %llu", (unsigned long long)c->layer, (unsigned long long)expert);
}

static size_t stored_bytes(const struct source *source, uint64_t layer, uint64_t expert)
{
    const struct weight *parts[MLP_PARTS];
    size_t bytes = 0;

    if (layer_expert(source, layer, expert, parts, NULL))
        for (enum mlp_part part = 0; part < MLP_PARTS; part++)
            bytes += weight_memory_bytes(parts[part]);
    return bytes;
}

bool calibrate_silent_experts(struct calibrate *c, struct err *e)
{
    const struct calib_input *in = calibrate_input(c, ROLE_EXPERT_GATE);
    bool ok = true;

    for (size_t i = 0; in && i < in->n && ok; i++) {
        if (in->seen[i] > 0)
            continue;
        uint8_t *memory = c->options->losses ? mem_aligned(stored_bytes(c->source, c->layer, i) + 1) : NULL;
        ok = memory ? silent_expert(c, i, memory, e) : write_zeros(c, i, e);
        mem_free(memory);
    }
    return ok;
}

/* ---- rooms ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

struct need {
    size_t memory, wide, down;
};

/* Of the largest expert: all of a layer are alike, layers may differ. */
static struct need find_need(const struct source *source, bool losses)
{
    struct scheme schemes[CALIB_SCHEME_COUNT];
    struct need n = {0};

    for (enum calib_scheme i = 0; i < CALIB_SCHEME_COUNT; i++)
        schemes[i] = calib_scheme_get(i);
    for (uint64_t layer = 0; layer <= source->arch.layers; layer++) {
        const struct weight *parts[MLP_PARTS];
        struct coded mlp[MLP_PARTS];
        if (!layer_expert(source, layer, 0, parts, NULL))
            continue;
        for (enum mlp_part part = 0; part < MLP_PARTS; part++)
            mlp[part] =
                (struct coded){.scheme = parts[part]->stored, .rows = parts[part]->rows, .cols = parts[part]->cols};
        struct expert_job job = {.kernel = kernel_get(), .mlp = mlp, .options = calibrate_method()};
        n.memory = larger(n.memory, trial_channels_bytes(&job));
        if (losses)
            n.memory = larger(n.memory, trial_expert_bytes(&job, schemes, CALIB_SCHEME_COUNT));
        n.wide = larger(n.wide, mlp[MLP_GATE].cols * sizeof(double));
        n.down = larger(n.down, mlp[MLP_DOWN].cols * sizeof(double));
    }
    return n;
}

size_t calibrate_room_bytes(const struct source *source, bool losses)
{
    struct need n = find_need(source, losses);

    return n.memory + n.wide + n.down;
}

void calibrate_rooms_make(struct calibrate *c)
{
    struct need n = find_need(c->source, c->options->losses);

    c->rooms = mem_alloc(c->threads * sizeof *c->rooms);
    for (unsigned i = 0; i < c->threads; i++) {
        c->rooms[i].memory = mem_aligned(n.memory + 1);
        c->rooms[i].wide = mem_alloc(n.wide + 1);
        c->rooms[i].down = mem_alloc(n.down + 1);
    }
}

void calibrate_rooms_release(struct calibrate *c)
{
    for (unsigned i = 0; i < c->threads && c->rooms; i++) {
        mem_free(c->rooms[i].memory);
        mem_free(c->rooms[i].wide);
        mem_free(c->rooms[i].down);
    }
    mem_free(c->rooms);
    c->rooms = NULL;
}
