/* The executor: a reader, workers, a writer and a hasher around a ring of
 * buffers that are allocated before the first job. Reads run ahead of work,
 * writes and hashes behind it, each in job order; the source's own hash has a
 * thread beside them, and so has the disk's sync, behind which the journal
 * records what is durable. Threads and memory change the time, never a byte. */
#ifndef CONVERT_RUN_H
#define CONVERT_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/calibrated_result.h"
#include "convert/plan.h"
#include "convert/stage.h"
#include "formats/base/err.h"
#include "formats/base/hash.h"
#include "formats/base/progress.h"

struct run_options {
    unsigned threads;      /* workers; 0: one per CPU */
    uint64_t memory_bytes; /* budget for buffers, scratch and tables; 0: as much as helps */
    bool hash_source;      /* SHA-256 of every source shard, from the pieces as they are read */
    bool delete_source;    /* cut a source shard to its header once everything made from it is durable */
};

/* What the run learnt about one output. */
struct run_result {
    struct weight_error *errors;           /* one per row */
    struct calibrated_result *calibrated;  /* one per row; NULL: none is, by a text or by statistics */
    char (*sha256)[HASH_HEX_BYTES];        /* one per shard */
    float *most;                           /* one per weight, of those that have one scale: the largest magnitude;
                                              negative: not known. All outputs share it */
    char (*source_sha256)[HASH_HEX_BYTES]; /* one per source shard, "" when not known; all outputs share it */
};

struct journal;

/* How many buffers, and what they need with everything else. ERR_MEMORY, with both numbers, when not even one
 * worker with one buffer fits the budget. */
struct run_size {
    unsigned threads;
    size_t slot_count;
    uint64_t slot_bytes, scratch_bytes, fixed_bytes, total_bytes;
};
bool run_size(const struct plan *p, const struct run_options *o, struct run_size *size, struct err *e) CHECKED;

/* One result per output; arrays in the plan's arena. */
struct run_result *run_results_new(struct plan *p);

/* Runs the jobs that the journal does not have yet; stages and results have one per output, and every shard ends
 * whole and durable in its stage, but those with calibrated weights, which stay partial there. The error of the
 * lowest-numbered failing job is the one reported. After an error the stage holds what was done and the journal says
 * so: journal->jobs_durable. */
bool run_plan(struct plan *p, const struct run_options *o, struct stage *stages, struct journal *journal,
              struct run_result *results, struct progress *progress, struct err *e) CHECKED;

#endif
