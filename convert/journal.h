/* The journal: which jobs are done and durable, so that a killed run goes on
 * where it was. One text file in the stage of the first output:
 *
 *     quern-journal 1
 *     fact NAME "VALUE"           what the run was: version, recipe, source, layout
 *     job NUMBER {E2 ENERGY2 N}   done, its bytes synced; sums per output, as hex floats
 *     shard OUTPUT SHARD SHA256   whole and under its name
 *     source SHARD SHA256         a source shard's hash, with --hash-source
 *     most ROW MAGNITUDE          the largest of a matrix that has one scale, as a hex float
 *     round ROW ENDING REASON ...  what calibration made of a weight (struct calibrated_result), and its sums
 *     layer LAYER                 calibrated and durable, with the hidden state behind it
 *     end                         the facts are complete
 *
 * A record is written only after the bytes it speaks of were synced. A last
 * line without its newline was cut by the kill, and is ignored. */
#ifndef CONVERT_JOURNAL_H
#define CONVERT_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/calibrated_result.h"
#include "convert/plan.h"
#include "convert/record_file.h"
#include "convert/run.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"

/* Hidden, as no side file of a model is: those share the folder. */
#define JOURNAL_NAME ".journal"

struct journal {
    struct record_file file;
    bool found;           /* an earlier run's, and gone on with */
    struct buf jobs;      /* journal_job's records, not handed on yet */
    struct buf pending;   /* records whose bytes are not yet synced, or being synced */
    size_t jobs_done;     /* jobs 0 .. jobs_done-1 are recorded, or waiting in `jobs` or `pending` */
    size_t jobs_handed;   /* of these, not in `jobs` */
    size_t jobs_durable;  /* of these, on disk */
    uint64_t layers_done; /* calibrated layers 0 .. layers_done-1 are recorded */
};

/* Opens or creates the journal of a plan. A journal that is there must have the same facts: else ERR_USAGE naming
 * the first that differs, with both values. results gets the sums and hashes of what is done. The outputs' folders
 * must be there. */
bool journal_open(struct journal *j, const char *path, const struct plan *p, struct run_result *results,
                  struct err *e) CHECKED;
/* Of a journal whose plan cannot be made any more: whether its run was of this recipe, and its source shards' names, in
 * the arena. false: another run's, or no journal. */
bool journal_peek(const char *path, const char *recipe_text, struct arena *a, char ***names, size_t *count);
/* The record waits to be handed on: another thread may be flushing meanwhile. */
void journal_job(struct journal *j, const struct plan *p, size_t job, const struct weight_error *per_output);
/* The jobs until now are in the next flush, before which their bytes are synced. Not beside a flush. */
void journal_hand_jobs(struct journal *j);
void journal_shard(struct journal *j, size_t output, size_t shard, const char *sha256);
void journal_source(struct journal *j, size_t shard, const char *sha256);
void journal_most(struct journal *j, size_t row, float most);
void journal_calibrated(struct journal *j, size_t row, const struct calibrated_result *c, const struct weight_error *w);
void journal_layer(struct journal *j, uint64_t layer); /* they come in order */
/* Appends what is pending and syncs. The caller has synced the shards before. After an error, what was pending still
 * is, and may be tried again. */
bool journal_flush(struct journal *j, struct err *e) CHECKED;
void journal_close(struct journal *j); /* idempotent */

#endif
