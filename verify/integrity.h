/* A bundle against its manifest: files by size and SHA-256, tensors by the rows. */
#ifndef VERIFY_INTEGRITY_H
#define VERIFY_INTEGRITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/manifest.h"
#include "formats/weight.h"
#include "verify/finding.h"

/* Which files of which folder are held against a list, and what is said of those that differ. */
struct integrity_job {
    const char *dir;
    const struct manifest_file *files;
    size_t file_count;
    bool hash; /* sizes alone otherwise */
    enum rule_id missing, size, differs;
    const char *what; /* of the progress line: "verify" */
    unsigned threads; /* a file is one thread's; 0: one per CPU */
    bool quiet;
};

struct integrity_sum {
    size_t good; /* files that are as listed */
    uint64_t bytes;
};

/* Every listed file: there, of that size and hash. Findings in the order of the list. Fails for what the system
 * refuses and for a signal only. */
bool integrity_files(const struct integrity_job *job, struct integrity_sum *sum, struct findings *findings,
                     struct err *e) CHECKED;
/* Files of the bundle's folder that the manifest does not list. */
bool integrity_extra(const char *dir, const struct manifest *m, struct findings *findings, struct err *e) CHECKED;
/* The manifest's rows against the tensors that are there: each tensor in one row, by name, type and shape. */
void integrity_rows(const struct manifest *m, const struct source *s, struct findings *findings);

#endif
