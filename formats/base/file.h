/* Files. Reads with pread, not mmap: if a shard is truncated while we work, a
 * mapping ends in SIGBUS and a dead process; a short read is an error that
 * names the file. Writes go to NAME.partial at known offsets, are synced, and
 * only then get their name. */
#ifndef FORMATS_BASE_FILE_H
#define FORMATS_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

#define FILE_PARTIAL_SUFFIX ".partial"

/* An open file for reading. Zero holds nothing. Reading is thread-safe. */
struct file {
    int fd_plus_1; /* 0: closed */
    uint64_t bytes;
    char *path; /* owned */
};
bool file_open(struct file *f, const char *path, struct err *e) CHECKED; /* regular files only; links are followed */
bool file_read(const struct file *f, uint64_t offset, void *data, size_t bytes, struct err *e) CHECKED; /* all or an error with both numbers */
void file_expect(const struct file *f, uint64_t offset, uint64_t bytes); /* advice: this range will be read soon */
void file_close(struct file *f);

/* A small file whole, with a limit in bytes; *data is NUL-terminated past *bytes, mem_free it. */
bool file_slurp(const char *path, uint64_t limit_bytes, char **data, size_t *bytes, struct err *e) CHECKED;

/* A file being made. Zero holds nothing. output_write may be called by several
 * threads for disjoint ranges. */
struct output {
    int fd_plus_1;
    char *path, *partial_path; /* owned */
    uint64_t bytes;            /* planned size */
    bool keep;                 /* output_release leaves the partial file (for resume) */
};
/* Creates PATH.partial (truncating an old one unless `resume`) and reserves `bytes`, so that "no space"
 * is known in the first second (where the file system can). A locked partial file is another run's: an error. */
bool output_open(struct output *o, const char *path, uint64_t bytes, bool resume, struct err *e) CHECKED;
/* Whether output_open could begin there, asked before the work that makes the file: the folder is there and may be
 * written to, and PATH is a regular file, a link to one, or nothing yet. A folder, a device or a pipe of that name is
 * never replaced. */
bool output_check(const char *path, struct err *e) CHECKED;
/* The range lies within the planned size: that is the caller's to get right, and asserted. */
bool output_write(struct output *o, uint64_t offset, const void *data, size_t bytes, struct err *e) CHECKED;
bool output_sync(struct output *o, struct err *e) CHECKED;   /* fdatasync */
bool output_commit(struct output *o, struct err *e) CHECKED; /* fsync, close (checked), rename, fsync of the folder */
void output_release(struct output *o); /* not committed: the partial file goes away, unless keep */

/* A small file written the same safe way. */
bool file_write_whole(const char *path, const void *data, size_t bytes, struct err *e) CHECKED;
/* Copies a file of any size to a final name, safely. */
bool file_copy(const char *from, const char *to, struct err *e) CHECKED;

bool path_exists(const char *path); /* a link that leads nowhere exists; false: errno says why */
bool path_is_dir(const char *path);
bool path_same(const char *a, const char *b); /* the same device and inode */
/* What is written to one would be found at the other: the same name in the same folder, however spelled, or path_same. */
bool path_same_place(const char *a, const char *b);
/* The nearest existing parents are on the same file system: what is written to both shares its room. */
bool path_same_device(const char *a, const char *b);
bool dir_make(const char *path, struct err *e) CHECKED; /* with its parents; there already is fine */
bool dir_sync(const char *path, struct err *e) CHECKED;
bool dir_remove_tree(const char *path, struct err *e) CHECKED; /* absent is fine; does not follow links */
bool dir_is_empty(const char *path);
/* Names (not paths) of everything in a folder but . and .., sorted bytewise; in the arena. */
bool dir_list(const char *path, struct arena *a, char ***names, size_t *count, struct err *e) CHECKED;
/* The path itself or its nearest parent that exists; "/" or "." at the end of the search. */
const char *path_nearest(struct arena *a, const char *path);
/* Bytes an ordinary user may still write on the file system of the nearest existing parent of `path`. */
bool path_free_bytes(const char *path, uint64_t *bytes, struct err *e) CHECKED;
char *path_join(struct arena *a, const char *dir, const char *name);
char *path_parent(struct arena *a, const char *path); /* the folder it is in; "." when it has none */
/* The last component, slashes behind it included ("b/" of "a/b/"); "/" for the root. */
const char *path_base(const char *path);

#endif
