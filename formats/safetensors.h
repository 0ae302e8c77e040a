/* The safetensors container: 8 bytes of length, a JSON header, the data.
 * Refusals are those of the reference reader (crate 0.8) and a few more that
 * the specification allows: duplicate tensor names (also when spelled with
 * escapes), NUL and empty names, leading space, tensor info as an array. */
#ifndef FORMATS_SAFETENSORS_H
#define FORMATS_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/file.h"
#include "formats/base/mem.h"
#include "formats/tensor.h"

/* The limit the reference reader uses, so that we refuse what it refuses. */
#define SAFETENSORS_HEADER_BYTES_MAX 100000000u
/* The hub's own page stops parsing above this; a writer stays below. */
#define SAFETENSORS_HEADER_BYTES_HUB 25000000u
/* fastsafetensors reads in O_DIRECT units; a data area that starts on one needs no move. */
#define SAFETENSORS_DATA_ALIGN 4096u

/* One member of "__metadata__". */
struct safetensors_meta {
    const char *key, *value;
};

struct safetensors {
    struct tensor *tensors; /* in the arena, by offset; .offset counts from the start of the file, .shard is 0 */
    size_t tensor_count;
    uint64_t data_offset; /* 8 + N */
    struct safetensors_meta *metadata; /* in the file's order; in the arena */
    size_t metadata_count;
    const char *metadata_format; /* "__metadata__".format, or NULL */
    size_t ignored_fields;       /* extra keys in tensor objects, accepted with a note */
};

/* The file's size is not known, or no longer what the header was made for: its data area is not checked. */
#define SAFETENSORS_ANY_BYTES UINT64_MAX

/* head: the file's first head_bytes bytes, which must hold length and header; file_bytes: its whole size, or
 * SAFETENSORS_ANY_BYTES. */
bool safetensors_parse(struct safetensors *s, struct arena *a, const uint8_t *head, size_t head_bytes,
                       uint64_t file_bytes, struct err *e) CHECKED;
/* Reads and parses the header of an open file. */
bool safetensors_read(struct safetensors *s, struct arena *a, const struct file *f, struct err *e) CHECKED;
/* The same of a file that may have been cut behind its header: its size is not checked. */
bool safetensors_read_cut(struct safetensors *s, struct arena *a, const struct file *f, struct err *e) CHECKED;

/* ---- writing ---- */

/* Lays tensors out one behind the other in the order given (their .bytes known), and builds length and
 * header, padded so that data starts at a multiple of SAFETENSORS_DATA_ALIGN. On return every .offset
 * is absolute, head holds the file's first bytes, *file_bytes its whole size. Refuses a header above
 * the hub's limit. The offsets of data depend on the header's size: call it once the order is final. */
bool safetensors_layout(struct buf *head, struct tensor *const *tensors, size_t count, uint64_t *file_bytes,
                        struct err *e) CHECKED;
/* The same with metadata of one's own, in place of {"format": "pt"} that says "a checkpoint", and with data that starts
 * at a multiple of align. */
bool safetensors_layout_meta(struct buf *head, const struct safetensors_meta *metadata, size_t metadata_count,
                             size_t align, struct tensor *const *tensors, size_t count, uint64_t *file_bytes,
                             struct err *e) CHECKED;
/* What safetensors_layout writes. */
extern const struct safetensors_meta safetensors_checkpoint_meta;
/* NULL: no such member. */
const char *safetensors_meta(const struct safetensors *s, const char *key);
/* An upper bound of the header bytes one tensor takes: for planning shard sizes. */
size_t safetensors_header_bytes(const struct tensor *t);

#endif
