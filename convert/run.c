/* One ring of slots; job j lives in slot j % slot_count from the moment it is read until it is hashed. Four
 * counters say how far each stage has come; a stage works on job j when the stage before it is past j, and the
 * reader when slot j is free again. `limit` is the number of jobs to do: a failing job lowers it to its own
 * number, all stages stop there, and a lower-numbered failure still wins. The lock guards the counters, `limit`,
 * `err` and `worked`; data in a slot belongs to the stage that holds its job. */
#include "convert/run.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "convert/shard_file.h"
#include "formats/base/pool.h"
#include "quant/transform.h"

/* Stacks, descriptors, OpenSSL, the C library: what a process has beside its buffers. */
#define FIXED_BYTES (24u << 20)
/* Jobs in flight beside those being worked on: one read ahead, one being written, one being hashed. */
#define SLOTS_AHEAD 3u

struct slot {
    uint8_t *in, *out;
    struct slices from;
    struct slices *to;            /* one per output */
    struct weight_error *errors;  /* one per output */
};

struct line {
    struct plan *plan;
    struct stage *stages;
    struct run_result *results;
    struct progress *progress;
    struct slot *slots;
    size_t slot_count;
    uint8_t **scratch;         /* one per worker */
    struct shard_file **files; /* [output][shard] */

    pthread_mutex_t lock;
    pthread_cond_t moved;
    size_t read, taken, written, hashed; /* jobs past each stage; for `taken`, handed to a worker */
    size_t *worked;                      /* per slot: number of the job done in it, plus one */
    size_t limit;
    struct err err; /* of job `limit`, when that is less than the plan's count */
};

struct worker {
    struct line *line;
    unsigned index;
};

/* ---- moving along ---- */

static void line_fail(struct line *l, size_t job, const struct err *e)
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
        if (!checkpoint_read(&p->source->checkpoint, in[part].tensor, in[part].offset, slot->in + at, in[part].bytes, e))
            return false;
        at += (in[part].bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
        progress_add(l->progress, in[part].bytes);
    }
    return true;
}

static bool reader_may_go(const struct line *l)
{
    return l->read < l->hashed + l->slot_count;
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
            line_fail(l, job, &e);
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

static bool work_job(struct line *l, size_t number, void *scratch, struct err *e)
{
    const struct plan *p = l->plan;
    const struct job *job = &p->jobs[number];
    const struct weight *w = p->weights[job->weight];
    struct slot *slot = &l->slots[number % l->slot_count];
    size_t at = 0;

    for (size_t o = 0; o < p->output_count; o++) {
        const struct plan_row *row = &p->outputs[o].rows[job->weight];
        struct transform t = {.kernel = kernel_get(), .from = w->stored, .to = row->scheme, .cols = w->cols};

        slot->errors[o] = (struct weight_error){0};
        place_outputs(l, job, slot, o, &at);
        if (row->scheme.method == METHOD_COPY || row->parts[PART_CODES].dtype == DTYPE_NONE)
            continue;
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
        if (!work_job(l, job, l->scratch[me->index], &e))
            line_fail(l, job, &e);
        else {
            pthread_mutex_lock(&l->lock);
            l->worked[job % l->slot_count] = job + 1;
            pthread_cond_broadcast(&l->moved);
            pthread_mutex_unlock(&l->lock);
        }
    }
}

/* ---- write and hash ---- */

static bool open_shard(struct line *l, size_t output, uint32_t shard, struct err *e)
{
    struct shard_file *f = &l->files[output][shard];
    const struct plan_shard *s = &l->plan->outputs[output].shards[shard];

    if (f->open)
        return true;
    return shard_file_open(f, stage_path(&l->stages[output], s->name), s->bytes, s->prefix.data, s->prefix.bytes, e);
}

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
            if (!open_shard(l, o, t->shard, e))
                return false;
            if (!shard_file_write(&l->files[o][t->shard], t->offset + out[part].offset, slot->to[o].part[part],
                                  out[part].bytes, e))
                return false;
        }
    }
    return true;
}

