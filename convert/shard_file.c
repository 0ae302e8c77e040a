#include "convert/shard_file.h"

#include <assert.h>

bool shard_file_open(struct shard_file *s, const char *path, uint64_t bytes, const struct buf *prefix,
                     const struct buf *suffix, bool resume, struct err *e)
{
    if (!output_open(&s->file, path, bytes, resume, e))
        return false;
    s->open = true;
    s->file.keep = true;
    s->prefix = prefix;
    s->suffix = suffix;
    return output_write(&s->file, 0, prefix->data, prefix->bytes, e) &&
           output_write(&s->file, bytes - suffix->bytes, suffix->data, suffix->bytes, e);
}

bool shard_file_write(struct shard_file *s, uint64_t offset, const void *data, size_t bytes, struct err *e)
{
    return output_write(&s->file, offset, data, bytes, e);
}

static void begin(struct shard_file *s)
{
    if (s->hash.begun)
        return;
    s->hash.read_again = s->hash_later;
    stream_hash_put(&s->hash, 0, s->prefix->data, s->prefix->bytes);
    stream_hash_put(&s->hash, s->file.bytes - s->suffix->bytes, s->suffix->data, s->suffix->bytes);
}

void shard_file_hash(struct shard_file *s, uint64_t offset, const void *data, size_t bytes)
{
    begin(s);
    stream_hash_put(&s->hash, offset, data, bytes);
}

bool shard_file_hashed(const struct shard_file *s)
{
    return s->hash.begun && s->hash.given == s->file.bytes;
}

void shard_file_hand(struct shard_file *s)
{
    if (s->hash.begun)
        s->handed = s->hash.given;
}

bool shard_file_sync(struct shard_file *s, struct err *e)
{
    if (s->done || s->synced == s->handed)
        return true;
    if (!output_sync(&s->file, e))
        return false;
    s->synced = s->handed;
    return true;
}

/* `handed` first: of a file that has none, the rest may be being made. */
bool shard_file_complete(const struct shard_file *s)
{
    return s->handed > 0 && !s->done && s->handed == s->file.bytes;
}

bool shard_file_commit(struct shard_file *s, struct err *e)
{
    begin(s);
    assert(s->hash.given == s->file.bytes);
    if (!stream_hash_final(&s->hash, s->file.partial_path, s->sha256, e) || !output_commit(&s->file, e))
        return false;
    s->done = true;
    return true;
}

void shard_file_release(struct shard_file *s)
{
    stream_hash_release(&s->hash);
    output_release(&s->file);
}
