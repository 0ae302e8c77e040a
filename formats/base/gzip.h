/* gzip, the one door to zlib. */
#ifndef FORMATS_BASE_GZIP_H
#define FORMATS_BASE_GZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

bool gzip_is(const void *data, size_t bytes); /* starts with the magic 1f 8b */
/* Appends to out; the result is the same for the same input (no time, no name). */
bool gzip_pack(struct buf *out, const void *data, size_t bytes, struct err *e) CHECKED;
/* Appends to out; refuses to grow past limit_bytes, a broken stream, and bytes behind its end. */
bool gzip_unpack(struct buf *out, const void *data, size_t bytes, uint64_t limit_bytes, struct err *e) CHECKED;
/* A text file, plain or gzipped, whole; *data is NUL-terminated past *bytes, mem_free it. */
bool gzip_slurp(const char *path, uint64_t limit_bytes, char **data, size_t *bytes, struct err *e) CHECKED;

#endif