static bool finish_shard(struct line *l, size_t output, uint32_t shard, struct err *e)
{
    struct shard_file *f = &l->files[output][shard];

    if (!shard_file_commit(f, e))
        return false;
    memcpy(l->results[output].sha256[shard], f->sha256, HASH_HEX_BYTES);
    return true;
}

static bool hash_job(struct line *l, size_t number, struct err *e)
{
    const struct plan *p = l->plan;
    const struct job *job = &p->jobs[number];
    struct slot *slot = &l->slots[number % l->slot_count];
    struct plan_slice out[PART_COUNT];

    for (size_t o = 0; o < p->output_count; o++) {
        plan_job_out(p, job, o, out);
        for (enum part part = 0; part < PART_COUNT; part++) {
            const struct tensor *t = out[part].tensor;
            if (!t || out[part].bytes == 0)
                continue;
            struct shard_file *f = &l->files[o][t->shard];
            shard_file_hash(f, t->offset + out[part].offset, slot->to[o].part[part], out[part].bytes);
            progress_add(l->progress, out[part].bytes);
            if (f->open && shard_file_complete(f) && !finish_shard(l, o, t->shard, e))
                return false;
        }
    }
    return true;
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
            line_fail(l, job, &e);
        else
            line_advance(l, &l->written);
    }
}

static void *hasher_main(void *arg)
{
    struct line *l = arg;

    for (;;) {
        struct err e = {0};
        pthread_mutex_lock(&l->lock);
        while (l->hashed < l->limit && l->hashed >= l->written)
            pthread_cond_wait(&l->moved, &l->lock);
        size_t job = l->hashed;
        bool end = job >= l->limit;
        pthread_mutex_unlock(&l->lock);
        if (end)
            return NULL;
        if (!hash_job(l, job, &e))
            line_fail(l, job, &e);
        else
            line_advance(l, &l->hashed);
    }
}

/* ---- before and after ---- */

bool run_size(const struct plan *p, const struct run_options *o, struct run_size *size, struct err *e)
{
    unsigned threads = o->threads > 0 ? o->threads : pool_cpu_count();
    uint64_t tables = p->arena.used_bytes + p->source->checkpoint.arena.used_bytes + p->source->weights.arena.used_bytes;
    uint64_t fixed = FIXED_BYTES + tables;
    uint64_t slot = p->in_bytes_max + p->out_bytes_max;
    uint64_t least = fixed + p->scratch_bytes_max + slot;

    *size = (struct run_size){.slot_bytes = slot, .scratch_bytes = p->scratch_bytes_max, .fixed_bytes = fixed};
    if (o->memory_bytes > 0 && least > o->memory_bytes)
        return err_set(e, ERR_LIMIT, "--memory %llu is less than the %llu bytes that one job needs",
                       (unsigned long long)o->memory_bytes, (unsigned long long)least);
    size->threads = threads;
    size->slot_count = threads + SLOTS_AHEAD;
    for (;;) {
        size->total_bytes = fixed + size->threads * p->scratch_bytes_max + size->slot_count * slot;
        if (o->memory_bytes == 0 || size->total_bytes <= o->memory_bytes)
            return true;
        if (size->slot_count > 1)
            size->slot_count--;
        if (size->threads > size->slot_count)
            size->threads = (unsigned)size->slot_count;
    }
}

