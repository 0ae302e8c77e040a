#include "convert/calibrate.h"

#include <stdio.h>
#include <string.h>

#include "convert/calibrate_private.h"
#include "formats/base/pool.h"
#include "quant/vecmath.h"
#include "verify/model_walk.h"

/* Of a hidden state that is summed. */
#define BLOCK_TOKENS 256u

struct calib_input *calibrate_input(struct calibrate *c, enum role role)
{
    return (struct calib_input *)(uintptr_t)calib_input_find(c->stats, c->layer, role);
}

void calibrate_note_loss(struct calibrate *c, enum role matrix, size_t index, const struct trial *t)
{
    const struct calib_loss *l = calib_loss_find(c->stats, c->layer, matrix);

    for (enum calib_scheme i = 0; i < CALIB_SCHEME_COUNT; i++)
        l->loss[i][index] = t->loss[i];
    l->energy[index] = t->energy;
}

struct calibrated_options calibrate_method(void)
{
    struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);

    o.check_rows = CALIBRATE_LOSS_ROWS;
    return o;
}

/* ---- what all tokens go through ---- */

static bool of_attention(enum role role)
{
    return role == ROLE_Q_A_PROJ || role == ROLE_Q_B_PROJ || role == ROLE_KV_B_PROJ || role == ROLE_O_PROJ;
}

static bool on_input(void *ctx, const struct linear_input *in, struct err *e)
{
    struct calibrate *c = ctx;
    enum role role = calib_input_of(in->role);
    struct channels *s = &c->channels[role];

    if (in->role == ROLE_SHARED_GATE) /* the router's, once more */
        return true;
    if (!s->sum2)
        channels_init(s, c->kernel, in->cols, mem_alloc(in->cols * sizeof *s->sum2));
    channels_add(s, in->x, in->x_stride, in->tokens, c->threads);
    if (!c->options->losses || in->role == ROLE_MTP_PROJ)
        return true;
    for (enum role r = 0; r < ROLE_COUNT && !of_attention(role); r++) /* attention is over */
        if (of_attention(r))
            flow_release(&c->flows[r]);
    return flow_take(&c->flows[role], c->kernel, in, c->tokens, c->threads, &c->scratch, e);
}

static bool on_linear(void *ctx, uint64_t layer, enum role role, struct coded *w, struct err *e)
{
    struct calibrate *c = ctx;
    struct calibrated_options o = calibrate_method();
    struct flow *f = &c->flows[calib_input_of(role)];
    struct trial t;

    (void)layer;
    struct calibrated *made = flow_calibrated(f, &o, c->threads, &c->scratch);
    void *memory = flow_scratch_get(&c->scratch, trial_bytes(w, c->schemes, CALIB_SCHEME_COUNT));
    if (!trial_run(made, w, c->schemes, CALIB_SCHEME_COUNT, memory, &t, e))
        return false;
    calibrate_note_loss(c, role, 0, &t);
    return true;
}

static bool on_routing(void *ctx, const struct routing *r, struct err *e)
{
    struct calibrate *c = ctx;

    (void)e;
    routing_stats_add(&c->stats->routing, r->layer, r->ids, r->weights, r->tokens);
    return true;
}

/* ---- a layer ---- */

static bool begin_layer(void *ctx, uint64_t layer, size_t tokens, struct observer *o, struct err *e)
{
    struct calibrate *c = ctx;
    char label[32];

    (void)e;
    c->layer = layer;
    c->tokens = tokens;
    snprintf(label, sizeof label, "layer %llu", (unsigned long long)layer);
    progress_label(c->progress, label);
    *o = (struct observer){.ctx = c,
                           .routing = on_routing,
                           .input = on_input,
                           .linear = c->options->losses ? on_linear : NULL,
                           .expert = calibrate_on_expert};
    return true;
}

/* Channels ascending in each token, tokens ascending. */
static bool sum_hidden(struct calibrate *c, const struct stream *s, double *sum, struct err *e)
{
    float *block = mem_aligned(BLOCK_TOKENS * s->width * sizeof *block);
    bool ok = true;

    for (size_t t = 0; t < s->tokens && ok; t += BLOCK_TOKENS) {
        size_t count = s->tokens - t < BLOCK_TOKENS ? s->tokens - t : BLOCK_TOKENS;
        const float *rows = NULL;
        ok = stream_read(s, t, count, block, &rows, e);
        for (size_t i = 0; i < count && ok; i++)
            *sum += c->kernel->vec->sum2(rows + i * s->width, s->width);
    }
    mem_free(block);
    return ok;
}

/* Inputs that all tokens go through. A layer that was not run has zeros. */
static bool write_inputs(struct calibrate *c, struct err *e)
{
    bool ok = true;

    for (enum role role = 0; role < ROLE_COUNT && ok; role++) {
        struct calib_input *in = calibrate_input(c, role);
        struct channels *s = &c->channels[role];
        if (!in || calib_places(role, 2) == 2)
            continue;
        if (!s->sum2)
            channels_init(s, c->kernel, in->cols, mem_alloc(in->cols * sizeof *s->sum2));
        in->seen[0] = (int64_t)s->tokens;
        in->peak[0] = s->peak;
        ok = calib_writer_sum2(&c->writer, in, 0, s->sum2, e);
    }
    return ok;
}

static void release_layer(struct calibrate *c)
{
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        flow_release(&c->flows[role]);
        mem_free(c->channels[role].sum2);
        c->channels[role] = (struct channels){0};
    }
}

