/* How the numbers of two checkpoints differ, weight by weight, and whether each
 * difference is one that storing it that way explains. Both are streamed in
 * chunks of rows through buffers that are there before the first read. */
#ifndef VERIFY_WEIGHTS_DIFF_H
#define VERIFY_WEIGHTS_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/base/progress.h"
#include "formats/weight.h"

/* Largest relative errors |a - b| / |a| that a storage explains. Rounding to BF16 or F16 is at most half a
 * step of 2^-8 in each value, that is 2^-9; e4m3 has steps of 1/8 to 1/16, measured 0.026 on trained weights;
 * int4 measures 0.08 to 0.12 in groups of 32 to 128. What decodes a scale wrongly is far outside. Calibration may
 * go further, as far as CAND's quern.json records. */
#define DIFF_FLOAT_ERROR_MAX     0x1p-8
#define DIFF_FP8_ERROR_MAX       0.06
#define DIFF_INT4_ERROR_MAX      0.2
#define DIFF_INT4_WIDE_ERROR_MAX 0.3 /* groups of more than 128 columns */

/* One logical weight of either side. */
struct weight_diff {
    const char *name;
    const struct weight *ref, *cand; /* NULL: not there */
    bool compared;                   /* the numbers below hold */
    bool skipped;                    /* both are there and fit, and were not to be compared */
    bool identical;                  /* every value has the same bits, as float32 (RAW: as bytes) */
    uint64_t differing;              /* values (RAW: bytes) that are not */
    double error2, energy2;          /* sums of (a - b)^2 and a^2 */
    double max_abs;
    const char *unexpected; /* why it should not be so; NULL: as expected */
};

struct weights_diff {
    struct arena arena;
    struct weight_diff *items; /* in the order of REF's names, what only CAND has behind them, by name */
    size_t count;
    size_t unexpected_count;
    size_t
        renumbered_layers; /* whose experts have other numbers on the two sides; they are paired by the router's rows */
    uint64_t read_bytes;
};

struct weights_diff_job {
    unsigned threads; /* 0: one per CPU; changes the time only */
    bool quiet;       /* no progress */
    /* Only what must never change (norms, router, correction bias), and every shape: a few megabytes of any model. */
    bool exact_only;
};

/* Both sides opened with their shapes read. Numbers that are not finite are findings, not errors; errors are
 * what cannot be read. */
bool weights_diff_run(struct weights_diff *d, const struct source *ref, const struct source *cand,
                      const struct weights_diff_job *job, struct err *e) CHECKED;
void weights_diff_release(struct weights_diff *d);

double weight_diff_relative(const struct weight_diff *w); /* 0 for 0 / 0; infinite for x / 0 */
double weight_diff_snr_db(double error2, double energy2); /* infinite when there is no error */

/* Reports, into a buffer. */
struct weights_show {
    const char *ref, *cand; /* paths as given */
    bool all;               /* every unexpected weight, not the first twenty */
};
void weights_print_text(const struct weights_diff *d, const struct weights_show *show, struct buf *out);
void weights_print_json(const struct weights_diff *d, const struct weights_show *show, struct buf *out);

#endif
