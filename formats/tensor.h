/* A tensor as a container describes it: a name, a type, a shape and a place. */
#ifndef FORMATS_TENSOR_H
#define FORMATS_TENSOR_H

#include <stdint.h>

#include "formats/dtype.h"

#define TENSOR_RANK_MAX 8u

struct tensor {
    const char *name; /* in the checkpoint's arena */
    enum dtype_id dtype;
    uint32_t rank;
    uint64_t dims[TENSOR_RANK_MAX]; /* row-major, the last one contiguous */
    uint32_t shard;                 /* index into the checkpoint's shards */
    uint64_t offset;                /* of its first byte, from the start of the file */
    uint64_t bytes;
};

uint64_t tensor_elems(const struct tensor *t); /* 1 for a scalar */
/* "[7168, 2048]" into text; returns text. */
#define TENSOR_SHAPE_TEXT 200
const char *tensor_shape_text(uint32_t rank, const uint64_t *dims, char text[TENSOR_SHAPE_TEXT]);

#endif
