/* A safetensors file made in one go from tensors in memory: statistics, logits,
 * golden values. Checkpoints are written by convert/, piece by piece. */
#ifndef FORMATS_TENSOR_FILE_H
#define FORMATS_TENSOR_FILE_H

#include <stddef.h>

#include "formats/base/err.h"
#include "formats/safetensors.h"

/* tensor: name, dtype, rank and dims; bytes and offset are filled in on writing. */
struct tensor_item {
    struct tensor tensor;
    const void *data; /* borrowed; little-endian, as this machine is */
};

struct tensor_item tensor_item_vector(const char *name, enum dtype_id dtype, uint64_t elems, const void *data);
struct tensor_item tensor_item_matrix(const char *name, enum dtype_id dtype, uint64_t rows, uint64_t cols,
                                      const void *data);
/* Written to a partial file, synced, renamed. The file's bytes follow from the arguments alone. Items stand in the
 * order given: the widest types first keeps all aligned. */
bool tensor_file_write(const char *path, const struct safetensors_meta *metadata, size_t metadata_count,
                       struct tensor_item *items, size_t count, struct err *e) CHECKED;

#endif
