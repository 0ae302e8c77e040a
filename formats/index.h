/* model.safetensors.index.json: which shard holds which tensor. */
#ifndef FORMATS_INDEX_H
#define FORMATS_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

#define INDEX_FILE_NAME "model.safetensors.index.json"

struct index_entry {
    const char *tensor;
    uint32_t shard; /* into shards */
};

/* Everything in the arena. */
struct index {
    struct index_entry *entries; /* in the file's order, no name twice */
    size_t entry_count;
    const char **shards; /* plain file names, sorted bytewise, each once */
    size_t shard_count;
    bool has_total_size; /* an integer metadata.total_size was there */
    uint64_t total_size;
};

/* Refuses: a weight_map that is absent, empty or not from names to plain file names, more than
 * CHECKPOINT_SHARDS_MAX files. `metadata` is optional. */
bool index_parse(struct index *x, struct arena *a, const char *text, size_t bytes, struct err *e) CHECKED;
bool index_load(struct index *x, struct arena *a, const char *path, uint64_t limit_bytes, struct err *e) CHECKED;

#endif
