/* `quern diff` but for its option table: from paths to reports and an exit status. */
#ifndef VERIFY_DIFF_RUN_H
#define VERIFY_DIFF_RUN_H

#include "verify/diff_checks.h"
#include "verify/diff_inputs.h"
#include "verify/forward.h"
#include "verify/output_files.h"

struct diff_options {
    struct diff_paths paths;
    struct corpus_options texts;
    struct forward_options forward;
    struct diff_threshold thresholds[METRIC_COUNT];
    uint64_t floor_tokens;
    const char *save_golden, *trace;
    /* Files to write, NULL: not. json "" is standard output, in place of the text. */
    const char *json, *junit, *markdown, *html;
    struct output_files outputs; /* all of these that are files, checked but for the checkpoints', which are opened here */
    bool quiet;
};

/* 0: no threshold failed; 1: one did; with an error, anything. */
int diff_run(const struct diff_options *o, struct err *e);

#endif
