/* The last stage of a run: what was hashed is made durable, and then recorded. The hasher hands on a batch and goes
 * on with the next while the disk takes this one; it stands still only when it has the next one ready before. So there
 * is always a batch for the disk, a kill costs two at most, and batches end at the same jobs whatever the disk does. */
#include <string.h>

#include "convert/run_private.h"

bool run_finish_shard(struct line *l, size_t output, uint32_t shard, struct err *e)
{
    struct shard_file *f = &l->files[output][shard];

    if (!shard_file_commit(f, e)) {
        l->sync_failed = true;
        return false;
    }
    memcpy(l->results[output].sha256[shard], f->sha256, HASH_HEX_BYTES);
    journal_shard(l->journal, output, shard, f->sha256);
    return true;
}

static bool sync_shard(struct line *l, size_t output, uint32_t shard, struct err *e)
{
    struct shard_file *f = &l->files[output][shard];

    if (shard_file_complete(f))
        return run_finish_shard(l, output, shard, e);
    if (shard_file_sync(f, e))
        return true;
    l->sync_failed = true;
    return false;
}

static void record_source_hashes(struct line *l)
{
    char sha256[HASH_HEX_BYTES];

    for (size_t i = 0; i < l->plan->source->checkpoint.shard_count; i++)
        if (run_source_known(&l->source, i, sha256))
            journal_source(l->journal, i, sha256);
}

/* Durable, then recorded, and only then is the source's part of it gone. */
static bool sync_batch(struct line *l, struct err *e)
{
    for (size_t o = 0; o < l->plan->output_count; o++)
        for (uint32_t s = 0; s < l->plan->outputs[o].shard_count; s++)
            if (!sync_shard(l, o, s, e))
                return false;
    record_source_hashes(l);
    return journal_flush(l->journal, e) && run_source_remove(&l->source, l->journal->jobs_durable, e);
}

static void hand_batch(struct line *l)
{
    for (size_t o = 0; o < l->plan->output_count; o++)
        for (size_t s = 0; s < l->plan->outputs[o].shard_count; s++)
            shard_file_hand(&l->files[o][s]);
    journal_hand_jobs(l->journal);
    l->unsynced_bytes = 0;
}

bool run_sync(struct line *l, struct err *e)
{
    hand_batch(l);
    return sync_batch(l, e);
}

void run_hand_on(struct line *l, bool wait)
{
    pthread_mutex_lock(&l->lock);
    while (l->synced < l->handed)
        pthread_cond_wait(&l->moved, &l->lock);
    if (!l->sync_ended) {
        hand_batch(l);
        l->handed++;
        pthread_cond_broadcast(&l->moved);
    }
    while (wait && l->synced < l->handed)
        pthread_cond_wait(&l->moved, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

/* Ends behind the hasher, or with the first failure: of the first job that is not durable. */
void *run_syncer_main(void *arg)
{
    struct line *l = arg;
    bool ok = true;

    while (ok) {
        struct err e = {0};
        pthread_mutex_lock(&l->lock);
        while (l->synced == l->handed && !l->all_handed)
            pthread_cond_wait(&l->moved, &l->lock);
        bool end = l->synced == l->handed;
        pthread_mutex_unlock(&l->lock);
        if (end)
            return NULL;
        ok = sync_batch(l, &e);
        if (!ok)
            run_fail(l, l->journal->jobs_durable, &e);
        pthread_mutex_lock(&l->lock);
        l->sync_ended = !ok;
        l->synced++;
        pthread_cond_broadcast(&l->moved);
        pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}
