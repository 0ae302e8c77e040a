#include "convert/run_source.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (1u << 20)

/* Bytes of a shard that do not come from jobs: its header, scales, dropped tensors. */
struct source_gap {
    uint32_t shard;
    uint64_t offset, bytes;
};

static int compare_gaps(const void *left, const void *right)
{
    const struct source_gap *a = left, *b = right;

    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Jobs bring the codes in file order. Published files have their scales in front of all codes: taken from the jobs,
 * everything between would wait for the last of them. They are small and read once more, as gaps. */
static void mark_read(const struct plan *p, bool *is_read)
{
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct tensor *t = p->weights[i]->parts[PART_CODES];
        if (t && p->weights[i]->rows > 0 && !(p->pieces && p->pieces[i]))
            is_read[t - p->source->checkpoint.tensors] = true;
    }
}

static void list_gaps(struct run_source *s)
{
    const struct checkpoint *c = &s->plan->source->checkpoint;
    bool *is_read = mem_alloc(c->tensor_count + 1);

    mark_read(s->plan, is_read);
    s->gaps = mem_alloc((c->tensor_count + c->shard_count) * sizeof *s->gaps);
    for (uint32_t i = 0; i < c->shard_count; i++)
        s->gaps[s->gap_count++] = (struct source_gap){.shard = i, .bytes = c->shards[i].data_offset};
    for (size_t i = 0; i < c->tensor_count; i++)
        if (!is_read[i] && c->tensors[i].bytes > 0)
            s->gaps[s->gap_count++] =
                (struct source_gap){c->tensors[i].shard, c->tensors[i].offset, c->tensors[i].bytes};
    qsort(s->gaps, s->gap_count, sizeof *s->gaps, compare_gaps);
    s->next_gap = mem_alloc(c->shard_count * sizeof *s->next_gap);
    for (size_t i = s->gap_count; i > 0; i--)
        s->next_gap[s->gaps[i - 1].shard] = i - 1;
    mem_free(is_read);
}

void run_source_init(struct run_source *s, const struct plan *p, bool hash, bool remove, char (*sha256)[HASH_HEX_BYTES])
{
    *s = (struct run_source){.plan = p, .hash = hash, .remove = remove, .sha256 = sha256};
    pthread_mutex_init(&s->lock, NULL);
    s->last_job = plan_last_jobs(p);
    if (!hash)
        return;
    s->recorded = mem_alloc(p->source->checkpoint.shard_count);
    for (size_t i = 0; i < p->source->checkpoint.shard_count; i++)
        s->recorded[i] = sha256[i][0] != '\0';
    s->hashes = mem_alloc(p->source->checkpoint.shard_count * sizeof *s->hashes);
    s->block = mem_aligned(BLOCK_BYTES);
    list_gaps(s);
}

static bool read_gap(struct run_source *s, const struct source_gap *g, struct err *e)
{
    const struct shard *shard = &s->plan->source->checkpoint.shards[g->shard];

    for (uint64_t at = 0; at < g->bytes; at += BLOCK_BYTES) {
        uint64_t left = g->bytes - at;
        size_t bytes = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
        if (!file_read(&shard->file, g->offset + at, s->block, bytes, e))
            return err_in(e, "shard '%s'", shard->name);
        stream_hash_put(&s->hashes[g->shard], g->offset + at, s->block, bytes);
    }
    return true;
}

/* Gaps that the hash stands before; a job's pieces may be behind one. */
static bool fill_gaps(struct run_source *s, uint32_t shard, struct err *e)
{
    struct stream_hash *h = &s->hashes[shard];

    while (s->next_gap[shard] < s->gap_count) {
        const struct source_gap *g = &s->gaps[s->next_gap[shard]];
        if (g->shard != shard || g->offset != h->hashed)
            return true;
        s->next_gap[shard]++;
        if (!read_gap(s, g, e))
            return false;
    }
    return true;
}

