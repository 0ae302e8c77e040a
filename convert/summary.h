/* One output in a few rows: what each group of roles is and becomes. The plan
 * (--dry-run), the report after a run, and the model card print the same rows. */
#ifndef CONVERT_SUMMARY_H
#define CONVERT_SUMMARY_H

#include <stddef.h>
#include <stdint.h>

#include "convert/plan.h"
#include "convert/run.h"
#include "formats/scheme.h"

struct summary_row {
    const char *group; /* of roles: "routed_expert" */
    char from[SCHEME_TEXT], to[SCHEME_TEXT];
    uint64_t weight_count, elems;
    uint64_t in_bytes, out_bytes; /* of all parts */
    struct weight_error error;    /* filled when there is a result */
    bool quantized;               /* error means something */
};

struct summary {
    struct summary_row *rows; /* in the arena; in order of first appearance */
    size_t row_count;
    uint64_t fell_back; /* weights that the group did not fit */
};

/* result NULL: before the run. */
void summary_make(struct summary *s, struct arena *a, const struct plan *p, const struct plan_output *o,
                  const struct run_result *result);
/* Text table to stdout. */
void summary_print(const struct summary *s, bool with_error);

#endif
