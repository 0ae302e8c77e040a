#include "formats/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "formats/json.h"

#define LENGTH_BYTES 8u

/* transformers refuses a metadata block with another format, and older releases one that is absent. */
const struct safetensors_meta safetensors_checkpoint_meta = {"format", "pt"};

static void put_tensor(struct json_writer *w, const struct tensor *t, uint64_t begin)
{
    json_begin_object(w, t->name);
    json_put_string(w, "dtype", dtype_get(t->dtype)->name);
    json_begin_array(w, "shape");
    for (uint32_t i = 0; i < t->rank; i++)
        json_put_u64(w, NULL, t->dims[i]);
    json_end(w, ']');
    json_begin_array(w, "data_offsets");
    json_put_u64(w, NULL, begin);
    json_put_u64(w, NULL, begin + t->bytes);
    json_end(w, ']');
    json_end(w, '}');
}

/* Spaces up to the next unit, so that data starts on one. */
static void pad(struct buf *head, size_t align)
{
    size_t rest = head->bytes % align;

    if (rest)
        buf_printf(head, "%*s", (int)(align - rest), "");
}

static void put_length(struct buf *head)
{
    uint64_t n = head->bytes - LENGTH_BYTES;

    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        head->data[i] = (char)(n >> 8 * i & 0xff);
}

bool safetensors_layout(struct buf *head, struct tensor *const *tensors, size_t count, uint64_t *file_bytes,
                        struct err *e)
{
    return safetensors_layout_meta(head, &safetensors_checkpoint_meta, 1, SAFETENSORS_DATA_ALIGN, tensors, count,
                                   file_bytes, e);
}

bool safetensors_layout_meta(struct buf *head, const struct safetensors_meta *metadata, size_t metadata_count,
                             size_t align, struct tensor *const *tensors, size_t count, uint64_t *file_bytes,
                             struct err *e)
{
    struct json_writer w = {.out = head, .compact = true};
    uint64_t running = 0;

    assert(head->bytes == 0);
    buf_add(head, (const uint8_t[LENGTH_BYTES]){0}, LENGTH_BYTES);
    json_begin_object(&w, NULL);
    json_begin_object(&w, "__metadata__");
    for (size_t i = 0; i < metadata_count; i++)
        json_put_string(&w, metadata[i].key, metadata[i].value);
    json_end(&w, '}');
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        bool whole = dtype_bytes(tensors[i]->dtype, tensor_elems(tensors[i]), &bytes);
        assert(whole && bytes == tensors[i]->bytes);
        put_tensor(&w, tensors[i], running);
        running += bytes;
    }
    json_end(&w, '}');
    pad(head, align);
    if (head->bytes - LENGTH_BYTES > SAFETENSORS_HEADER_BYTES_HUB)
        return err_set(e, ERR_LIMIT,
                       "a header of %zu bytes for %zu tensors is past the limit of %u; use smaller shards",
                       head->bytes - LENGTH_BYTES, count, SAFETENSORS_HEADER_BYTES_HUB);
    put_length(head);
    for (uint64_t i = 0, at = head->bytes; i < count; i++) {
        tensors[i]->offset = at;
        at += tensors[i]->bytes;
    }
    *file_bytes = head->bytes + running;
    return true;
}

static size_t digits(uint64_t n)
{
    size_t count = 1;

    while (n /= 10)
        count++;
    return count;
}

size_t safetensors_header_bytes(const struct tensor *t)
{
    /* Every comma that may follow is counted; the offsets are not known yet and have at most 20 digits. */
    size_t bytes = sizeof "\"\":{\"dtype\":\"\",\"shape\":[],\"data_offsets\":[,]}," - 1 + 2 * 20;

    bytes += strlen(dtype_get(t->dtype)->name);
    for (const char *c = t->name; *c; c++)
        bytes += (unsigned char)*c < 0x20 ? 6 : *c == '"' || *c == '\\' ? 2 : 1;
    for (uint32_t i = 0; i < t->rank; i++)
        bytes += digits(t->dims[i]) + 1;
    return bytes;
}
