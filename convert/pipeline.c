#include "convert/pipeline.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "convert/pipeline_private.h"
#include "convert/stream_file.h"
#include "formats/base/file.h"
#include "formats/base/log.h"
#include "formats/base/pool.h"
#include "verify/mtp.h"

/* The solve's own account of the loss and the measured one agree this closely, or a note says so. */
#define LOSS_AGREES 1e-3

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what is written ---- */

size_t pipeline_out_bytes(const struct plan_row *row, uint8_t *memory, struct slices *out)
{
    struct plan_slice s[PART_COUNT];
    size_t at = 0;

    plan_row_slices(row, 0, row->weight->rows, s);
    for (enum part part = 0; part < PART_COUNT; part++) {
        out->part[part] = s[part].tensor && memory ? memory + at : NULL;
        if (s[part].tensor)
            at += (s[part].bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    }
    return at;
}

uint64_t pipeline_write_bytes(const struct plan_output *o, size_t weight_count)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < weight_count; i++)
        for (enum part part = 0; part < PART_COUNT && o->rows[i].calibrated; part++)
            if (o->rows[i].parts[part].dtype != DTYPE_NONE && part != PART_SHAPE)
                bytes += o->rows[i].parts[part].bytes;
    return bytes;
}

static struct shard_file *open_shard(struct pipeline *p, uint32_t shard, struct err *e)
{
    const struct plan_shard *s = &p->out->shards[shard];
    struct shard_file *f = &p->files[shard];

    if (f->open)
        return f;
    f->hash_later = true;
    return shard_file_open(f, stage_path(p->stage, s->name), s->bytes, &s->prefix, &s->suffix, true, e) ? f : NULL;
}

/* The input scale comes when the layer is over: pipeline_put_part. */
static bool write_slices(struct pipeline *p, struct shard_file *f, const struct plan_row *row, const struct slices *out,
                         struct err *e)
{
    struct plan_slice s[PART_COUNT];

    plan_row_slices(row, 0, row->weight->rows, s);
    for (enum part part = 0; part < PART_COUNT; part++) {
        if (!s[part].tensor || part == PART_INPUT_SCALE)
            continue;
        if (!shard_file_write(f, s[part].tensor->offset + s[part].offset, out->part[part], s[part].bytes, e))
            return false;
        progress_add(p->progress, s[part].bytes);
    }
    return true;
}

bool pipeline_put(struct pipeline *p, uint32_t row, const struct slices *out, const struct rounded *rounded,
                  const struct calibrated_result *about, struct err *e)
{
    const struct plan_row *r = &p->out->rows[row];
    double measured = rounded->loss.error, running = rounded->running;

    pthread_mutex_lock(&p->lock);
    struct shard_file *f = open_shard(p, r->parts[PART_CODES].shard, e);
    pthread_mutex_unlock(&p->lock);
    if (!f || !write_slices(p, f, r, out, e))
        return false;
    if (rounded->ending == ENDING_FEEDBACK && !(measured - running <= LOSS_AGREES * measured) &&
        !(running - measured <= LOSS_AGREES * measured))
        log_warn("'%s': the loss is %g by the solve and %g by the stored bytes", r->weight->name, running, measured);
    pthread_mutex_lock(&p->lock);
    p->result->calibrated[row] = *about;
    p->result->calibrated[row].done = true;
    p->result->calibrated[row].ending = rounded->ending;
    p->result->calibrated[row].reason = rounded->reason;
    p->result->calibrated[row].loss_error = rounded->loss.error;
    p->result->calibrated[row].loss_energy = rounded->loss.energy;
    p->result->errors[row] = rounded->weights;
    pthread_mutex_unlock(&p->lock);
    return true;
}

bool pipeline_put_part(struct pipeline *p, const struct plan_row *row, enum part part, const void *data, struct err *e)
{
    const struct tensor *t = &row->parts[part];
    struct shard_file *f = open_shard(p, t->shard, e);

    if (!f || !shard_file_write(f, t->offset, data, t->bytes, e))
        return false;
    progress_add(p->progress, t->bytes);
    return true;
}