static bool is_known(struct run_source *s, size_t shard)
{
    pthread_mutex_lock(&s->lock);
    bool known = s->sha256[shard][0] != '\0';
    pthread_mutex_unlock(&s->lock);
    return known;
}

static bool end_shard(struct run_source *s, uint32_t shard, struct err *e)
{
    const struct shard *source = &s->plan->source->checkpoint.shards[shard];
    char hex[HASH_HEX_BYTES];

    if (!stream_hash_final(&s->hashes[shard], source->file.path, hex, e))
        return err_in(e, "shard '%s'", source->name);
    pthread_mutex_lock(&s->lock);
    memcpy(s->sha256[shard], hex, sizeof hex);
    pthread_mutex_unlock(&s->lock);
    return true;
}

static bool hash_piece(struct run_source *s, const struct plan_slice *in, const void *data, struct err *e)
{
    uint32_t shard = in->tensor->shard;
    struct stream_hash *h = &s->hashes[shard];

    if (in->bytes == 0 || is_known(s, shard))
        return true;
    if (!fill_gaps(s, shard, e))
        return false;
    stream_hash_put(h, in->tensor->offset + in->offset, data, in->bytes);
    if (!fill_gaps(s, shard, e))
        return false;
    return h->given < s->plan->source->checkpoint.shards[shard].bytes || end_shard(s, shard, e);
}

bool run_source_hash(struct run_source *s, size_t job, const struct slices *in, struct err *e)
{
    struct plan_slice slices[PART_COUNT];

    if (!s->hash)
        return true;
    plan_job_in(s->plan, &s->plan->jobs[job], slices);
    if (s->plan->pieces && s->plan->pieces[s->plan->jobs[job].weight])
        return true;
    return !slices[PART_CODES].tensor || hash_piece(s, &slices[PART_CODES], in->part[PART_CODES], e);
}

bool run_source_known(struct run_source *s, size_t shard, char sha256[HASH_HEX_BYTES])
{
    if (!s->hash || s->recorded[shard] || !is_known(s, shard))
        return false;
    memcpy(sha256, s->sha256[shard], HASH_HEX_BYTES); /* a digest that is there does not change */
    s->recorded[shard] = true;
    return true;
}

bool run_source_check(const struct run_source *s, struct err *e)
{
    const struct checkpoint *c = &s->plan->source->checkpoint;

    for (size_t i = 0; s->hash && i < c->shard_count; i++)
        if (c->shards[i].removed && s->sha256[i][0] == '\0')
            return err_set(e, ERR_USAGE, "shard '%s' was removed before it was hashed: go on without --hash-source",
                           c->shards[i].name);
    return true;
}

bool run_source_remove(struct run_source *s, size_t durable, struct err *e)
{
    struct checkpoint *c = (struct checkpoint *)&s->plan->source->checkpoint; /* the one change ever made to a source */

    for (size_t i = 0; s->remove && i < c->shard_count; i++) {
        bool hashed = !s->hash || s->recorded[i];
        if (!c->shards[i].removed && hashed && s->last_job[i] <= durable && s->last_job[i] > 0 &&
            !checkpoint_remove_shard(c, i, e))
            return err_in(e, "--delete-source");
    }
    return true;
}

bool run_source_finish(struct run_source *s, struct err *e)
{
    const struct checkpoint *c = &s->plan->source->checkpoint;

    for (uint32_t i = 0; s->hash && i < c->shard_count; i++)
        if (s->sha256[i][0] == '\0') {
            s->hashes[i].read_again = true;
            if (!end_shard(s, i, e))
                return false;
        }
    return true;
}

void run_source_release(struct run_source *s)
{
    if (s->hashes)
        for (size_t i = 0; i < s->plan->source->checkpoint.shard_count; i++)
            stream_hash_release(&s->hashes[i]);
    mem_free(s->hashes);
    mem_free(s->gaps);
    mem_free(s->next_gap);
    mem_free(s->last_job);
    mem_free(s->block);
    mem_free(s->recorded);
    if (s->plan)
        pthread_mutex_destroy(&s->lock);
    *s = (struct run_source){0};
}
