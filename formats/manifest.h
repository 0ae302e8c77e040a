/* quern.json: what a bundle is and where every tensor of it came from.
 * quern-bundle(5) documents the fields. No date, host, path or thread count. */
#ifndef FORMATS_MANIFEST_H
#define FORMATS_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/mem.h"
#include "formats/scheme.h"

#define MANIFEST_NAME    "quern.json"
#define MANIFEST_VERSION 1u

struct manifest_file {
    const char *name;
    uint64_t bytes;
    const char *sha256;
};

/* One weight: the tensors it became, and from which. */
struct manifest_row {
    const char *name; /* logical: "model.layers.3.mlp.experts.0.gate_proj.weight" */
    const char *role;
    const char *why;
    const struct scheme *scheme;
    const char *tensors[PART_COUNT]; /* NULL: no such part */
    const char *sources[PART_COUNT];
    double error; /* |W - W'| / |W|, against the source's numbers; negative: exact, or only rounded to a float type */
};

struct manifest_drop {
    const char *tensor, *why;
};

struct manifest {
    const char *tool_version;
    const char *kernel_class; /* "exact": no byte depends on the CPU */
    const char *recipe_text;  /* canonical JSON */
    const char *config_sha256; /* of the source's config.json */
    struct manifest_file *sources; /* the source's shards; empty unless they were hashed */
    size_t source_count;
    struct manifest_file *files;
    size_t file_count;
    struct manifest_row *rows;
    size_t row_count;
    struct manifest_drop *drops;
    size_t drop_count;
};

void manifest_write(struct buf *out, const struct manifest *m);

#endif
