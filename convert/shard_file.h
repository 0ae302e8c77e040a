/* A shard being written: pieces arrive at any offset, its SHA-256 is taken as
 * they come. */
#ifndef CONVERT_SHARD_FILE_H
#define CONVERT_SHARD_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/stream_hash.h"
#include "formats/base/err.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"

struct shard_file {
    struct output file;
    struct stream_hash hash;
    uint64_t handed;                   /* hash.given when it was last handed on to be synced */
    uint64_t synced;                   /* handed at the last sync; the syncer's */
    const struct buf *prefix, *suffix; /* borrowed: the first and the last bytes, hashed when hashing begins */
    bool open;                         /* the writer's: set once */
    bool hash_later; /* before it is opened: not all pieces come by here; it is read again when whole */
    bool done;       /* the syncer's: durable under its name */
    char sha256[HASH_HEX_BYTES];
};

/* Creates the file with its first and last bytes; resume: what an earlier run left in it stays. s is zero; what is the
 * hasher's is not touched, as the hasher may look at it now. A shard file that is released before its commit leaves its
 * partial file: the stage it stands in is kept for a resume, or removed whole. */
bool shard_file_open(struct shard_file *s, const char *path, uint64_t bytes, const struct buf *prefix,
                     const struct buf *suffix, bool resume, struct err *e) CHECKED;
bool shard_file_write(struct shard_file *s, uint64_t offset, const void *data, size_t bytes, struct err *e) CHECKED;
/* The same pieces, in any order, each once, after they were written. Open and write are one thread's, the writer's;
 * this and shard_file_hand are the hasher's; all below is the syncer's, which looks at `handed` alone of what changes
 * meanwhile: it is set while no sync is going on. */
void shard_file_hash(struct shard_file *s, uint64_t offset, const void *data, size_t bytes);
bool shard_file_hashed(const struct shard_file *s); /* every byte was */
/* What was hashed until now is for the syncer; a whole file is all its own from here on. */
void shard_file_hand(struct shard_file *s);
/* Bytes handed on are durable after this; nothing when it has nothing new. */
bool shard_file_sync(struct shard_file *s, struct err *e) CHECKED;
bool shard_file_complete(const struct shard_file *s); /* every byte was handed on, and it is not done yet */
/* Makes the file, every byte of which was hashed, durable under its name and fixes sha256. */
bool shard_file_commit(struct shard_file *s, struct err *e) CHECKED;
/* Also without a commit; idempotent. */
void shard_file_release(struct shard_file *s);

#endif
