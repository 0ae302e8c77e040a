/* Reports of `quern diff` made up from a seed, for tests of what is printed. */
#ifndef TESTS_DIFF_FIXTURE_H
#define TESTS_DIFF_FIXTURE_H

#include "verify/diff_report.h"

enum diff_fixture {
    FIXTURE_SMALL,   /* four layers, as the sample; every threshold holds */
    FIXTURE_LARGE,   /* 61 layers of 256 experts; layer 37 stands out, thresholds fail, weights are unexpected */
    FIXTURE_GOLDEN,  /* from a golden file, one context, no threshold */
    FIXTURE_PAIRED,  /* two candidates */
    FIXTURE_HOSTILE, /* names with markup, control characters, broken UTF-8, and long ones */
    FIXTURE_COUNT
};
extern const char *const diff_fixture_names[FIXTURE_COUNT];

/* Release with diff_report_release. */
void diff_fixture_make(struct diff_report *r, enum diff_fixture kind);

#endif
