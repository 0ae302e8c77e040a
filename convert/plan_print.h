/* The plan in words and as JSON: what --dry-run prints. */
#ifndef CONVERT_PLAN_PRINT_H
#define CONVERT_PLAN_PRINT_H

#include <stdbool.h>

#include "convert/estimate.h"
#include "convert/plan.h"
#include "convert/proof.h"
#include "convert/run.h"

/* disk_bytes: at the peak, as space.h counts it. verbose: every row. All to stdout. */
void plan_print(const struct plan *p, size_t output, const struct proof *proof, const struct run_size *size,
                const struct estimate *estimate, uint64_t disk_bytes, bool verbose);
/* What was proved of the result; nothing where there was nothing to prove. */
void plan_print_proved(const struct proof *proof);
/* Without result: the plan. With it size and estimate are NULL, and proof may be. */
void plan_print_json(const struct plan *p, size_t output, const struct run_result *result, const struct proof *proof,
                     const struct run_size *size, const struct estimate *estimate, uint64_t disk_bytes);

#endif
