/* What calibration will cost, before it is run: work counted from shapes and tokens, and the time it takes by rates
 * that were measured (convert/calibration_rates.h).
 *
 * With n tokens at an input of d columns, of which c = min(n, MOMENTS_CAP_PER_COL d) are measured, and matrices of m
 * rows that read it, in floating point operations:
 *
 *   forward    2 m d n of every matrix, and 2 heads (qk + v) of each pair of positions in a context
 *   twice      2 m d c of gate and up: an expert's activations are what its down is rounded by, and dense and shared
 *              MLPs run theirs once more before down is replaced
 *   moments    c d^2, one for each input; and one of all the layer's tokens, which experts are shrunk towards
 *   factor     d^3 / 3, one for each input
 *   solve      m d^2
 *   search     m d weights whose scales are searched
 *
 * Experts are taken to get equal shares of the tokens. Norms, softmax and routing are not counted: a few in a thousand
 * of a large model. */
#ifndef CONVERT_CALIBRATION_COST_H
#define CONVERT_CALIBRATION_COST_H

#include <stdint.h>

#include "convert/plan.h"
#include "formats/arch.h"
#include "verify/batch.h"

struct calibration_work {
    double forward, twice, moments, factor, solve; /* floating point operations */
    double search;                                 /* weights */
    double alone; /* the share of solve that one thread does: matrices that are no experts' */
};

/* roles: bit r of [layer] says that matrices of role r are calibrated there; [layers + 1], MTP's layer last, which is
 * run only when it has some. */
void calibration_work_count(struct calibration_work *w, const struct arch *arch, const uint64_t *roles,
                            const struct batch *b);
/* The same of an output of a plan. */
void calibration_work_plan(struct calibration_work *w, const struct plan *p, size_t output, const struct batch *b);
double calibration_work_flop(const struct calibration_work *w); /* all but the search */

struct calibration_rates {
    double product, moments, factor, solve; /* operations in a core's second */
    double search;                          /* weights in a core's second */
};
double calibration_core_seconds(const struct calibration_work *w, const struct calibration_rates *r);
double calibration_wall_seconds(const struct calibration_work *w, const struct calibration_rates *r, unsigned threads);

/* For the plan. */
struct calibration_estimate {
    const struct batch *batch;
    struct calibration_work work;
    struct calibration_rates rates;
    double core_seconds, seconds; /* of one core; with the threads given, on whatever cores there are */
    uint64_t read_bytes;          /* of the source, by the pass */
    uint64_t memory_bytes;        /* the least: one expert at a time, hidden states in files */
    unsigned threads;
};

#endif
