/* What `quern diff` is given: checkpoints or a golden file, and the tokens to run. Opened, and found to fit. */
#ifndef VERIFY_DIFF_INPUTS_H
#define VERIFY_DIFF_INPUTS_H

#include "formats/base/hash.h"
#include "formats/tokenizer.h"
#include "formats/weight.h"
#include "verify/corpus.h"
#include "verify/diff_report.h"
#include "verify/expert_numbers.h"
#include "verify/golden.h"

struct diff_paths {
    const char *ref;    /* NULL: golden */
    const char *golden; /* NULL: ref */
    const char *candidates[DIFF_CANDIDATES_MAX];
    size_t candidate_count;
};

/* Zero holds nothing. */
struct diff_inputs {
    struct source sources[1 + DIFF_CANDIDATES_MAX]; /* ref, candidates */
    const struct source *ref, *candidates[DIFF_CANDIDATES_MAX];
    struct expert_numbers numbers[DIFF_CANDIDATES_MAX]; /* by ref's; with ref only */
    struct golden golden;
    bool has_golden;
    struct tokenizer tokenizer; /* ref's, or the first candidate's that has one */
    struct corpus corpus;
    struct sequence *sequences; /* of the golden file */
    struct batch batch;
    uint64_t vocab;                        /* ids to compare */
    char tokenizer_sha256[HASH_HEX_BYTES]; /* "" when there is none */
};

/* Refused: other sizes, other tokenizers, vocabularies more apart than padding. Notes go into the report, and so do
 * model and text. */
bool diff_inputs_open(struct diff_inputs *in, const struct diff_paths *paths, const struct corpus_options *texts,
                      struct diff_report *r, struct err *e) CHECKED;
void diff_inputs_close(struct diff_inputs *in); /* idempotent */

#endif
