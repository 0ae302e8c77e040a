/* How fast this machine calibrates: a core's rates, from half a second of measurement on made-up FP8 weights and inputs
 * of the model's own widths, up to 1,024 columns. */
#ifndef CONVERT_CALIBRATION_RATES_H
#define CONVERT_CALIBRATION_RATES_H

#include "convert/calibration_cost.h"
#include "formats/arch.h"

/* Times are the thread's own, so that what else the machine does is left out. */
void calibration_rates_measure(struct calibration_rates *r, const struct arch *arch);

#endif