uint64_t calibrate_layer_bytes(const struct source *source, int64_t layer)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < source->weights.count; i++)
        for (enum part p = 0; p < PART_COUNT && source->weights.items[i].id.layer == layer; p++)
            if (source->weights.items[i].parts[p])
                bytes += source->weights.items[i].parts[p]->bytes;
    return bytes;
}

static bool end_layer(void *ctx, uint64_t layer, const struct stream *out, struct err *e)
{
    struct calibrate *c = ctx;
    bool ok = calibrate_silent_experts(c, e) && write_inputs(c, e);

    for (size_t i = 0; i < c->stats->layer_count && ok && out; i++)
        if (c->stats->layers[i].layer == layer)
            ok = sum_hidden(c, out, c->stats->layers[i].hidden, e);
    release_layer(c);
    progress_add(c->progress, calibrate_layer_bytes(c->source, (int64_t)layer));
    return ok && calibrate_saved_layer(c, out, e);
}

static void stopped(void *ctx, uint64_t layer, const struct stream *in)
{
    calibrate_saved_stopped(ctx, layer, in);
}

static bool enter(void *ctx, struct stream *in, struct err *e)
{
    return calibrate_saved_enter(ctx, in, e);
}

/* ---- memory ---- */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Flows of attention, or of all that comes behind it, whichever is more; and the largest scratch. */
static uint64_t flows_bytes(const struct source *source, const struct calib_stats *s)
{
    uint64_t most = 0, scratch = 0;

    for (size_t k = 0; k < s->layer_count; k++) {
        uint64_t bytes[2] = {0, 0};
        for (size_t i = 0; i < s->input_count; i++) {
            const struct calib_input *in = &s->inputs[i];
            if (in->role == ROLE_MTP_PROJ) /* has no losses */
                continue;
            if (in->layer == s->layers[k].layer && in->n == 1)
                bytes[of_attention(in->role)] += flow_bytes(in->cols, true);
            scratch = larger(scratch, flow_scratch_bytes(in->cols));
        }
        most = larger(most, larger(bytes[0], bytes[1]));
    }
    for (size_t i = 0; i < source->weights.count; i++) {
        const struct weight *w = &source->weights.items[i];
        struct coded coded = {.scheme = w->stored, .rows = w->rows, .cols = w->cols};
        struct scheme schemes[CALIB_SCHEME_COUNT];
        for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
            schemes[c] = calib_scheme_get(c);
        if (w->id.layer >= 0 && w->id.expert < 0 && w->id.role != ROLE_INDEXER_PROJ &&
            role_get(w->id.role)->quantizable && w->id.part != NAME_INPUT_SCALE)
            scratch = larger(scratch, trial_bytes(&coded, schemes, CALIB_SCHEME_COUNT));
    }
    return most + scratch;
}

uint64_t calibrate_memory_bytes(const struct source *source, const struct calib_stats *s, bool losses, unsigned threads)
{
    return calibrate_room_bytes(source, losses) * threads + (losses ? flows_bytes(source, s) : 0);
}

/* Experts at a time: as many as leave the forward pass a quarter of the budget. How many changes no byte. */
static bool open_forward(struct calibrate *c, struct err *e)
{
    const struct calibrate_options *o = c->options;
    uint64_t all = o->memory_bytes;

    c->threads = o->threads > 0 ? o->threads : pool_cpu_count();
    while (all > 0 && c->threads > 1 &&
           calibrate_memory_bytes(c->source, c->stats, o->losses, c->threads) > all / 4 * 3)
        c->threads--;
    struct forward_options f = {
        .threads = c->threads,
        .memory_bytes = all,
        .caller_bytes = calibrate_memory_bytes(c->source, c->stats, o->losses, c->threads),
    };
    return forward_open(&c->forward, c->source, &f, e) && forward_check_memory(c->forward, o->batch, e);
}

/* ---- the whole ---- */

uint64_t calibrate_read_bytes(const struct source *source)
{
    uint64_t bytes = 0;

    for (uint64_t layer = 0; layer <= source->arch.layers; layer++)
        bytes += calibrate_layer_bytes(source, (int64_t)layer);
    return bytes;
}

bool calibrate_run(struct calib_stats *s, const struct source *source, const struct calibrate_options *o,
                   const char *path, struct progress *progress, struct err *e)
{
    struct calibrate c = {.source = source, .options = o, .stats = s, .progress = progress, .kernel = kernel_get()};
    struct model_walk walk = {.source = source,
                              .batch = o->batch,
                              .ctx = &c,
                              .begin = begin_layer,
                              .end = end_layer,
                              .enter = enter,
                              .stopped = stopped};
    bool committed = false;

    for (enum calib_scheme i = 0; i < CALIB_SCHEME_COUNT; i++)
        c.schemes[i] = calib_scheme_get(i);
    for (size_t i = 0; i < o->batch->sequence_count; i++)
        routing_stats_add_sequence(&s->routing, o->batch->sequences[i].tokens);
    if (open_forward(&c, e) && calibrate_saved_open(&c, path, e)) {
        walk.first = c.saved.layers_done;
        calibrate_rooms_make(&c);
        committed = model_walk(&walk, c.forward, e) && calib_writer_commit(&c.writer, e);
    }
    calibrate_saved_close(&c, committed, e);
    release_layer(&c);
    flow_scratch_release(&c.scratch);
    calibrate_rooms_release(&c);
    calib_writer_release(&c.writer);
    forward_close(c.forward);
    return committed;
}