static void line_allocate(struct line *l, const struct run_size *size)
{
    struct plan *p = l->plan;

    l->slot_count = size->slot_count;
    l->slots = mem_alloc(size->slot_count * sizeof *l->slots);
    l->worked = mem_alloc(size->slot_count * sizeof *l->worked);
    for (size_t i = 0; i < size->slot_count; i++) {
        struct slot *s = &l->slots[i];
        s->in = mem_aligned(p->in_bytes_max + 1);
        s->out = mem_aligned(p->out_bytes_max + 1);
        s->to = mem_alloc(p->output_count * sizeof *s->to);
        s->errors = mem_alloc(p->output_count * sizeof *s->errors);
    }
    l->scratch = mem_alloc(size->threads * sizeof *l->scratch);
    for (unsigned i = 0; i < size->threads; i++)
        l->scratch[i] = mem_aligned(p->scratch_bytes_max + 1);
    l->files = mem_alloc(p->output_count * sizeof *l->files);
    for (size_t o = 0; o < p->output_count; o++) {
        l->files[o] = mem_alloc(p->outputs[o].shard_count * sizeof *l->files[o]);
        l->results[o].errors = arena_array(&p->arena, p->weight_count, sizeof *l->results[o].errors);
        l->results[o].sha256 = arena_array(&p->arena, p->outputs[o].shard_count, sizeof *l->results[o].sha256);
    }
}

static void line_release(struct line *l, const struct run_size *size)
{
    for (size_t i = 0; i < size->slot_count; i++) {
        mem_free(l->slots[i].in);
        mem_free(l->slots[i].out);
        mem_free(l->slots[i].to);
        mem_free(l->slots[i].errors);
    }
    for (unsigned i = 0; i < size->threads; i++)
        mem_free(l->scratch[i]);
    for (size_t o = 0; o < l->plan->output_count; o++) {
        for (size_t s = 0; s < l->plan->outputs[o].shard_count; s++)
            shard_file_release(&l->files[o][s]);
        mem_free(l->files[o]);
    }
    mem_free(l->files);
    mem_free(l->scratch);
    mem_free(l->worked);
    mem_free(l->slots);
    pthread_cond_destroy(&l->moved);
    pthread_mutex_destroy(&l->lock);
}

static void start_thread(pthread_t *thread, void *(*main)(void *), void *arg)
{
    if (pthread_create(thread, NULL, main, arg) != 0)
        abort(); /* as for memory: a handful of threads is a size we chose */
}

static void run_threads(struct line *l, unsigned threads)
{
    void *(*const stages[])(void *) = {reader_main, writer_main, hasher_main};
    pthread_t stage_threads[3];
    pthread_t *worker_threads = mem_alloc(threads * sizeof *worker_threads);
    struct worker *workers = mem_alloc(threads * sizeof *workers);

    for (size_t i = 0; i < 3; i++)
        start_thread(&stage_threads[i], stages[i], l);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){.line = l, .index = i};
        start_thread(&worker_threads[i], worker_main, &workers[i]);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(worker_threads[i], NULL);
    for (size_t i = 0; i < 3; i++)
        pthread_join(stage_threads[i], NULL);
    mem_free(workers);
    mem_free(worker_threads);
}

/* Shards that hold nothing but header and constants are not touched by any job. */
static bool finish_untouched(struct line *l, struct err *e)
{
    for (size_t o = 0; o < l->plan->output_count; o++)
        for (uint32_t s = 0; s < l->plan->outputs[o].shard_count; s++) {
            if (l->files[o][s].done)
                continue;
            if (!open_shard(l, o, s, e) || !finish_shard(l, o, s, e))
                return false;
        }
    return true;
}

bool run_plan(struct plan *p, const struct run_options *o, struct stage *stages, struct run_result *results,
              struct progress *progress, struct err *e)
{
    struct line l = {.plan = p, .stages = stages, .results = results, .progress = progress, .limit = p->job_count};
    struct run_size size = {0};
    bool ok = false;

    if (!run_size(p, o, &size, e))
        return false;
    pthread_mutex_init(&l.lock, NULL);
    pthread_cond_init(&l.moved, NULL);
    line_allocate(&l, &size);
    run_threads(&l, size.threads);
    if (l.err.code != ERR_NONE) {
        *e = l.err;
        goto done;
    }
    ok = finish_untouched(&l, e);
done:
    line_release(&l, &size);
    return ok;
}
