/* Whether a difference is one that the storage explains. Shared by
 * weights_diff.c and weights_judge.c. */
#ifndef VERIFY_WEIGHTS_JUDGE_H
#define VERIFY_WEIGHTS_JUDGE_H

#include "verify/weights_diff.h"

/* For plain tensors dimension by dimension, else rows and columns. */
bool weights_same_shape(const struct weight *a, const struct weight *b);
bool weight_is_raw(const struct weight *w);

/* After the sums are whole: fills each item's `unexpected`, where it is not said already, and counts them.
 * side: REF and CAND, for static activation scales and CAND's quern.json, which are read here; the latter tells how
 * far calibration took a weight, and is not asked with exact_only. */
bool weights_judge(struct weights_diff *d, const struct source *const side[2], bool exact_only, struct err *e) CHECKED;

#endif
