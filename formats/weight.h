/* Weights: tensors put together. A quantized matrix is several tensors (codes,
 * scales, zero points, shape), maybe in different shards; this is the one place
 * that pairs them and says how the numbers are stored. */
#ifndef FORMATS_WEIGHT_H
#define FORMATS_WEIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/checkpoint.h"
#include "formats/scheme.h"

struct weight {
    const char *module; /* "model.layers.3.mlp.experts.0.gate_proj" */
    const char *name;   /* the logical tensor: module + ".weight" (or the bare parameter's own name) */
    struct tensor_id id;
    struct scheme stored;
    uint64_t rows, cols; /* matrix; rank 1: rows 1, cols n; rank 0: 1, 1; rank > 2: rows = dims[0], cols = the rest */
    const struct tensor *parts[PART_COUNT]; /* NULL: not there */
    const struct tensor *input_scale;       /* static activation scale, or NULL; travels along unchanged */
    bool broken; /* its parts do not fit each other or config.json: it is RAW (only where a sink was given) */
};

struct weights {
    struct arena arena;
    struct weight *items; /* by the place of their codes: shard, then offset */
    size_t count;
    struct map by_name; /* logical name -> index */
};

/* Pairs every tensor of the checkpoint. Refuses, naming tensor, both shapes or dtypes: codes without scale,
 * a scale without codes, shapes that do not fit each other or config.json, FP8 dtypes other than e4m3fn
 * where codes are expected, packed int4 with g_idx or bits other than 4. Reads the small weight_shape
 * tensors only when `read_shapes` (plan and diff do, inspect takes them from config). Tensors of unknown
 * role become RAW weights of their own. With a sink (else NULL), what is refused goes there. */
bool weights_open(struct weights *w, const struct checkpoint *c, const struct arch *arch, bool read_shapes,
                  const struct err_sink *sink, struct err *e) CHECKED;
const struct weight *weights_find(const struct weights *w, const char *logical_name);
void weights_release(struct weights *w);

/* The whole source side in one: checkpoint, arch, weights. config.json is required. */
struct source {
    struct checkpoint checkpoint;
    struct arch arch;
    struct weights weights;
};
bool source_open(struct source *s, const char *path, bool read_shapes, struct err *e) CHECKED;
/* For lint: every defect goes to the sink, and what can be read is read. false: too little to tell more; s is closed.
 */
bool source_open_all(struct source *s, const char *path, const struct err_sink *sink, struct err *e) CHECKED;
void source_close(struct source *s);

#endif
