/* The charts of a diff report, each a figure; one that has nothing to show is left out. */
#ifndef VERIFY_DIFF_CHARTS_H
#define VERIFY_DIFF_CHARTS_H

#include "verify/diff_report.h"

void diff_chart_histogram(const struct diff_report *r, const struct diff_candidate *c, struct buf *out);
void diff_chart_errors(const struct diff_report *r, const struct diff_candidate *c, struct buf *out);
void diff_chart_routing(const struct diff_report *r, const struct diff_candidate *c, struct buf *out);
void diff_chart_loads(const struct diff_report *r, const struct diff_candidate *c, struct buf *out);

#endif
