/* Weights made again from the source, by what their row of the manifest says,
 * and held against the bundle's. What one rounding decides must be the same
 * bytes; what a calibration decided must lie as far from the source as it is
 * said to. */
#ifndef VERIFY_REDERIVE_H
#define VERIFY_REDERIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/manifest.h"
#include "formats/weight.h"
#include "verify/finding.h"

/* Recorded errors have six digits, and sums over a weight are folded over other pieces here. */
#define REDERIVE_ERROR_TOLERANCE 1e-5
#define REDERIVE_LEAST           16u /* weights, where there are so many, however few percent they are */

struct rederive_job {
    const struct manifest *manifest;
    const struct source *bundle, *source;
    double percent; /* of the rows; 100: all */
    uint64_t seed;  /* another one picks others */
    unsigned threads;
    bool quiet;
};

struct rederive_sum {
    uint64_t rows, exact, as_far; /* looked at; of these, the same bytes; calibrated, as far off as recorded, and with
                                     the same scales where these do not depend on the text */
    uint64_t read_bytes;
};

/* The rows with the least hash of seed and name are taken, at least one of each role, scheme and method. Findings in
 * the manifest's order. Fails for what the system refuses and for a signal only. */
bool rederive(const struct rederive_job *job, struct rederive_sum *sum, struct findings *findings,
              struct err *e) CHECKED;

#endif