/* ---- a hidden state in the stage ---- */

static char *stream_path(struct pipeline *p, uint64_t layer)
{
    char name[64];

    snprintf(name, sizeof name, PIPELINE_STREAM_PREFIX "%llu", (unsigned long long)layer);
    return stage_path(p->stage, name);
}

static void drop_stream(struct pipeline *p, uint64_t layer)
{
    remove(stream_path(p, layer)); /* a leftover is found and removed with the stage */
}

/* ---- a layer ---- */

void pipeline_list_layer(struct pipeline *p, uint64_t layer, uint64_t tokens)
{
    const struct plan *plan = p->plan;

    p->layer = layer;
    p->tokens = tokens;
    p->any_expert = false;
    memset(p->linear, 0, sizeof p->linear);
    memset(p->experts, 0, plan->source->arch.experts * sizeof *p->experts);
    memset(p->most, 0, plan->source->arch.experts * sizeof *p->most);
    for (size_t k = p->index.begin[layer]; k < p->index.begin[layer + 1]; k++) {
        size_t i = p->index.rows[k];
        const struct tensor_id *id = &plan->weights[i]->id;
        bool calibrated = p->out->rows[i].calibrated;
        if (id->part == NAME_INPUT_SCALE)
            continue;
        if (id->expert >= 0) {
            p->experts[id->expert][id->role - ROLE_EXPERT_GATE] = (uint32_t)i + 1;
            p->any_expert |= calibrated;
        } else if (calibrated) {
            p->linear[id->role] = (uint32_t)i + 1;
        }
    }
}

static bool any_linear(const struct pipeline *p)
{
    for (enum role role = 0; role < ROLE_COUNT; role++)
        if (p->linear[role] > 0)
            return true;
    return false;
}

static bool sync_shards(struct pipeline *p, struct err *e)
{
    for (size_t i = 0; i < p->out->shard_count; i++)
        if (p->files[i].open && !output_sync(&p->files[i].file, e))
            return false;
    return true;
}

static void journal_rows(struct pipeline *p, uint64_t layer)
{
    for (size_t k = p->index.begin[layer]; k < p->index.begin[layer + 1]; k++) {
        size_t i = p->index.rows[k];
        if (p->out->rows[i].calibrated)
            journal_calibrated(p->journal, i, &p->result->calibrated[i], &p->result->errors[i]);
    }
    journal_layer(p->journal, layer);
}

/* What these layers made is on disk before the journal says so, and the journal says so before what led here goes.
 * Nothing comes behind an MTP layer: after is NULL. */
static bool save_layers(struct pipeline *p, const struct stream *after, struct err *e)
{
    uint64_t before = p->journal->layers_done;

    if (!sync_shards(p, e) || (after && !stream_save(stream_path(p, p->layer), after, e)))
        return false;
    for (uint64_t layer = before; layer <= p->layer; layer++)
        journal_rows(p, layer);
    if (!journal_flush(p->journal, e))
        return false;
    if (before > 0)
        drop_stream(p, before - 1);
    p->saved_at = now_seconds();
    return true;
}

/* What is known when all tokens have gone through the layer. */
static void note_most(struct pipeline *p)
{
    for (size_t k = p->index.begin[p->layer]; k < p->index.begin[p->layer + 1]; k++) {
        size_t i = p->index.rows[k];
        const struct tensor_id *id = &p->plan->weights[i]->id;
        struct calibrated_result *c = &p->result->calibrated[i];
        if (!p->out->rows[i].calibrated)
            continue;
        c->input_most = id->role == ROLE_EXPERT_DOWN ? p->most[id->expert].act : pipeline_input_most(p, id->role);
        c->output_most = id->role == ROLE_EXPERT_DOWN ? p->most[id->expert].out : 0;
    }
}

/* A save costs a sync and a file as large as the hidden state, so that short layers share one. */
static bool finish_layer(struct pipeline *p, const struct stream *after, struct err *e)
{
    bool last = p->layer + 1 >= p->plan->source->arch.layers;

    note_most(p);
    if (!pipeline_put_static(p, e))
        return false;
    if (!last && now_seconds() - p->saved_at < (double)p->options->save_seconds)
        return true;
    return save_layers(p, after, e);
}

