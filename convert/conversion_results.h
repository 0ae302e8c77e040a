/* What a conversion says of its outputs when they are made: on stdout. */
#ifndef CONVERT_CONVERSION_RESULTS_H
#define CONVERT_CONVERSION_RESULTS_H

#include "convert/conversion.h"
#include "convert/proof.h"
#include "convert/run.h"

/* results, proofs: one for each output. proofs NULL: it was an earlier run that made them. */
void conversion_print_results(const struct conversion *c, const struct plan *p, const struct run_result *results,
                              const struct proof *proofs);

#endif
