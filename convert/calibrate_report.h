/* What a calibration saw, layer by layer: for the terminal, and for programs. */
#ifndef CONVERT_CALIBRATE_REPORT_H
#define CONVERT_CALIBRATE_REPORT_H

#include "formats/base/mem.h"
#include "formats/calib_stats.h"

/* A line for each layer: tokens per expert and, with losses, each scheme's error of the output over its size, experts
 * weighted by their tokens. An expert with fewer than min_tokens is starved. */
void calibrate_print(const struct calib_stats *s, uint64_t min_tokens, struct buf *out);
/* The same as JSON, with every expert's tokens and routed weight. */
void calibrate_json(const struct calib_stats *s, uint64_t min_tokens, struct buf *out);

#endif
