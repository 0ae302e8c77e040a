/* The source side of a run beside reading: hashing its files as their pieces
 * come by (--hash-source), and removing shards when everything made from them is
 * durable (--delete-source). One thread hashes, another records and removes: the
 * digests are what they share. */
#ifndef CONVERT_RUN_SOURCE_H
#define CONVERT_RUN_SOURCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "convert/plan.h"
#include "convert/stream_hash.h"
#include "formats/base/err.h"
#include "formats/base/hash.h"

struct run_source {
    const struct plan *plan;
    bool hash, remove;
    size_t *last_job;           /* per shard: number of the last job that reads it, plus one; 0: none does */
    struct stream_hash *hashes; /* per shard; this and what follows is the hashing thread's */
    struct source_gap *gaps;    /* what is not codes, by shard and offset */
    size_t gap_count;
    size_t *next_gap; /* per shard: index into gaps */
    uint8_t *block;   /* for reading gaps */
    bool *recorded;   /* per shard: the journal has its hash; the recording thread's */
    pthread_mutex_t lock;
    char (*sha256)[HASH_HEX_BYTES]; /* per shard; borrowed; "" until known; under lock */
};

/* sha256: [shard_count], filled as shards end; those already known (a resumed run) are left alone. */
void run_source_init(struct run_source *s, const struct plan *p, bool hash, bool remove,
                     char (*sha256)[HASH_HEX_BYTES]);
/* A shard that is removed already cannot be hashed any more: ERR_USAGE, unless its hash is known. */
bool run_source_check(const struct run_source *s, struct err *e) CHECKED;
/* The pieces of a job, after they were read; jobs in order. */
bool run_source_hash(struct run_source *s, size_t job, const struct slices *in, struct err *e) CHECKED;
/* The digest of a shard, if it is known and was not asked for before: once true, then false. */
bool run_source_known(struct run_source *s, size_t shard, char sha256[HASH_HEX_BYTES]);
/* Jobs before `durable` are safe on disk, as is every digest that run_source_known gave: removes the shards that only
 * they read. */
bool run_source_remove(struct run_source *s, size_t durable, struct err *e) CHECKED;
/* After all jobs: shards that no job read, or whose pieces were not enough, are read now. */
bool run_source_finish(struct run_source *s, struct err *e) CHECKED;
void run_source_release(struct run_source *s);

#endif
