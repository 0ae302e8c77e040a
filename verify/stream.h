/* Rows of float32, one per token: a hidden state of a whole batch. In memory,
 * or, when what is left of the budget does not hold it, in a scratch file that
 * has no name and goes away with the process. */
#ifndef VERIFY_STREAM_H
#define VERIFY_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

/* What streams may take; shared by those that were opened with it, and outlives them. */
struct stream_store {
    uint64_t budget_bytes, used_bytes;
    const char *dir; /* for scratch files; NULL: $TMPDIR, or /var/tmp */
};

/* Zero holds nothing. Rows that do not overlap may be read and written by several threads. */
struct stream {
    size_t tokens, width;
    float *memory; /* [tokens][width]; NULL: in the file */
    int fd_plus_1;
    struct stream_store *store;
};

bool stream_open(struct stream *s, struct stream_store *store, size_t tokens, size_t width, struct err *e) CHECKED;
/* Open with this shape already: kept, with what is in it. Else closed and opened. */
bool stream_fit(struct stream *s, struct stream_store *store, size_t tokens, size_t width, struct err *e) CHECKED;
void stream_close(struct stream *s); /* idempotent */

/* Rows [first, first + count), in the stream's own memory or read into the buffer [count][width]. */
bool stream_read(const struct stream *s, size_t first, size_t count, float *buffer, const float **rows,
                 struct err *e) CHECKED;
/* Where to put rows that start at `first`: its own memory, or the buffer. stream_write then stores them. */
float *stream_place(const struct stream *s, size_t first, float *buffer);
bool stream_write(const struct stream *s, size_t first, size_t count, const float *rows, struct err *e) CHECKED;
/* Rows that are scattered: into [count][width]. */
bool stream_gather(const struct stream *s, const uint32_t *tokens, size_t count, float *rows, struct err *e) CHECKED;

#endif
