/* A fixed number of threads that read, as an engine with a queue of that depth
 * would: each takes the next read when it is done with one. */
#ifndef VERIFY_READ_TEAM_H
#define VERIFY_READ_TEAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

enum read_method {
    READ_PREAD,  /* through the page cache */
    READ_DIRECT, /* O_DIRECT, rounded out to whole pages */
    READ_MMAP,   /* every page of a mapping touched */
    READ_METHOD_COUNT
};
const char *read_method_name(enum read_method m);

#define READ_PAGE_BYTES 4096u

/* A file opened for one method. Zero holds nothing. */
struct read_file {
    int fd_plus_1;
    const uint8_t *map; /* READ_MMAP */
    uint64_t bytes;
};
/* ERR_UNSUPPORTED where the file system knows no O_DIRECT. */
bool read_file_open(struct read_file *f, const char *path, enum read_method m, struct err *e) CHECKED;
/* Asks the kernel to forget the file's pages; those of others' mappings stay. */
void read_file_forget(const struct read_file *f);
void read_file_close(struct read_file *f);

/* One read: file bytes [offset, offset + bytes) to `to`, which has room for whole pages around them. */
struct read_task {
    const struct read_file *file;
    uint64_t offset, bytes;
    uint8_t *to;
};
/* What a task reads, and so what room it takes: whole pages with READ_DIRECT. */
uint64_t read_task_bytes(enum read_method m, uint64_t offset, uint64_t bytes);

struct read_team; /* opaque */

struct read_team *read_team_new(enum read_method m, unsigned depth);
/* All tasks, to their end. The error of the lowest-numbered task that failed. */
bool read_team_run(struct read_team *t, const struct read_task *tasks, size_t count, struct err *e) CHECKED;
void read_team_free(struct read_team *t);

#endif