static struct observer begin_layer(struct pipeline *p, uint64_t layer, uint64_t tokens)
{
    char label[32];

    pipeline_list_layer(p, layer, tokens);
    pipeline_flows_want(p);
    snprintf(label, sizeof label, "layer %llu", (unsigned long long)layer);
    progress_label(p->progress, label);
    return (struct observer){
        .ctx = p,
        .input = pipeline_on_input,
        .linear = any_linear(p) ? pipeline_on_linear : NULL,
        .expert = p->any_expert ? pipeline_on_expert : NULL,
        .made = p->any_expert ? pipeline_on_made : NULL,
    };
}

static bool run_layer(struct pipeline *p, uint64_t layer, const struct stream *in, struct stream *out, struct err *e)
{
    struct observer o = begin_layer(p, layer, p->options->batch->tokens);
    bool ok =
        forward_layer(p->forward, layer, in, out, &o, e) && pipeline_silent_experts(p, e) && finish_layer(p, out, e);

    pipeline_flows_release(p);
    return ok;
}

/* Its inputs come from the last hidden state and the next token's embedding. */
static bool run_mtp(struct pipeline *p, const struct stream *last, struct err *e)
{
    struct mtp_batch m = {0};
    struct stream out = {0};

    mtp_batch_init(&m, p->options->batch);
    struct observer o = begin_layer(p, p->plan->source->arch.layers, m.batch.tokens);
    bool ok = (m.batch.tokens == 0 || forward_mtp(p->forward, &m, last, &out, &o, e)) &&
              pipeline_silent_experts(p, e) && finish_layer(p, NULL, e);
    pipeline_flows_release(p);
    stream_close(&out);
    mtp_batch_release(&m);
    return ok;
}

/* ---- the whole ---- */

static bool any_calibrated(const struct pipeline *p, uint64_t layer)
{
    for (size_t k = p->index.begin[layer]; k < p->index.begin[layer + 1]; k++)
        if (p->out->rows[p->index.rows[k]].calibrated)
            return true;
    return false;
}

static bool enter(struct pipeline *p, uint64_t first, struct stream *in, struct err *e)
{
    return first == 0 ? forward_embed(p->forward, in, e) : stream_load(stream_path(p, first - 1), in, e);
}

/* A signal came in this layer; in: what goes through it. */
static void save_stopped(struct pipeline *p, uint64_t layer, const struct stream *in)
{
    struct err ignored = {0};

    p->layer = layer - 1;
    if (layer > p->journal->layers_done && !save_layers(p, in, &ignored))
        log_verbose("what was done could not be made durable: %s", ignored.text);
}

static bool run_layers(struct pipeline *p, struct err *e)
{
    uint64_t layers = p->plan->source->arch.layers, first = p->journal->layers_done;
    bool mtp = first <= layers && any_calibrated(p, layers);
    struct stream streams[2] = {{0}, {0}};
    bool ok = true;

    if (first >= layers + mtp)
        return true;
    ok = forward_stream(p->forward, &streams[0], e) && forward_stream(p->forward, &streams[1], e) &&
         enter(p, first, &streams[first % 2], e);
    for (uint64_t layer = first; layer < layers && ok; layer++) {
        if (signal_cancelled())
            ok = err_set(e, ERR_CANCELLED, "interrupted");
        else
            ok = run_layer(p, layer, &streams[layer % 2], &streams[(layer + 1) % 2], e);
        if (!ok && e->code == ERR_CANCELLED)
            save_stopped(p, layer, &streams[layer % 2]);
    }
    if (ok && mtp)
        ok = run_mtp(p, &streams[layers % 2], e);
    stream_close(&streams[0]);
    stream_close(&streams[1]);
    return ok;
}

