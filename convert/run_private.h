/* Shared by run.c, run_stages.c, run_sync.c, run_most.c and run_resume.c.
 *
 * One ring of slots; job j lives in slot j % slot_count from the moment it is read until it is hashed, in and out. Five
 * counters say how far each stage has come; a stage works on job j when the stage before it is past j, and the
 * reader when slot j is free again. The source is hashed beside work and writing, from the moment it is read. `limit`
 * is the number of jobs to do: a failing job lowers it to its own number, all stages stop there, and a lower-numbered
 * failure still wins. The lock guards the counters, `limit`, `err` and `worked`; data in a slot belongs to the stage
 * that holds its job. Files are the writer's, their hashes the hasher's, and when that has handed on their last byte,
 * they are all the syncer's (shard_file.h); so is the journal but for new jobs, which the hasher adds (journal.h). */
#ifndef CONVERT_RUN_PRIVATE_H
#define CONVERT_RUN_PRIVATE_H

#include <pthread.h>

#include "convert/journal.h"
#include "convert/run.h"
#include "convert/run_source.h"
#include "convert/shard_file.h"

struct slot {
    uint8_t *in, *out;
    struct slices from;
    struct slices *to;           /* one per output */
    struct weight_error *errors; /* one per output */
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
    uint32_t *partners; /* [weight]: number + 1 of what has the same scale, where a matrix has one; NULL: none has */
    struct journal *journal;
    struct run_source source;
    uint64_t unsynced_bytes; /* hashed since the last batch was handed on; the hasher's */
    bool sync_failed;        /* what was written may be lost, and a second sync would not say so; the syncer's */

    pthread_mutex_t lock;
    pthread_cond_t moved;
    size_t read, taken, written, hashed; /* jobs past each stage; for `taken`, handed to a worker */
    size_t sourced;                      /* jobs whose source bytes are hashed */
    size_t handed, synced;               /* batches from the hasher, and of these through the syncer; one at a time */
    bool all_handed;                     /* the hasher has ended */
    bool sync_ended;                     /* so has the syncer: it failed */
    size_t *worked;                      /* per slot: number of the job done in it, plus one */
    size_t limit;
    struct err err; /* of job `limit`, when that is less than the plan's count */
};

/* Opens an output's shard for writing, its first bytes included; nothing when it is open. */
bool run_open_shard(struct line *l, size_t output, uint32_t shard, bool resume, struct err *e) CHECKED;

/* The largest magnitudes of matrices that have one scale, which no job sees whole: read before the first job, unless an
 * earlier run's journal has them. Slots and scratch are in use, the stages are not begun. (run_most.c) */
bool run_find_most(struct line *l, unsigned threads, struct err *e) CHECKED;
/* What statistics add to a transform, and the scale of what enters the matrix; scratch: behind the transform's own. */
bool run_measured(const struct line *l, size_t output, size_t weight, struct transform *t, const struct slices *to,
                  void *scratch, struct err *e) CHECKED;

/* The stages, each to its end. (run_stages.c) */
void run_stages(struct line *l, unsigned threads);
void run_fail(struct line *l, size_t job, const struct err *e);

/* ---- made durable (run_sync.c) ---- */

/* A batch for the syncer, when it has done the last one: jobs hashed until now. wait: until it is durable; or failed.
 */
void run_hand_on(struct line *l, bool wait);
void *run_syncer_main(void *line);
/* The same in this thread, when there is no other: syncs what was written and then the journal's records of it. */
bool run_sync(struct line *l, struct err *e) CHECKED;
/* Makes a shard durable under its name. */
bool run_finish_shard(struct line *l, size_t output, uint32_t shard, struct err *e) CHECKED;

/* Brings files and hashes to where an earlier run's journal says they are. (run_resume.c) */
bool run_resume(struct line *l, struct err *e) CHECKED;

#endif
