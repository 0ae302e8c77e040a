/* What calibration did to one weight: for the journal, the manifest and the coverage report. */
#ifndef CONVERT_CALIBRATED_RESULT_H
#define CONVERT_CALIBRATED_RESULT_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/calibrated.h"

struct calibrated_result {
    bool done;
    enum ending ending;
    enum reason reason;
    double loss_error, loss_energy; /* of the rows that were measured: quant/loss.h */
    double to_prior, to_diagonal;   /* shrinkage */
    uint64_t tokens;                /* that reached the input; at most the cap of a hot expert is measured */
    double routed_weight;           /* sum of the router's weights over them; experts only */
    float input_most;               /* largest magnitude that entered it, of all tokens */
    float output_most;              /* and left it; an expert's down_proj only */
};

#endif
