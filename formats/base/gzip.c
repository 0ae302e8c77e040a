#include "formats/base/gzip.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "formats/base/file.h"

#define WINDOW_GZIP (15 + 16) /* the largest window, and gzip's wrapper instead of zlib's */
#define STEP_BYTES  ((size_t)64 << 10)

/* zlib counts in unsigned int; a step of input is never more. */
static uInt next_step(size_t left)
{
    return left > INT_MAX ? (uInt)INT_MAX : (uInt)left;
}

/* zlib takes non-const input unless ZLIB_CONST; it does not write to it. */
static void feed(z_stream *z, const unsigned char *data, size_t bytes, size_t *at)
{
    if (z->avail_in || *at == bytes)
        return;
    z->next_in = (z_const Bytef *)(uintptr_t)(data + *at);
    z->avail_in = next_step(bytes - *at);
    *at += z->avail_in;
}

static bool zlib_failed(const z_stream *z, int result, struct err *e)
{
    if (result == Z_MEM_ERROR)
        abort(); /* as everywhere: see mem.h */
    return err_set(e, ERR_FORMAT, "broken gzip stream: %s", z->msg ? z->msg : zError(result));
}

bool gzip_is(const void *data, size_t bytes)
{
    return bytes >= 2 && !memcmp(data, "\x1f\x8b", 2);
}

bool gzip_pack(struct buf *out, const void *data, size_t bytes, struct err *e)
{
    z_stream z = {0};
    /* "Unknown" as the system, so that the host does not show in the bytes. */
    gz_header head = {.os = 255};
    unsigned char *step = mem_alloc(STEP_BYTES);
    size_t at = 0;
    int result = deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW_GZIP, 8, Z_DEFAULT_STRATEGY);

    if (result == Z_OK)
        result = deflateSetHeader(&z, &head);
    while (result == Z_OK) {
        feed(&z, data, bytes, &at);
        z.next_out = step;
        z.avail_out = (uInt)STEP_BYTES;
        result = deflate(&z, at == bytes ? Z_FINISH : Z_NO_FLUSH);
        buf_add(out, step, STEP_BYTES - z.avail_out);
    }
    bool ok = result == Z_STREAM_END || zlib_failed(&z, result, e);
    deflateEnd(&z);
    mem_free(step);
    return ok;
}

static bool unpack_all(z_stream *z, unsigned char *step, struct buf *out, const void *data, size_t bytes,
                       uint64_t limit_bytes, struct err *e)
{
    size_t at = 0;
    uint64_t made_bytes = 0;
    int result = Z_OK;

    while (result != Z_STREAM_END) {
        feed(z, data, bytes, &at);
        z->next_out = step;
        z->avail_out = (uInt)STEP_BYTES;
        result = inflate(z, Z_NO_FLUSH);
        size_t got = STEP_BYTES - z->avail_out;
        if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
            return zlib_failed(z, result, e);
        if (got > limit_bytes - made_bytes)
            return err_set(e, ERR_LIMIT, "gzip stream unpacks to more than the limit of %" PRIu64 " bytes",
                           limit_bytes);
        made_bytes += got;
        buf_add(out, step, got);
        if (result != Z_STREAM_END && !got && !z->avail_in && at == bytes)
            return err_set(e, ERR_FORMAT, "gzip stream ends early, after %zu bytes", bytes);
    }
    size_t behind = bytes - at + z->avail_in;
    if (behind)
        return err_set(e, ERR_FORMAT, "%zu bytes behind the end of the gzip stream", behind);
    return true;
}

bool gzip_unpack(struct buf *out, const void *data, size_t bytes, uint64_t limit_bytes, struct err *e)
{
    z_stream z = {0};
    size_t before = out->bytes;
    int result = inflateInit2(&z, WINDOW_GZIP);

    if (result != Z_OK)
        return zlib_failed(&z, result, e);
    unsigned char *step = mem_alloc(STEP_BYTES);
    buf_add(out, "", 0);
    bool ok = unpack_all(&z, step, out, data, bytes, limit_bytes, e);
    if (!ok) {
        out->bytes = before;
        out->data[before] = '\0';
    }
    inflateEnd(&z);
    mem_free(step);
    return ok;
}

bool gzip_slurp(const char *path, uint64_t limit_bytes, char **data, size_t *bytes, struct err *e)
{
    struct buf text = {0};
    char *raw = NULL;
    size_t raw_bytes = 0;

    if (!file_slurp(path, limit_bytes, &raw, &raw_bytes, e))
        return false;
    if (!gzip_is(raw, raw_bytes)) {
        *data = raw;
        *bytes = raw_bytes;
        return true;
    }
    bool ok = gzip_unpack(&text, raw, raw_bytes, limit_bytes, e);
    mem_free(raw);
    if (!ok) {
        buf_release(&text);
        return err_in(e, "'%s'", path);
    }
    *data = text.data;
    *bytes = text.bytes;
    return true;
}
