/* The walk of `quern diff`: all checkpoints in step, a layer at a time, then the logits in chunks of tokens. What it
 * keeps of all tokens is two hidden states for each side, one more for the local error, and 48 bytes a position. */
#ifndef VERIFY_DIFF_WALK_H
#define VERIFY_DIFF_WALK_H

#include "formats/routing_stats.h"
#include "verify/diff_report.h"
#include "verify/expert_numbers.h"
#include "verify/forward.h"
#include "verify/golden.h"

struct diff_job {
    const struct source *ref;    /* NULL: golden instead */
    const struct golden *golden; /* what the batch is from */
    const struct source *candidates[DIFF_CANDIDATES_MAX];
    const struct expert_numbers *numbers[DIFF_CANDIDATES_MAX]; /* of candidates, by ref's; NULL: the same */
    size_t candidate_count;
    const struct batch *batch;
    uint64_t vocab;                 /* ids that are compared: the first so many that all have */
    struct forward_options forward; /* memory_bytes is for all sides together */
    uint64_t floor_tokens;          /* noise floors on the first so many tokens; 0: none. Only with ref */
    struct golden *record;          /* NULL, or filled by ref: rows, nll, projections (its arena), mtp_acceptance */
    struct routing_stats *trace;    /* NULL, or gets the first candidate's routing */
    bool quiet;                     /* no progress */
};

/* Fills the report but for what a command knows: paths, model, text, weights, checks. */
bool diff_walk(struct diff_report *r, const struct diff_job *job, struct err *e) CHECKED;

#endif
