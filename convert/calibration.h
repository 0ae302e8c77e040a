/* What a calibrated run is fed with: the text, cut into contexts, and how much of it is enough. */
#ifndef CONVERT_CALIBRATION_H
#define CONVERT_CALIBRATION_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/pipeline.h"
#include "convert/plan.h"
#include "formats/base/err.h"
#include "formats/tokenizer.h"
#include "verify/corpus.h"

#define CALIBRATION_TOKENS  131072u
#define CALIBRATION_CONTEXT 2048u
/* As --help says them. */
#define CALIBRATION_TOKENS_TEXT  "131072"
#define CALIBRATION_CONTEXT_TEXT "2048"
#define CALIBRATION_SAVE         30u /* seconds: a save takes one or two where a hidden state is some GB */
#define CALIBRATION_MIN_TOKENS                                                                                         \
    32u /* the pseudo tokens that a prior counts as: with fewer, it says more than they do                             \
         */

struct calibration {
    /* as given */
    struct corpus_options text;
    const char *propagate;  /* "on", "off" */
    const char *on_starved; /* "warn", "fail" */
    uint64_t min_tokens;
    uint64_t save_seconds;

    /* opened */
    struct tokenizer tokenizer;
    struct corpus corpus;
};

/* Reads and cuts the text, and writes into the plan what the calibrated rows depend on (plan->calibration). Refused
 * besides what corpus_open refuses: words that the options do not know, more than one calibrated output. */
bool calibration_open(struct calibration *c, struct plan *p, struct err *e) CHECKED;
/* Refused: fewer tokens in all than an expert has to have. */
bool calibration_check_text(const struct corpus *t, uint64_t min_tokens, struct err *e) CHECKED;
/* "N tokens in M contexts, sha256 HEX": which they are, in words; in the arena. */
const char *calibration_batch_text(const struct batch *b, struct arena *a);
/* On stderr, where a text is not what one would wish: built-in, or shorter than `tokens`. */
void calibration_note_text(const struct corpus *t, uint64_t tokens);
/* The same by statistics: the plan's own. Refused besides: a recipe that they have no say in, and with on_starved
 * "fail" an expert with fewer than min_tokens. */
bool calibration_by_statistics(const struct calibration *c, struct plan *p, struct err *e) CHECKED;
void calibration_close(struct calibration *c); /* idempotent */
struct pipeline_options calibration_pipeline(const struct calibration *c, unsigned threads, uint64_t memory_bytes);

#endif
