/* A checkpoint: a folder of safetensors shards with an index, a folder with one
 * file, or one file. Only headers are read at open; data comes by pread. */
#ifndef FORMATS_CHECKPOINT_H
#define FORMATS_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/file.h"
#include "formats/base/map.h"
#include "formats/base/mem.h"
#include "formats/tensor.h"

#define CHECKPOINT_CONFIG_BYTES_MAX (16u << 20)
#define CHECKPOINT_INDEX_BYTES_MAX  (512u << 20)
#define CHECKPOINT_SHARDS_MAX       10000u

struct shard {
    const char *name; /* "model-00001-of-00163.safetensors": as the index says, a plain file name */
    uint64_t bytes;
    uint64_t data_offset;
    int64_t mtime_ns; /* when it was last written */
    bool removed;     /* only its header is left: checkpoint_remove_shard took the rest */
    bool broken;      /* could not be opened: its tensors are not there (checkpoint_open_all only) */
    struct file file; /* open while the checkpoint is (descriptor limit is raised if needed) */
};

/* Harmless, but worth a line. */
struct checkpoint_note {
    const char *rule; /* stable name: "index-total-size" */
    const char *text; /* "index: total_size 5 is not the 7 that headers say" */
};

struct checkpoint {
    struct arena arena;
    const char *path;     /* as given */
    const char *dir;      /* the folder that holds it */
    bool indexed;         /* model.safetensors.index.json was there */
    struct shard *shards; /* sorted by name */
    size_t shard_count;
    struct tensor *tensors; /* sorted by shard, then offset */
    size_t tensor_count;
    struct map by_name; /* name -> index into tensors */
    char *config;       /* config.json's bytes, NULL when there is none */
    size_t config_bytes;
    uint64_t tensor_bytes; /* sum over tensors */
    struct checkpoint_note *notes;
    size_t note_count;
};

/* path: a folder, or one .safetensors file (then config.json is looked for beside it).
 * Refuses, naming shard and tensor: an index that names a file or tensor that is not there, a tensor
 * not in the index, a tensor in two shards, unsafe file names, an empty folder. Links into a blob
 * store are followed. Shards of a folder without index: exactly one `model.safetensors`, or exactly
 * one .safetensors file. */
bool checkpoint_open(struct checkpoint *c, const char *path, struct err *e) CHECKED;
/* The same for a reader that wants to know all that is wrong: shards, index entries and tensors that are refused go to
 * the sink, and the checkpoint opens without them. Fails when nothing can be told: no shards, no index that parses. */
bool checkpoint_open_all(struct checkpoint *c, const char *path, const struct err_sink *sink, struct err *e) CHECKED;
/* Whether a file's name says that it is one of several: "model-00001-of-00163.safetensors". */
bool checkpoint_shard_part(const char *name, uint64_t *part, uint64_t *parts);
const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name); /* NULL: absent */
/* bytes [offset, offset + bytes) of a tensor; thread-safe. Errors name shard and tensor. */
bool checkpoint_read(const struct checkpoint *c, const struct tensor *t, uint64_t offset, void *data, size_t bytes,
                     struct err *e) CHECKED;
/* Asks the system to begin reading a tensor that will be wanted soon; advice, so nothing can fail. Thread-safe. */
void checkpoint_expect(const struct checkpoint *c, const struct tensor *t);
void checkpoint_close(struct checkpoint *c); /* idempotent */
/* Whether a file that is there is one that the checkpoint is read from: a shard, the index, config.json, quern.json or
 * one of the tokenizer's; or another name of one. */
bool checkpoint_holds(const struct checkpoint *c, const char *path);

/* A shard whose data is wanted no more becomes NAME.removed, cut to its header (and keeping its time): its space is
 * free, what was in it stays known, and a conversion that was killed can go on. Opening finds such a file where the
 * shard is absent. A shard that is a link is ERR_UNSUPPORTED: others may use what it leads to. */
#define CHECKPOINT_REMOVED_SUFFIX ".removed"
bool checkpoint_check_removable(const struct checkpoint *c, struct err *e) CHECKED;
bool checkpoint_remove_shard(struct checkpoint *c, size_t shard, struct err *e) CHECKED;
/* The last of it: unlinks every NAME.removed. */
bool checkpoint_remove_headers(const struct checkpoint *c, struct err *e) CHECKED;

#endif
