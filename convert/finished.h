/* A run that was killed when its outputs were whole and in place, but before it
 * ended: DST/.quern-published, with the journal, is what is left of it. The same
 * command given again does what was left to do, and is done. */
#ifndef CONVERT_FINISHED_H
#define CONVERT_FINISHED_H

#include <stdbool.h>

#include "convert/plan.h"
#include "convert/run.h"
#include "formats/base/err.h"

/* Whether such a run's folder is in a destination. */
bool finished_is_here(const char *dst);
/* Whether the run of this plan is the one that ended in the first output's destination; results are then its. */
bool finished_is_same(struct plan *p, struct run_result *results);
/* The last steps of a run: what is left of removed source shards goes, then what the destinations hold beside their
 * bundles, the journal last. */
bool finished_end(const struct plan *p, bool delete_source, struct err *e) CHECKED;
/* The same where the source cannot be opened, as a part of it is gone: by the journal, in the first target's folder, of
 * a run of its recipe. false: there is no such run here. */
bool finished_end_without_source(const char *src, const struct plan_target *targets, size_t target_count);

#endif
