/* Reading past the page cache: large ranges that are wanted once go from the
 * disk to the caller's pages, with no copy and nothing pushed out of memory.
 * Only the way is another: the bytes, and the errors, are file_read's. */
#ifndef FORMATS_BASE_DIRECT_H
#define FORMATS_BASE_DIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/file.h"

#define DIRECT_PAGE_BYTES 4096u

/* Zero holds nothing. Reading is thread-safe. */
struct direct {
    const struct file *file; /* borrowed, open as long as this is */
    int fd_plus_1;           /* 0: the file system has no O_DIRECT; everything goes through file_read */
    const uint8_t *map;      /* for looking at what is cached, never read; NULL: cannot be known */
};
void direct_open(struct direct *d, const struct file *f); /* cannot fail: what it cannot have, it does without */
void direct_close(struct direct *d);

/* The whole pages around a range: the room that it takes. */
uint64_t direct_room_bytes(uint64_t offset, uint64_t bytes);
/* All of the range, or file_read's error. room: direct_room_bytes, on a page; the range begins at
 * room + offset % DIRECT_PAGE_BYTES. What lies in the page cache for the most part is copied from there. */
bool direct_read(const struct direct *d, uint64_t offset, uint64_t bytes, uint8_t *room, struct err *e) CHECKED;

#endif
