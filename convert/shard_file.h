/* A shard being written: pieces arrive at any offset, its SHA-256 is taken in
 * file order as they come. A piece ahead of the hash's place (the scales behind
 * codes that are still being made) waits in a stash; should the stash ever
 * outgrow its limit, the file is read back once at the end instead. */
#ifndef CONVERT_SHARD_FILE_H
#define CONVERT_SHARD_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"

/* Scales are a sixty-fourth of int4 codes: this holds those of 4 GB of one matrix. */
#define SHARD_STASH_BYTES_MAX (64u << 20)

struct shard_file {
    struct output file;
    struct hash hash;
    uint64_t hashed; /* bytes from the start that are in the hash */
    uint64_t given;  /* bytes handed to shard_file_hash, prefix included */
    struct stash_piece *stash; /* sorted by offset */
    size_t stash_count, stash_room;
    uint64_t stash_bytes;
    bool read_back;
    bool open, done;
    char sha256[HASH_HEX_BYTES];
};

/* Creates the file with its first bytes. */
bool shard_file_open(struct shard_file *s, const char *path, uint64_t bytes, const void *prefix, size_t prefix_bytes,
                     struct err *e) CHECKED;
bool shard_file_write(struct shard_file *s, uint64_t offset, const void *data, size_t bytes, struct err *e) CHECKED;
/* The same pieces, in any order, each once, after they were written; by one thread at a time. */
void shard_file_hash(struct shard_file *s, uint64_t offset, const void *data, size_t bytes);
bool shard_file_complete(const struct shard_file *s); /* every byte was given */
/* Makes the file durable under its name and fixes sha256. */
bool shard_file_commit(struct shard_file *s, struct err *e) CHECKED;
void shard_file_release(struct shard_file *s);

#endif
