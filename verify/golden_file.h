/* What writing and reading a golden file share. */
#ifndef VERIFY_GOLDEN_FILE_H
#define VERIFY_GOLDEN_FILE_H

#include "formats/base/hash.h"
#include "formats/tensor_file.h"

#define GOLDEN_FORMAT       "quern-golden"
#define GOLDEN_VERSION      "1"
#define GOLDEN_TENSORS      7u
#define GOLDEN_METADATA_MAX 24u

/* Over names and values of the metadata but sha256, and names, types, shapes and bytes of the tensors, in file order.
 */
void golden_digest(const struct safetensors_meta *metadata, size_t metadata_count, const struct tensor_item *items,
                   size_t count, char hex[HASH_HEX_BYTES]);

static inline enum dtype_id golden_ids_dtype(uint64_t vocab)
{
    return vocab <= 65536 ? DTYPE_U16 : DTYPE_I32;
}

#endif
