/* The fingerprint of a bundle that is being made (verify/fingerprint.h): what
 * it will cost, known from the plan, and making it, from the written shards
 * before they are published. A bundle that does not run is not published. */
#ifndef CONVERT_PROOF_H
#define CONVERT_PROOF_H

#include <stdbool.h>

#include "convert/plan.h"
#include "convert/stage.h"
#include "formats/base/err.h"
#include "formats/manifest.h"
#include "verify/fingerprint.h"

/* Of one output. */
struct proof {
    const char *why_not; /* why there is none, as quern.json says it; NULL: there will be one */
    struct fingerprint_cost cost;
};

/* One for each output, in the plan's arena. */
struct proof *proofs_plan(struct plan *p, unsigned threads, bool wanted);
/* ERR_LIMIT, with both numbers, when the budget is less than a proof needs beside fixed_bytes of tables. */
bool proofs_check_memory(const struct proof *proofs, size_t count, uint64_t memory_bytes, uint64_t fixed_bytes,
                         struct err *e) CHECKED;
/* Fills m's fingerprint, or why there is none, from the stage's own files. What a run that was killed while it
 * published had made is taken from its quern.json: the shards may have moved on. */
bool proof_make(const struct proof *proof, struct stage *stage, const struct fingerprint_options *o, struct arena *a,
                struct manifest *m, struct err *e) CHECKED;

#endif
