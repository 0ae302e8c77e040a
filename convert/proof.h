/* What is proved of a bundle that is being made: its fingerprint
 * (verify/fingerprint.h), and, where experts have other numbers, that it is the
 * same function as the source (verify/renumbering.h). What that will cost is
 * known from the plan; it is done from the written shards before they are
 * published. A bundle that does not run, or is another function, is not
 * published. */
#ifndef CONVERT_PROOF_H
#define CONVERT_PROOF_H

#include <stdbool.h>

#include "convert/plan.h"
#include "convert/stage.h"
#include "formats/base/err.h"
#include "formats/manifest.h"
#include "verify/fingerprint.h"
#include "verify/renumbering.h"

/* Of one output. */
struct proof {
    const char *why_not; /* why there is none, as quern.json says it; NULL: there will be one */
    struct fingerprint_cost cost;

    const struct expert_numbers *renumbering; /* the plan's; NULL: experts keep their numbers, and the rest is unused */
    const char *why_unproved;                 /* why it is not proved; NULL: it will be */
    struct fingerprint_cost renumbering_cost;
    struct renumbering_proof proved; /* once it is; positions 0: not yet */
};

/* What is not wanted is left out, and each says so. */
struct proof_wishes {
    bool no_fingerprint, no_proof;
};

/* One for each output, in the plan's arena. */
struct proof *proofs_plan(struct plan *p, unsigned threads, const struct proof_wishes *wishes);
/* ERR_MEMORY, with both numbers, when the budget is less than a proof needs beside fixed_bytes of tables. */
bool proofs_check_memory(const struct proof *proofs, size_t count, uint64_t memory_bytes, uint64_t fixed_bytes,
                         struct err *e) CHECKED;
/* Fills m's fingerprint, or why there is none, and what is proved, from the stage's own files and p's source. What a
 * run that was killed while it published had made is taken from its quern.json: the shards may have moved on, and it
 * had its proof. */
bool proof_make(struct proof *proof, const struct plan *p, struct stage *stage, const struct fingerprint_options *o,
                struct arena *a, struct manifest *m, struct err *e) CHECKED;

#endif
