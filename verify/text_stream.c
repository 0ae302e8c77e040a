#include "verify/text_stream.h"

#include <string.h>

#include "formats/base/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd"

/* Everything before the last `kept` bytes, with U+FFFD for each byte that belongs to no character. */
static void let_out(struct text_stream *s, size_t kept, struct buf *out)
{
    size_t end = s->held.bytes - kept;

    for (size_t at = 0; at < end;) {
        size_t good = utf8_end(s->held.data + at, end - at);
        buf_add(out, s->held.data + at, good);
        at += good;
        if (at < end) {
            buf_puts(out, REPLACEMENT);
            at++;
        }
    }
    if (kept)
        memmove(s->held.data, s->held.data + end, kept);
    s->held.bytes = kept;
}

void text_stream_put(struct text_stream *s, const char *bytes, size_t byte_count, struct buf *out)
{
    if (!byte_count)
        return;
    buf_add(&s->held, bytes, byte_count);
    let_out(s, utf8_unfinished(s->held.data, s->held.bytes), out);
}

void text_stream_end(struct text_stream *s, struct buf *out)
{
    if (s->held.bytes)
        buf_puts(out, REPLACEMENT); /* one for what would have been one character */
    s->held.bytes = 0;
}

void text_stream_release(struct text_stream *s)
{
    buf_release(&s->held);
}
