#include "convert/run.h"

#include <stdlib.h>
#include <string.h>

#include "convert/measured.h"
#include "convert/run_private.h"
#include "formats/base/log.h"
#include "formats/base/pool.h"

/* Stacks, descriptors, OpenSSL, the C library: what a process has beside its buffers. */
#define FIXED_BYTES (24u << 20)
/* Jobs in flight beside those being worked on: one read ahead, one being written, one being hashed. */
#define SLOTS_AHEAD 3u

/* ---- shards ---- */

bool run_open_shard(struct line *l, size_t output, uint32_t shard, bool resume, struct err *e)
{
    struct shard_file *f = &l->files[output][shard];
    const struct plan_shard *s = &l->plan->outputs[output].shards[shard];

    if (f->open)
        return true;
    f->hash_later = s->calibrated;
    return shard_file_open(f, stage_path(&l->stages[output], s->name), s->bytes, &s->prefix, &s->suffix, resume, e);
}

/* ---- before and after ---- */

bool run_size(const struct plan *p, const struct run_options *o, struct run_size *size, struct err *e)
{
    unsigned threads = o->threads > 0 ? o->threads : pool_cpu_count();
    uint64_t tables =
        p->arena.used_bytes + p->source->checkpoint.arena.used_bytes + p->source->weights.arena.used_bytes;
    uint64_t fixed = FIXED_BYTES + tables;
    uint64_t slot = p->in_bytes_max + p->out_bytes_max;
    uint64_t least = fixed + p->scratch_bytes_max + slot;

    *size = (struct run_size){.slot_bytes = slot, .scratch_bytes = p->scratch_bytes_max, .fixed_bytes = fixed};
    if (o->memory_bytes > 0 && least > o->memory_bytes)
        return err_memory(e, o->memory_bytes, least, "one job needs");
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
    mem_free(l->partners);
    run_source_release(&l->source);
    mem_free(l->scratch);
    mem_free(l->worked);
    mem_free(l->slots);
    pthread_cond_destroy(&l->moved);
    pthread_mutex_destroy(&l->lock);
}

/* Shards that hold nothing but header and constants are not touched by any job. Those that the calibrated run adds to
 * stay partial. */
static bool finish_untouched(struct line *l, struct err *e)
{
    if (!run_source_finish(&l->source, e) || !run_sync(l, e))
        return false;
    for (size_t o = 0; o < l->plan->output_count; o++)
        for (uint32_t s = 0; s < l->plan->outputs[o].shard_count; s++) {
            if (l->files[o][s].done || l->plan->outputs[o].shards[s].calibrated)
                continue;
            if (!run_open_shard(l, o, s, false, e) || !run_finish_shard(l, o, s, e))
                return false;
        }
    return run_sync(l, e);
}

/* What statistics say is known before the run. */
static struct calibrated_result *new_calibrated(struct plan *p, const struct plan_output *o)
{
    struct calibrated_result *all = arena_array(&p->arena, p->weight_count, sizeof *all);

    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].measured)
            all[i] = o->rows[i].measured->about;
    return all;
}

struct run_result *run_results_new(struct plan *p)
{
    struct run_result *results = arena_array(&p->arena, p->output_count, sizeof *results);
    void *source = arena_array(&p->arena, p->source->checkpoint.shard_count, HASH_HEX_BYTES);
    float *most = arena_array(&p->arena, p->weight_count, sizeof *most);

    for (size_t i = 0; i < p->weight_count; i++)
        most[i] = -1;

    for (size_t o = 0; o < p->output_count; o++) {
        results[o].errors = arena_array(&p->arena, p->weight_count, sizeof *results[o].errors);
        if (plan_is_fed(p, &p->outputs[o]))
            results[o].calibrated = new_calibrated(p, &p->outputs[o]);
        results[o].most = most;
        results[o].sha256 = arena_array(&p->arena, p->outputs[o].shard_count, sizeof *results[o].sha256);
        results[o].source_sha256 = source;
    }
    return results;
}

/* What is whole stays; its records are worth a last sync, whatever stopped the run. But not after a failed one: Linux
 * reports a lost page once, and calls the next sync a success. */
static void save_state(struct line *l)
{
    struct err ignored = {0};

    if (!l->sync_failed && !run_sync(l, &ignored))
        log_verbose("the journal could not be brought up to date: %s", ignored.text);
}

bool run_plan(struct plan *p, const struct run_options *o, struct stage *stages, struct journal *journal,
              struct run_result *results, struct progress *progress, struct err *e)
{
    struct line l = {
        .plan = p,
        .stages = stages,
        .journal = journal,
        .results = results,
        .progress = progress,
        .limit = p->job_count,
    };
    struct run_size size = {0};
    bool ok = false;

    if (!run_size(p, o, &size, e))
        return false;
    pthread_mutex_init(&l.lock, NULL);
    pthread_cond_init(&l.moved, NULL);
    line_allocate(&l, &size);
    run_source_init(&l.source, p, o->hash_source, o->delete_source, results[0].source_sha256);
    if (!run_source_check(&l.source, e) || !run_find_most(&l, size.threads, e) || !run_resume(&l, e))
        goto done;
    run_stages(&l, size.threads);
    if (l.err.code != ERR_NONE) {
        *e = l.err;
        save_state(&l);
        goto done;
    }
    ok = finish_untouched(&l, e);
done:
    line_release(&l, &size);
    return ok;
}
