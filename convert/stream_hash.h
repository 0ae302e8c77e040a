/* SHA-256 of a file whose pieces come in any order. A piece ahead of the hash's
 * place (the scales behind codes that are still being made) waits in a stash,
 * copied; should the stash ever outgrow its limit, the file is to be read again
 * at the end instead. One thread at a time. */
#ifndef CONVERT_STREAM_HASH_H
#define CONVERT_STREAM_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"

/* Scales are a sixty-fourth of int4 codes: this holds those of 4 GB of one matrix. */
#define STREAM_HASH_STASH_MAX (64u << 20)

/* Zero has begun nothing. */
struct stream_hash {
    struct hash hash;
    uint64_t hashed;           /* bytes from the start that are in the hash */
    uint64_t given;            /* bytes put, in whatever order */
    struct stash_piece *stash; /* sorted by offset */
    size_t stash_count, stash_room;
    uint64_t stash_bytes;
    bool begun, read_again;
};

/* Each piece once. */
void stream_hash_put(struct stream_hash *s, uint64_t offset, const void *data, size_t bytes);
/* The digest; reads `path` when the pieces were not enough. Ends s. */
bool stream_hash_final(struct stream_hash *s, const char *path, char hex[HASH_HEX_BYTES], struct err *e) CHECKED;
void stream_hash_release(struct stream_hash *s); /* idempotent */

#endif
