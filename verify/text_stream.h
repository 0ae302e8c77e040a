/* Text that comes token by token: whole characters go out, the beginning of one waits for its rest, and bytes that can
 * be none become U+FFFD. */
#ifndef VERIFY_TEXT_STREAM_H
#define VERIFY_TEXT_STREAM_H

#include "formats/base/mem.h"

/* Zero is an empty stream. */
struct text_stream {
    struct buf held; /* at most three bytes between calls */
};

/* Appends to out what can go out. */
void text_stream_put(struct text_stream *s, const char *bytes, size_t byte_count, struct buf *out);
/* The text ends: what still waits has no rest. */
void text_stream_end(struct text_stream *s, struct buf *out);
void text_stream_release(struct text_stream *s);

#endif
