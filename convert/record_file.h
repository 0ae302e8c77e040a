/* A text file that says how far a run has come, so that a killed one goes on:
 *
 *     quern-NAME 1
 *     fact NAME "VALUE"           what the run was: a file with other facts is another run's
 *     end                         the facts are complete
 *     ...                         records, a line each
 *
 * A record is appended only after the bytes it speaks of were synced. A last line without its newline was cut by the
 * kill, and is ignored. */
#ifndef CONVERT_RECORD_FILE_H
#define CONVERT_RECORD_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/checkpoint.h"

#define RECORD_BYTES_MAX (1u << 30)

/* Zero is closed. */
struct record_file {
    int fd_plus_1;
    char *path;     /* owned */
    uint64_t bytes; /* whole lines in the file: the next goes behind them, over a half one */
    bool found;     /* an earlier run's, and gone on with */
};

/* The facts as text, from the first line to "end\n" included. */
void record_fact(struct buf *facts, const char *name, const char *value);
void record_source_facts(struct buf *facts, const struct checkpoint *c); /* config.json, shards */
bool record_facts_complete(const char *text);
size_t record_line_bytes(const char *text); /* of its first line, the newline not counted */

/* Whether record_open would refuse, without touching anything. */
bool record_check(const char *path, const struct buf *facts, struct err *e) CHECKED;
/* Opens or creates. A file that is there must have the same facts: else ERR_USAGE naming the first that differs, with
 * both values. *records: what is there behind them, mem_free it; NULL: the file is new. */
bool record_open(struct record_file *r, const char *path, const struct buf *facts, char **records,
                 struct err *e) CHECKED;
/* Whole lines, synced. After an error what was written does not count, and may be tried again. */
bool record_append(struct record_file *r, const struct buf *text, struct err *e) CHECKED;
void record_close(struct record_file *r); /* idempotent */

#endif
