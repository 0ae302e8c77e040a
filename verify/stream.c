#include "verify/stream.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/mem.h"

static const char *scratch_dir(const struct stream_store *store)
{
    const char *dir = store->dir ? store->dir : getenv("TMPDIR");

    return dir && *dir ? dir : "/var/tmp";
}

/* O_TMPFILE where the file system has it, else a name that is taken away at once. */
static bool open_scratch(struct stream *s, const char *dir, struct err *e)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        struct buf name = {0};
        buf_printf(&name, "%s/quern-XXXXXX", dir);
        fd = mkostemp(name.data, O_CLOEXEC);
        if (fd >= 0)
            unlink(name.data);
        buf_release(&name);
    }
    if (fd < 0)
        return err_sys(e, "scratch file in '%s'", dir);
    s->fd_plus_1 = fd + 1;
    return true;
}

static uint64_t stream_bytes(const struct stream *s)
{
    return (uint64_t)s->tokens * s->width * sizeof(float);
}

bool stream_open(struct stream *s, struct stream_store *store, size_t tokens, size_t width, struct err *e)
{
    *s = (struct stream){.tokens = tokens, .width = width, .store = store};
    if (store->used_bytes > store->budget_bytes || stream_bytes(s) > store->budget_bytes - store->used_bytes)
        return open_scratch(s, scratch_dir(store), e);
    store->used_bytes += stream_bytes(s);
    s->memory = mem_aligned(stream_bytes(s) > 0 ? stream_bytes(s) : MEM_ALIGN);
    return true;
}

bool stream_fit(struct stream *s, struct stream_store *store, size_t tokens, size_t width, struct err *e)
{
    if (s->store == store && s->tokens == tokens && s->width == width)
        return true;
    stream_close(s);
    return stream_open(s, store, tokens, width, e);
}

void stream_close(struct stream *s)
{
    if (s->memory) {
        mem_free(s->memory);
        s->store->used_bytes -= stream_bytes(s);
    }
    if (s->fd_plus_1 > 0)
        close(s->fd_plus_1 - 1);
    *s = (struct stream){0};
}

/* pread or pwrite, until all is done. */
static bool move_rows(const struct stream *s, size_t first, size_t count, float *rows, bool out, struct err *e)
{
    char *at = (char *)rows;
    uint64_t offset = (uint64_t)first * s->width * sizeof(float);
    size_t left = count * s->width * sizeof(float);

    while (left > 0) {
        int fd = s->fd_plus_1 - 1;
        ssize_t n = out ? pwrite(fd, at, left, (off_t)offset) : pread(fd, at, left, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, "%s the scratch file in '%s'", out ? "writing" : "reading", scratch_dir(s->store));
        if (n == 0)
            return err_set(e, ERR_IO, "the scratch file in '%s' ends at %llu", scratch_dir(s->store),
                           (unsigned long long)offset);
        at += n;
        offset += (uint64_t)n;
        left -= (size_t)n;
    }
    return true;
}

bool stream_read(const struct stream *s, size_t first, size_t count, float *buffer, const float **rows, struct err *e)
{
    assert(first + count <= s->tokens);
    if (s->memory) {
        *rows = s->memory + first * s->width;
        return true;
    }
    *rows = buffer;
    return move_rows(s, first, count, buffer, false, e);
}

float *stream_place(const struct stream *s, size_t first, float *buffer)
{
    assert(first <= s->tokens);
    return s->memory ? s->memory + first * s->width : buffer;
}

bool stream_write(const struct stream *s, size_t first, size_t count, const float *rows, struct err *e)
{
    assert(first + count <= s->tokens);
    if (!s->memory)
        return move_rows(s, first, count, (float *)rows, true, e); /* pwrite does not write to it */
    float *own = s->memory + first * s->width;
    if (own != rows)
        memcpy(own, rows, count * s->width * sizeof *rows);
    return true;
}

bool stream_gather(const struct stream *s, const uint32_t *tokens, size_t count, float *rows, struct err *e)
{
    for (size_t i = 0; i < count; i++, rows += s->width) {
        assert(tokens[i] < s->tokens);
        if (s->memory)
            memcpy(rows, s->memory + tokens[i] * s->width, s->width * sizeof *rows);
        else if (!move_rows(s, tokens[i], 1, rows, false, e))
            return false;
    }
    return true;
}
