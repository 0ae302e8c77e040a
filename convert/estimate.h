/* How long a plan will take, from a second of measurement on this machine: the
 * source is read, representative matrices are converted, a nameless file is
 * written where the bundle would be. */
#ifndef CONVERT_ESTIMATE_H
#define CONVERT_ESTIMATE_H

#include <stdint.h>

#include "convert/calibration_cost.h"
#include "convert/plan.h"
#include "formats/base/err.h"

struct estimate {
    double read_rate, write_rate, hash_rate;        /* bytes per second; 0: could not be measured */
    double compute_seconds;                         /* on one thread, all jobs */
    double seconds;                                 /* wall, with the threads given */
    const struct calibration_estimate *calibration; /* NULL: there is none. Borrowed */
};

/* Leaves nothing behind. */
bool estimate_plan(struct estimate *m, const struct plan *p, unsigned threads, struct err *e) CHECKED;
/* Reads that follow when all else is done: those of the fingerprint. */
void estimate_add_read(struct estimate *m, uint64_t bytes);

/* What a calibrated run does when the others are converted; its reads run beside the work. */
void estimate_add_calibration(struct estimate *m, const struct calibration_estimate *c);

#endif
