#include "convert/shard_file.h"

#include <assert.h>
#include <string.h>

#include "formats/base/mem.h"

#define READ_BACK_BYTES (1u << 20)

struct stash_piece {
    uint64_t offset;
    size_t bytes;
    void *data; /* owned */
};

bool shard_file_open(struct shard_file *s, const char *path, uint64_t bytes, const void *prefix, size_t prefix_bytes,
                     bool resume, struct err *e)
{
    *s = (struct shard_file){0};
    if (!output_open(&s->file, path, bytes, resume, e))
        return false;
    s->open = true;
    s->file.keep = true;
    s->prefix = prefix;
    s->prefix_bytes = prefix_bytes;
    return output_write(&s->file, 0, prefix, prefix_bytes, e);
}

bool shard_file_write(struct shard_file *s, uint64_t offset, const void *data, size_t bytes, struct err *e)
{
    assert(offset + bytes <= s->file.bytes);
    return output_write(&s->file, offset, data, bytes, e);
}

static void stash_put(struct shard_file *s, uint64_t offset, const void *data, size_t bytes)
{
    if (s->stash_bytes + bytes > SHARD_STASH_BYTES_MAX) {
        s->read_back = true;
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

static void stash_drop_first(struct shard_file *s, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        s->stash_bytes -= s->stash[i].bytes;
        mem_free(s->stash[i].data);
    }
    s->stash_count -= count;
    if (count > 0)
        memmove(s->stash, s->stash + count, s->stash_count * sizeof *s->stash);
}

static void begin(struct shard_file *s)
{
    if (s->begun)
        return;
    s->begun = true;
    hash_init(&s->hash);
    hash_update(&s->hash, s->prefix, s->prefix_bytes);
    s->hashed = s->given = s->prefix_bytes;
}

void shard_file_hash(struct shard_file *s, uint64_t offset, const void *data, size_t bytes)
{
    size_t taken = 0;

    begin(s);
    s->given += bytes;
    if (s->read_back || bytes == 0)
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

bool shard_file_sync(struct shard_file *s, struct err *e)
{
    if (!s->begun || s->done || s->synced == s->given)
        return true;
    if (!output_sync(&s->file, e))
        return false;
    s->synced = s->given;
    return true;
}

bool shard_file_complete(const struct shard_file *s)
{
    return s->begun && !s->done && s->given == s->file.bytes;
}

static bool hash_again(struct shard_file *s, struct err *e)
{
    struct file f = {0};
    uint8_t *block = mem_aligned(READ_BACK_BYTES);
    bool ok = false;

    hash_release(&s->hash);
    hash_init(&s->hash);
    if (!file_open(&f, s->file.partial_path, e))
        goto done;
    for (uint64_t at = 0; at < s->file.bytes; at += READ_BACK_BYTES) {
        uint64_t left = s->file.bytes - at;
        size_t bytes = left < READ_BACK_BYTES ? (size_t)left : READ_BACK_BYTES;
        if (!file_read(&f, at, block, bytes, e))
            goto done;
        hash_update(&s->hash, block, bytes);
    }
    ok = true;
done:
    file_close(&f);
    mem_free(block);
    return ok;
}

bool shard_file_commit(struct shard_file *s, struct err *e)
{
    begin(s);
    assert(shard_file_complete(s));
    if (s->read_back && !hash_again(s, e))
        return false;
    hash_final_hex(&s->hash, s->sha256);
    if (!output_commit(&s->file, e))
        return false;
    s->done = true;
    return true;
}

void shard_file_release(struct shard_file *s)
{
    stash_drop_first(s, s->stash_count);
    mem_free(s->stash);
    s->stash = NULL;
    s->stash_room = 0;
    hash_release(&s->hash);
    output_release(&s->file);
}
