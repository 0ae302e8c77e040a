/* Thresholds of `quern diff`: a number, or a number of noise floors.
 *
 *     --max-kl 0.02          mean KL at most 0.02 (of the lower bound, from a golden file)
 *     --min-top1 0.97        share of positions with the same most likely token
 *     --max-ppl-ratio 1.01   perplexity over the reference's
 *     --min-routing 0.95     share of the chosen experts that agree, over all MoE layers
 *
 * "5floor" is five times as far from perfect agreement as the reference in BF16 is: KL 5 f; top 1 and routing
 * 1 - 5 (1 - f); the ratio exp(5 |ln f|), where |ln f| is the floor's mean plus 1.96 of its standard errors, since a
 * ratio of one may be luck. */
#ifndef VERIFY_DIFF_CHECKS_H
#define VERIFY_DIFF_CHECKS_H

#include "verify/diff_report.h"

struct diff_threshold {
    double value;
    bool floors;       /* value counts floors */
    const char *asked; /* as given; NULL: no threshold */
};

extern const char *const diff_threshold_options[METRIC_COUNT]; /* "--max-kl", ... */

/* texts: as given, NULL where none was. Refused: what is no number, is negative, or past what the metric can be. */
bool diff_thresholds_parse(struct diff_threshold t[METRIC_COUNT], const char *const texts[METRIC_COUNT],
                           struct err *e) CHECKED;
/* Holds each threshold against each candidate: fills checks and agree. Refused: floors that were not measured, and
 * metrics that are not known. */
bool diff_checks_run(struct diff_report *r, const struct diff_threshold t[METRIC_COUNT], struct err *e) CHECKED;

#endif
