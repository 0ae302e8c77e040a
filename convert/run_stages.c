/* The stages of a run: read, work, write, hash, sync (run_sync.c); and beside work and writing, hash the source. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "convert/run_private.h"
#include "formats/base/progress.h"
#include "quant/finite.h"
#include "quant/transform.h"

/* Bytes of a batch: half of what a kill can cost, against syncs that find little to do. */
#define BATCH_BYTES (512u << 20)

struct worker {
    struct line *line;
    unsigned index;
};

/* ---- moving along ---- */

void run_fail(struct line *l, size_t job, const struct err *e)
{
    pthread_mutex_lock(&l->lock);
    if (job < l->limit) {
        l->limit = job;
        l->err = *e;
    }
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
}

static void line_advance(struct line *l, size_t *counter)
{
    pthread_mutex_lock(&l->lock);
    ++*counter;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
}

/* ---- read ---- */

static bool read_job(struct line *l, size_t number, struct err *e)
{
    struct plan *p = l->plan;
    struct slot *slot = &l->slots[number % l->slot_count];
    struct plan_slice in[PART_COUNT];
    size_t at = 0;

    plan_job_in(p, &p->jobs[number], in);
    for (enum part part = 0; part < PART_COUNT; part++) {
        slot->from.part[part] = NULL;
        if (!in[part].tensor)
            continue;
        slot->from.part[part] = slot->in + at;
        if (!plan_read(p, &in[part], slot->in + at, e))
            return false;
        at += (in[part].bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
        progress_add(l->progress, in[part].bytes);
    }
    return true;
}

static bool reader_may_go(const struct line *l)
{
    size_t done = l->source.hash && l->sourced < l->hashed ? l->sourced : l->hashed;

    return l->read < done + l->slot_count;
}

static void *reader_main(void *arg)
{
    struct line *l = arg;

    for (;;) {
        struct err e = {0};
        pthread_mutex_lock(&l->lock);
        while (l->read < l->limit && !reader_may_go(l))
            pthread_cond_wait(&l->moved, &l->lock);
        size_t job = l->read;
        bool end = job >= l->limit;
        pthread_mutex_unlock(&l->lock);
        if (end)
            return NULL;
        if (signal_cancelled())
            err_set(&e, ERR_CANCELLED, "interrupted");
        if (e.code != ERR_NONE || !read_job(l, job, &e))
            run_fail(l, job, &e);
        else
            line_advance(l, &l->read);
    }
}

/* ---- work ---- */

static void place_outputs(struct line *l, const struct job *job, struct slot *slot, size_t output, size_t *at)
{
    const struct plan_row *row = &l->plan->outputs[output].rows[job->weight];
    struct plan_slice out[PART_COUNT];

    plan_job_out(l->plan, job, output, out);
    for (enum part part = 0; part < PART_COUNT; part++) {
        slot->to[output].part[part] = NULL;
        if (!out[part].tensor)
            continue;
        if (row->scheme.method == METHOD_COPY) {
            slot->to[output].part[part] = slot->from.part[part];
            continue;
        }
        slot->to[output].part[part] = slot->out + *at;
        *at += (out[part].bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    }
}

/* Copied, and known to be numbers of the model. */
static bool has_copied_numbers(const struct plan *p, const struct job *job)
{
    if (p->copies_unseen || p->weights[job->weight]->id.role == ROLE_UNKNOWN)
        return false;
    for (size_t o = 0; o < p->output_count; o++) {
        const struct plan_row *row = &p->outputs[o].rows[job->weight];
        if (row->scheme.method == METHOD_COPY && row->parts[PART_CODES].dtype != DTYPE_NONE)
            return true;
    }
    return false;
}

/* A transform refuses what is not finite when it decodes; a copy has to look. */
static bool check_copied(const struct plan *p, const struct job *job, const struct slices *from, struct err *e)
{
    struct plan_slice in[PART_COUNT];

    plan_job_in(p, job, in);
    for (enum part part = 0; part < PART_COUNT; part++) {
        const struct tensor *t = in[part].tensor;
        uint64_t elems = t ? tensor_elems(t) : 0, elem_bytes = elems > 0 ? t->bytes / elems : 0;
        size_t bad = 0;
        if (elem_bytes == 0 ||
            finite_check(kernel_get(), t->dtype, from->part[part], in[part].bytes / elem_bytes, &bad))
            continue;
        uint64_t at = in[part].offset / elem_bytes + bad, cols = t->rank > 0 ? t->dims[t->rank - 1] : 1;
        return err_set(e, ERR_FORMAT,
                       "shard '%s', tensor '%s': value at row %" PRIu64 ", column %" PRIu64 " is not finite",
                       p->source->checkpoint.shards[t->shard].name, t->name, at / cols, at % cols);
    }
    return true;
}

static bool work_job(struct line *l, size_t number, void *scratch, struct err *e)
{
    const struct plan *p = l->plan;
    const struct job *job = &p->jobs[number];
    const struct weight *w = p->weights[job->weight];
    struct slot *slot = &l->slots[number % l->slot_count];
    size_t at = 0;

    if (has_copied_numbers(p, job) && !check_copied(p, job, &slot->from, e))
        return false;
    for (size_t o = 0; o < p->output_count; o++) {
        const struct plan_row *row = &p->outputs[o].rows[job->weight];
        struct transform t = {.kernel = kernel_get(), .from = w->stored, .to = row->scheme, .cols = w->cols};

        slot->errors[o] = (struct weight_error){0};
        place_outputs(l, job, slot, o, &at);
        if (row->scheme.method == METHOD_COPY || row->parts[PART_CODES].dtype == DTYPE_NONE || row->calibrated)
            continue;
        uint8_t *rest = (uint8_t *)scratch + (row->measured ? transform_scratch_bytes(&t) : 0);
        if (row->measured && !run_measured(l, o, job->weight, &t, &slot->to[o], rest, e))
            return err_in(e, "'%s'", w->name);
        if (!transform_run(&t, job->row, job->count, w->rows, &slot->from, &slot->to[o], scratch, &slot->errors[o], e))
            return err_in(e, "shard '%s', tensor '%s'", p->source->checkpoint.shards[w->parts[PART_CODES]->shard].name,
                          w->parts[PART_CODES]->name);
    }
    return true;
}

static void *worker_main(void *arg)
{
    struct worker *me = arg;
    struct line *l = me->line;

    for (;;) {
        struct err e = {0};
        pthread_mutex_lock(&l->lock);
        while (l->taken < l->limit && l->taken >= l->read)
            pthread_cond_wait(&l->moved, &l->lock);
        size_t job = l->taken;
        bool end = job >= l->limit;
        if (!end)
            l->taken++;
        pthread_mutex_unlock(&l->lock);
        if (end)
            return NULL;
        if (signal_cancelled()) /* what is read ahead can be seconds of work */
            err_set(&e, ERR_CANCELLED, "interrupted");
        if (e.code != ERR_NONE || !work_job(l, job, l->scratch[me->index], &e))
            run_fail(l, job, &e);
        else {
            pthread_mutex_lock(&l->lock);
            l->worked[job % l->slot_count] = job + 1;
            pthread_cond_broadcast(&l->moved);
            pthread_mutex_unlock(&l->lock);
        }
    }
}

/* ---- write and hash ---- */

static bool write_job(struct line *l, size_t number, struct err *e)
{
    const struct plan *p = l->plan;
    const struct job *job = &p->jobs[number];
    struct slot *slot = &l->slots[number % l->slot_count];
    struct plan_slice out[PART_COUNT];

    for (size_t o = 0; o < p->output_count; o++) {
        weight_error_add(&l->results[o].errors[job->weight], &slot->errors[o]);
        plan_job_out(p, job, o, out);
        for (enum part part = 0; part < PART_COUNT; part++) {
            const struct tensor *t = out[part].tensor;
            if (!t || out[part].bytes == 0)
                continue;
            if (!run_open_shard(l, o, t->shard, false, e))
                return false;
            if (!shard_file_write(&l->files[o][t->shard], t->offset + out[part].offset, slot->to[o].part[part],
                                  out[part].bytes, e))
                return false;
        }
    }
    return true;
}

static void hash_job(struct line *l, size_t number)
{
    const struct plan *p = l->plan;
    const struct job *job = &p->jobs[number];
    struct slot *slot = &l->slots[number % l->slot_count];
    struct plan_slice out[PART_COUNT];
    bool finished = false;

    for (size_t o = 0; o < p->output_count; o++) {
        plan_job_out(p, job, o, out);
        for (enum part part = 0; part < PART_COUNT; part++) {
            const struct tensor *t = out[part].tensor;
            if (!t || out[part].bytes == 0)
                continue;
            struct shard_file *f = &l->files[o][t->shard];
            shard_file_hash(f, t->offset + out[part].offset, slot->to[o].part[part], out[part].bytes);
            progress_add(l->progress, out[part].bytes);
            l->unsynced_bytes += out[part].bytes;
            finished |= shard_file_hashed(f);
        }
    }
    journal_job(l->journal, p, number, slot->errors);
    /* What is counted on to make room is waited for (space.h). */
    if (finished || l->unsynced_bytes >= BATCH_BYTES)
        run_hand_on(l, finished && l->source.remove);
}

static void *writer_main(void *arg)
{
    struct line *l = arg;

    for (;;) {
        struct err e = {0};
        pthread_mutex_lock(&l->lock);
        while (l->written < l->limit && l->worked[l->written % l->slot_count] != l->written + 1)
            pthread_cond_wait(&l->moved, &l->lock);
        size_t job = l->written;
        bool end = job >= l->limit;
        pthread_mutex_unlock(&l->lock);
        if (end)
            return NULL;
        if (!write_job(l, job, &e))
            run_fail(l, job, &e);
        else
            line_advance(l, &l->written);
    }
}

static void *hasher_main(void *arg)
{
    struct line *l = arg;

    for (;;) {
        pthread_mutex_lock(&l->lock);
        while (l->hashed < l->limit && l->hashed >= l->written)
            pthread_cond_wait(&l->moved, &l->lock);
        size_t job = l->hashed;
        bool end = job >= l->limit;
        l->all_handed = end;
        if (end)
            pthread_cond_broadcast(&l->moved);
        pthread_mutex_unlock(&l->lock);
        if (end)
            return NULL;
        hash_job(l, job);
        line_advance(l, &l->hashed);
    }
}

static void *source_hasher_main(void *arg)
{
    struct line *l = arg;

    for (;;) {
        struct err e = {0};
        pthread_mutex_lock(&l->lock);
        while (l->sourced < l->limit && l->sourced >= l->read)
            pthread_cond_wait(&l->moved, &l->lock);
        size_t job = l->sourced;
        bool end = job >= l->limit;
        pthread_mutex_unlock(&l->lock);
        if (end)
            return NULL;
        if (!run_source_hash(&l->source, job, &l->slots[job % l->slot_count].from, &e))
            run_fail(l, job, &e);
        else
            line_advance(l, &l->sourced);
    }
}

/* ---- threads ---- */

static void start_thread(pthread_t *thread, void *(*main)(void *), void *arg)
{
    if (pthread_create(thread, NULL, main, arg) != 0)
        abort(); /* as for memory: a handful of threads is a size we chose */
}

void run_stages(struct line *l, unsigned threads)
{
    void *(*const stages[])(void *) = {reader_main, writer_main, hasher_main, run_syncer_main, source_hasher_main};
    size_t stage_count = l->source.hash ? 5 : 4;
    pthread_t stage_threads[5];
    pthread_t *worker_threads = mem_alloc(threads * sizeof *worker_threads);
    struct worker *workers = mem_alloc(threads * sizeof *workers);

    for (size_t i = 0; i < stage_count; i++)
        start_thread(&stage_threads[i], stages[i], l);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){.line = l, .index = i};
        start_thread(&worker_threads[i], worker_main, &workers[i]);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(worker_threads[i], NULL);
    for (size_t i = 0; i < stage_count; i++)
        pthread_join(stage_threads[i], NULL);
    mem_free(workers);
    mem_free(worker_threads);
}
