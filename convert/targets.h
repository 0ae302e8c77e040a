/* Where the outputs of one reading go: DST, and what --also names. */
#ifndef CONVERT_TARGETS_H
#define CONVERT_TARGETS_H

#include "convert/conversion.h"
#include "convert/plan.h"

/* "RECIPE:DIR", as --also has it. *recipe is found with `find`, and the target borrows it and the text. */
bool target_parse(struct plan_target *target, const char *text, recipe_source *find, struct recipe *recipe,
                  struct err *e) CHECKED;
/* Removes what finished runs left in the targets, unless the command may be one that has to end such a run. Before the
 * source is opened: it may be gone. */
void targets_tidy(const struct conversion *c, const struct plan_target *targets, size_t count);
/* Refuses folders that may not be written, and two outputs into one. */
bool targets_check(const struct conversion *c, const struct plan_target *targets, size_t count, const char *source_dir,
                   struct err *e) CHECKED;

#endif