/* The plain weights of these shards were written by run_plan, the others here: now each is whole. */
static bool finish_shards(struct pipeline *p, struct err *e)
{
    for (uint32_t i = 0; i < p->out->shard_count; i++) {
        const struct plan_shard *s = &p->out->shards[i];
        if (!s->calibrated || p->result->sha256[i][0] != '\0')
            continue;
        struct shard_file *f = open_shard(p, i, e);
        if (!f)
            return false;
        shard_file_hash(f, 0, NULL, s->bytes - s->prefix.bytes - s->suffix.bytes);
        if (!shard_file_commit(f, e))
            return false;
        memcpy(p->result->sha256[i], f->sha256, HASH_HEX_BYTES);
        journal_shard(p->journal, p->output, i, f->sha256);
        if (!journal_flush(p->journal, e))
            return false;
    }
    drop_stream(p, p->plan->source->arch.layers - 1); /* the last layer is always saved */
    return true;
}

static bool open_forward(struct pipeline *p, const struct pipeline_options *o, struct err *e)
{
    uint64_t flows = pipeline_flows_need(p);

    pipeline_choose_threads(p, flows);
    struct forward_options f = {.threads = p->threads,
                                .memory_bytes = o->memory_bytes,
                                .caller_bytes = pipeline_room_bytes(p) * p->threads + flows,
                                .scratch_dir = p->stage ? p->stage->dir : NULL};
    return forward_open(&p->forward, p->plan->source, &f, e);
}

static bool is_whole(const struct pipeline *p)
{
    for (size_t i = 0; i < p->out->shard_count; i++)
        if (p->out->shards[i].calibrated && p->result->sha256[i][0] == '\0')
            return false;
    return true;
}

static void pipeline_init(struct pipeline *p, struct plan *plan, size_t output, const struct pipeline_options *o)
{
    *p = (struct pipeline){
        .plan = plan,
        .output = output,
        .out = &plan->outputs[output],
        .options = o,
        .kernel = kernel_get(),
        .files = mem_alloc(plan->outputs[output].shard_count * sizeof *p->files),
        .experts = mem_alloc((plan->source->arch.experts + 1) * sizeof *p->experts),
        .most = mem_alloc((plan->source->arch.experts + 1) * sizeof *p->most),
    };
    pthread_mutex_init(&p->lock, NULL);
    layer_rows_make(&p->index, plan, plan->source->arch.layers + 1);
}

static void pipeline_release(struct pipeline *p)
{
    pipeline_rooms_release(p);
    forward_close(p->forward);
    for (size_t i = 0; i < p->out->shard_count; i++)
        shard_file_release(&p->files[i]);
    layer_rows_release(&p->index);
    flow_scratch_release(&p->scratch);
    mem_free(p->held);
    mem_free(p->experts);
    mem_free(p->most);
    mem_free(p->files);
    pthread_mutex_destroy(&p->lock);
}

bool pipeline_least_bytes(struct plan *plan, size_t output, const struct pipeline_options *o, uint64_t *bytes,
                          struct err *e)
{
    struct pipeline_options least = *o;
    struct pipeline p;

    least.threads = 1;
    pipeline_init(&p, plan, output, &least);
    bool ok = open_forward(&p, &least, e);
    if (ok)
        *bytes = forward_memory_bytes(p.forward, o->batch);
    pipeline_release(&p);
    return ok;
}

unsigned pipeline_threads(struct plan *plan, size_t output, const struct pipeline_options *o)
{
    struct pipeline p;

    pipeline_init(&p, plan, output, o);
    pipeline_choose_threads(&p, pipeline_flows_need(&p));
    unsigned threads = p.threads;
    pipeline_release(&p);
    return threads;
}

bool pipeline_run(struct plan *plan, size_t output, const struct pipeline_options *o, struct stage *stage,
                  struct journal *journal, struct run_result *result, struct progress *progress, struct err *e)
{
    struct pipeline p;

    pipeline_init(&p, plan, output, o);
    p.stage = stage;
    p.journal = journal;
    p.result = result;
    p.progress = progress;
    p.saved_at = now_seconds();
    bool ok = is_whole(&p);
    if (!ok && open_forward(&p, o, e) && forward_begin(p.forward, o->batch, e)) {
        pipeline_rooms_make(&p);
        ok = run_layers(&p, e) && finish_shards(&p, e);
    }
    pipeline_release(&p);
    return ok;
}
