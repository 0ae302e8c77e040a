#include "convert/stream_hash.h"

#include <string.h>

#include "formats/base/mem.h"

#define READ_BYTES (1u << 20)

struct stash_piece {
    uint64_t offset;
    size_t bytes;
    void *data; /* owned */
};

static void stash_put(struct stream_hash *s, uint64_t offset, const void *data, size_t bytes)
{
    if (s->stash_bytes + bytes > STREAM_HASH_STASH_MAX) {
        s->read_again = true;
        return;
    }
    if (s->stash_count == s->stash_room) {
        s->stash_room = s->stash_room ? s->stash_room * 2 : 16;
        s->stash = mem_grow(s->stash, s->stash_room, sizeof *s->stash);
    }
    size_t at = s->stash_count++;
    for (; at > 0 && s->stash[at - 1].offset > offset; at--)
        s->stash[at] = s->stash[at - 1];
    s->stash[at] = (struct stash_piece){.offset = offset, .bytes = bytes, .data = mem_aligned(bytes)};
    memcpy(s->stash[at].data, data, bytes);
    s->stash_bytes += bytes;
}

static void stash_drop_first(struct stream_hash *s, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        s->stash_bytes -= s->stash[i].bytes;
        mem_free(s->stash[i].data);
    }
    s->stash_count -= count;
    if (count > 0)
        memmove(s->stash, s->stash + count, s->stash_count * sizeof *s->stash);
}

void stream_hash_put(struct stream_hash *s, uint64_t offset, const void *data, size_t bytes)
{
    size_t taken = 0;

    if (!s->begun) {
        hash_init(&s->hash);
        s->begun = true;
    }
    s->given += bytes;
    if (s->read_again || bytes == 0)
        return;
    if (offset != s->hashed) {
        stash_put(s, offset, data, bytes);
        return;
    }
    hash_update(&s->hash, data, bytes);
    s->hashed += bytes;
    while (taken < s->stash_count && s->stash[taken].offset == s->hashed) {
        hash_update(&s->hash, s->stash[taken].data, s->stash[taken].bytes);
        s->hashed += s->stash[taken++].bytes;
    }
    stash_drop_first(s, taken);
}

static bool hash_file(struct stream_hash *s, const struct file *f, struct err *e)
{
    uint8_t *block = mem_aligned(READ_BYTES);
    bool ok = true;

    hash_release(&s->hash);
    hash_init(&s->hash);
    for (uint64_t at = 0; at < f->bytes && ok; at += READ_BYTES) {
        uint64_t left = f->bytes - at;
        size_t bytes = left < READ_BYTES ? (size_t)left : READ_BYTES;
        ok = file_read(f, at, block, bytes, e);
        if (ok)
            hash_update(&s->hash, block, bytes);
    }
    mem_free(block);
    return ok;
}

bool stream_hash_final(struct stream_hash *s, const char *path, char hex[HASH_HEX_BYTES], struct err *e)
{
    struct file f = {0};

    if (!s->begun || s->read_again || s->stash_count > 0) {
        bool ok = file_open(&f, path, e) && hash_file(s, &f, e);
        file_close(&f);
        if (!ok)
            return false;
    }
    hash_final_hex(&s->hash, hex);
    stream_hash_release(s);
    return true;
}

void stream_hash_release(struct stream_hash *s)
{
    stash_drop_first(s, s->stash_count);
    mem_free(s->stash);
    hash_release(&s->hash);
    *s = (struct stream_hash){0};
}
