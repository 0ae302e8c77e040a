/* What is wrong with a checkpoint's numbers: the scales, which are few and say
 * much, and on request every value. */
#ifndef VERIFY_LINT_VALUES_H
#define VERIFY_LINT_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "verify/lint.h"

struct values_job {
    unsigned threads; /* 0: one per CPU; changes the time only */
    bool quiet;
};
struct values_sum {
    uint64_t scales, values; /* looked at */
    uint64_t read_bytes;
};

/* Every scale: not zero, finite, of a sign and size that scales have. Fails for what the system refuses and for a
 * signal only, as does lint_all_values. (lint_scales.c) */
bool lint_scales(const struct lint *l, const struct values_job *job, struct values_sum *sum, struct err *e) CHECKED;
/* Static activation scales, and weight scales of whole matrices: numbers that scales may be, and one for what engines
 * load as one. (lint_static.c) */
bool lint_static_scales(const struct lint *l, struct values_sum *sum, struct err *e) CHECKED;
/* Every number as an engine would decode it: finite; and groups and matrices that hold nothing. (lint_values.c) */
bool lint_all_values(const struct lint *l, const struct values_job *job, struct values_sum *sum, struct err *e) CHECKED;

#endif
