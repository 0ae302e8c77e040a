#include "convert/space.h"

#include <inttypes.h>

#include "convert/stage.h"
#include "formats/base/file.h"

/* File systems keep some blocks for themselves, and the index and quern.json grow with the number of tensors. */
#define SPARE_BYTES            (16u << 20)
#define SPARE_BYTES_PER_WEIGHT 1024u

/* Whose room is being counted: outputs and source shards on one file system. */
struct room {
    const struct plan *plan;
    bool *shares;       /* per output */
    bool source_shares; /* and its shards go */
    bool **opened;      /* [output][shard]: reserved whole when its first byte is written */
    size_t *last_job;   /* per source shard: the last job that reads it, plus one */
    uint64_t taken, freed, peak;
};

/* Opens the shards that a job writes; true: there was one, so that everything before it is durable soon. */
static bool open_shards(struct room *r, const struct job *job)
{
    const struct plan *p = r->plan;
    bool any = false;

    for (size_t o = 0; o < p->output_count; o++) {
        uint32_t shard = p->outputs[o].rows[job->weight].parts[PART_CODES].shard;
        if (!r->shares[o] || r->opened[o][shard])
            continue;
        r->opened[o][shard] = any = true;
        r->taken += p->outputs[o].shards[shard].bytes;
    }
    return any;
}

/* Room comes back at a sync, which is sure when a shard is finished: a shard's room is counted as free once the next
 * output shard but one begins. */
static void free_shards(struct room *r, size_t jobs_durable)
{
    const struct checkpoint *c = &r->plan->source->checkpoint;

    for (size_t i = 0; i < c->shard_count; i++)
        if (r->last_job[i] > 0 && r->last_job[i] <= jobs_durable) {
            r->freed += c->shards[i].removed ? 0 : c->shards[i].bytes - c->shards[i].data_offset;
            r->last_job[i] = 0;
        }
}

static void walk_jobs(struct room *r)
{
    size_t before = 0, now = 0;

    for (size_t j = 0; j < r->plan->job_count; j++) {
        if (open_shards(r, &r->plan->jobs[j])) {
            if (r->source_shares)
                free_shards(r, before);
            before = now;
            now = j;
        }
        if (r->taken > r->freed && r->taken - r->freed > r->peak)
            r->peak = r->taken - r->freed;
    }
}

uint64_t space_peak(const struct plan *p, size_t o, bool delete_source)
{
    struct room r = {.plan = p};

    r.shares = mem_alloc(p->output_count * sizeof *r.shares);
    r.opened = mem_alloc(p->output_count * sizeof *r.opened);
    r.source_shares = delete_source && path_same_device(p->outputs[o].dir, p->source->checkpoint.dir);
    for (size_t k = 0; k < p->output_count; k++) {
        r.shares[k] = path_same_device(p->outputs[o].dir, p->outputs[k].dir);
        r.opened[k] = mem_alloc(p->outputs[k].shard_count * sizeof **r.opened);
    }
    r.last_job = plan_last_jobs(p);
    walk_jobs(&r);
    for (size_t k = 0; k < p->output_count; k++)
        mem_free(r.opened[k]);
    mem_free(r.last_job);
    mem_free(r.opened);
    mem_free(r.shares);
    return r.peak;
}

/* Beside the shards; and what an unfinished run has already. */
static void count_neighbours(const struct plan *p, size_t o, uint64_t *spare_bytes, uint64_t *held_bytes)
{
    for (size_t k = 0; k < p->output_count; k++)
        if (path_same_device(p->outputs[o].dir, p->outputs[k].dir)) {
            *spare_bytes += SPARE_BYTES + p->weight_count * SPARE_BYTES_PER_WEIGHT;
            *held_bytes += stage_held_bytes(p->outputs[k].dir);
        }
}

bool space_check(const struct plan *p, bool delete_source, struct err *e)
{
    for (size_t o = 0; o < p->output_count; o++) {
        uint64_t free_bytes = 0, held = 0, need = space_peak(p, o, delete_source);
        if (stage_is_publishing(p->outputs[o].dir))
            continue; /* all is written, and some of it no more in the stage */
        if (!path_free_bytes(p->outputs[o].dir, &free_bytes, e))
            return false;
        count_neighbours(p, o, &need, &held);
        free_bytes += held;
        if (free_bytes < need)
            return err_set(e, ERR_IO, "not enough room for '%s': %" PRIu64 " bytes needed, %" PRIu64 " free",
                           p->outputs[o].dir, need, free_bytes);
    }
    return true;
}
