/* Is a bundle intact, complete, and what it says it is? Everything that can be
 * told from it alone, and with its source, what can be told from both. */
#ifndef VERIFY_VERIFICATION_H
#define VERIFY_VERIFICATION_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/manifest.h"
#include "formats/weight.h"
#include "verify/finding.h"
#include "verify/fingerprint.h"
#include "verify/integrity.h"
#include "verify/lint_values.h"
#include "verify/rank_files.h"
#include "verify/rederive.h"

struct verify_options {
    const char *source; /* NULL: none */
    bool lint_only;     /* headers and side files: no hashes, no scales */
    bool deep;          /* every value, and the source's hashes */
    bool no_fingerprint;
    uint64_t memory_bytes; /* of the forward pass; 0: what it takes by itself */
    double sample_percent;
    uint64_t seed;
    unsigned threads;
    bool quiet;
};

/* What was done, with what it found. The members of a step hold nothing when it was not done. */
struct verification {
    struct arena arena;
    const char *path;
    struct findings findings;
    struct manifest manifest;
    bool has_manifest, hashed, deep, rederived;
    const char *recipe; /* its name, or "" */
    struct integrity_sum files, source_files;
    uint64_t weights, tensors; /* of the checkpoint, as far as it opened */
    struct rank_files ranks;   /* in its place: the files of ranks, of which headers and hashes are looked at */
    struct values_sum scales, values;
    struct rederive_sum derived;
    struct fingerprint_sum fingerprint;
};

/* Defects of the bundle are findings. Errors: what is no checkpoint at all, a manifest of a later version, a source
 * that does not open, what the system refuses, a signal. */
bool verify_run(struct verification *v, const char *path, const struct verify_options *o, struct err *e) CHECKED;
void verify_release(struct verification *v);

/* Reports, into a buffer. */
struct verify_show {
    bool all; /* every finding of a kind, not the first few */
};
void verify_print_text(const struct verification *v, const struct verify_show *show, struct buf *out);
void verify_print_json(const struct verification *v, struct buf *out);

#endif
