/* What a file of statistics (formats/calib_stats.h) says of a plan's weights, in place of a text that the model is run
 * over. It has the inputs' variances alone, so that
 *
 *   int4 by search    weighs errors by the variance of each input channel, D of quant/shrink.h: an expert's own, and
 *                     for gate and up a few tokens' worth of all its layer's
 *   int4 by ldlq      becomes that search: against moments without correlations it is the same
 *   fp8-static        takes scales of inputs from the largest magnitudes: an expert's down from those of all its
 * layer's
 *
 * Where no token came, gate and up go by all tokens of their layer, down by nothing: the plain search. Weights are
 * converted by jobs, as any; no model is run. Static scales want a look at the whole matrix before
 * (convert/run_most.c).
 */
#ifndef CONVERT_MEASURED_H
#define CONVERT_MEASURED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/calibrated_result.h"
#include "convert/plan.h"
#include "formats/calib_stats.h"

/* Zero holds nothing. */
struct statistics {
    struct calib_stats stats;
    const char *path; /* borrowed */
    char sha256[HASH_HEX_BYTES];
};

/* Refused: statistics of another model. */
bool statistics_open(struct statistics *s, const char *path, const struct source *source, struct err *e) CHECKED;
void statistics_close(struct statistics *s); /* idempotent */

/* Of one row of a plan. */
struct measured {
    const struct calib_input *own, *prior; /* prior: NULL, none */
    size_t index;                          /* of the expert in own */
    float static_most;                     /* static FP8: the largest magnitude that its input's scale is made for */
    struct calibrated_result about;        /* all but errors */
};

/* What becomes of a row whose scheme statistics have a say in: sets row->measured, and the method where it changes.
 * Refused: methods that need more than variances. */
bool measured_row(struct arena *a, const struct statistics *s, struct plan_row *row, struct err *e) CHECKED;
/* Whether they have one: int4 by a search or by ldlq, static FP8, and what is refused. */
bool measured_wants(const struct scheme *scheme);

/* Weights of the search, [cols]; NULL where there are none, and all count alike. scratch: measured_scratch_bytes,
 * MEM_ALIGN aligned, in use as long as the weights. Thread-safe. */
size_t measured_scratch_bytes(size_t cols);
bool measured_weights(const struct statistics *s, const struct measured *m, void *scratch, const float **weights,
                      struct err *e) CHECKED;

#endif
