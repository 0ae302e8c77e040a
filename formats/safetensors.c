/* Reading. The checks come in the order of the reference reader (crate
 * safetensors 0.8, tensor.rs), so that both name the same fault of a file
 * that has several. */
#include "formats/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/units.h"
#include "formats/json.h"

#define LENGTH_BYTES 8u

/* A header while it is read. */
struct reading {
    struct safetensors *s;
    struct arena *arena;
    struct json_doc doc;
    size_t tensor_room;
};

/* ---- length ---- */

static bool header_length(const uint8_t *head, uint64_t file_bytes, uint64_t *header_bytes, struct err *e)
{
    uint64_t n = 0;

    if (file_bytes < LENGTH_BYTES)
        return err_broken(e, ERR_FORMAT, "shard-truncated",
                          "no room for the header's length: the file has %" PRIu64 " bytes, it takes %u", file_bytes,
                          LENGTH_BYTES);
    for (unsigned i = LENGTH_BYTES; i-- > 0;)
        n = n << 8 | head[i];
    if (n > SAFETENSORS_HEADER_BYTES_MAX)
        return err_set(e, ERR_LIMIT, "header length %" PRIu64 " is past the limit of %u", n,
                       SAFETENSORS_HEADER_BYTES_MAX);
    if (n > file_bytes - LENGTH_BYTES)
        return err_broken(e, ERR_FORMAT, "shard-truncated",
                          "header length %" PRIu64 " is past the %" PRIu64 " bytes behind it in the file", n,
                          file_bytes - LENGTH_BYTES);
    *header_bytes = n;
    return true;
}

/* ---- the header's members ---- */

static bool read_metadata(struct reading *r, const struct json *v, struct err *e)
{
    if (json_type(v) == JSON_NULL)
        return true;
    if (json_type(v) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "'__metadata__' is %s, not an object", json_type_name(json_type(v)));
    r->s->metadata = arena_array(r->arena, json_count(v), sizeof *r->s->metadata);
    for (const struct json *m = json_first(v); m; m = json_next(m)) {
        if (json_type(m) != JSON_STRING)
            return err_set(e, ERR_FORMAT, "'__metadata__': '%s' is %s, not a string", json_key(m),
                           json_type_name(json_type(m)));
        r->s->metadata[r->s->metadata_count++] = (struct safetensors_meta){
            .key = arena_strdup(r->arena, json_key(m)), .value = arena_strdup(r->arena, json_string(m))};
    }
    r->s->metadata_format = safetensors_meta(r->s, "format");
    return true;
}

const char *safetensors_meta(const struct safetensors *s, const char *key)
{
    for (size_t i = 0; i < s->metadata_count; i++)
        if (strcmp(s->metadata[i].key, key) == 0)
            return s->metadata[i].value;
    return NULL;
}

static bool read_dtype(struct tensor *t, const struct json *v, struct err *e)
{
    if (json_type(v) != JSON_STRING)
        return err_set(e, ERR_FORMAT, "dtype is %s, not a string", json_type_name(json_type(v)));
    t->dtype = dtype_find(json_string(v));
    return t->dtype != DTYPE_NONE || err_set(e, ERR_UNSUPPORTED, "unknown dtype '%s'", json_string(v));
}

static bool read_shape(const struct reading *r, struct tensor *t, const struct json *v, struct err *e)
{
    size_t rank = json_count(v);

    if (json_type(v) != JSON_ARRAY)
        return err_set(e, ERR_FORMAT, "shape is %s, not an array", json_type_name(json_type(v)));
    if (rank > TENSOR_RANK_MAX)
        return err_set(e, ERR_LIMIT, "shape has %zu dimensions, more than the limit of %u", rank, TENSOR_RANK_MAX);
    for (const struct json *m = json_first(v); m; m = json_next(m))
        if (!json_u64(&r->doc, m, &t->dims[t->rank++]))
            return err_set(e, ERR_FORMAT, "shape holds %s, not only integers", json_type_name(json_type(m)));
    return true;
}

/* Relative to the data area for now, the end in .bytes. */
static bool read_offsets(const struct reading *r, struct tensor *t, const struct json *v, struct err *e)
{
    const struct json *m = json_first(v);

    if (json_type(v) != JSON_ARRAY)
        return err_set(e, ERR_FORMAT, "data_offsets is %s, not an array", json_type_name(json_type(v)));
    if (json_count(v) != 2)
        return err_set(e, ERR_FORMAT, "data_offsets has %zu number%s, not 2", json_count(v), plural(json_count(v)));
    if (!json_u64(&r->doc, m, &t->offset) || !json_u64(&r->doc, json_next(m), &t->bytes))
        return err_set(e, ERR_FORMAT, "data_offsets holds something else than integers");
    return true;
}

static bool read_fields(struct reading *r, struct tensor *t, const struct json *o, struct err *e)
{
    bool dtype = false, shape = false, offsets = false;

    if (json_type(o) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "described by %s, not by an object", json_type_name(json_type(o)));
    for (const struct json *m = json_first(o); m; m = json_next(m)) {
        bool ok = true;
        if (!strcmp(json_key(m), "dtype"))
            ok = dtype = read_dtype(t, m, e);
        else if (!strcmp(json_key(m), "shape"))
            ok = shape = read_shape(r, t, m, e);
        else if (!strcmp(json_key(m), "data_offsets"))
            ok = offsets = read_offsets(r, t, m, e);
        else
            r->s->ignored_fields++;
        if (!ok)
            return false;
    }
    if (!dtype || !shape || !offsets)
        return err_set(e, ERR_FORMAT, "%s is missing", !dtype ? "dtype" : !shape ? "shape" : "data_offsets");
    return true;
}

static bool read_tensor(struct reading *r, const struct json *m, struct err *e)
{
    struct tensor *t = &r->s->tensors[r->s->tensor_count++];

    if (!*json_key(m))
        return err_set(e, ERR_FORMAT, "a tensor's name is empty");
    t->name = arena_strdup(r->arena, json_key(m));
    return read_fields(r, t, m, e) || err_in(e, "tensor '%s'", t->name);
}

static bool read_header(struct reading *r, struct err *e)
{
    const struct json *root = r->doc.root;

    if (json_type(root) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "the header is %s, not an object", json_type_name(json_type(root)));
    r->s->tensors = arena_array(r->arena, json_count(root), sizeof *r->s->tensors);
    for (const struct json *m = json_first(root); m; m = json_next(m)) {
        bool ok = !strcmp(json_key(m), "__metadata__") ? read_metadata(r, m, e) : read_tensor(r, m, e);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- places ---- */

/* By begin, then end; names only so that empty tensors in one place have an order too. */
static int by_place(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static bool shape_bytes(const struct tensor *t, uint64_t *bytes, struct err *e)
{
    const struct dtype *d = dtype_get(t->dtype);
    char shape[TENSOR_SHAPE_TEXT];
    uint64_t elems = 1, bits = 0;

    tensor_shape_text(t->rank, t->dims, shape);
    for (uint32_t i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(elems, t->dims[i], &elems))
            return err_set(e, ERR_FORMAT, "shape %s has more than 2^64-1 elements", shape);
    if (__builtin_mul_overflow(elems, (uint64_t)d->block_bytes * 8 / d->block_elems, &bits))
        return err_set(e, ERR_FORMAT, "shape %s of %s has more than 2^64-1 bits", shape, d->name);
    return dtype_bytes(t->dtype, elems, bytes) ||
           err_set(e, ERR_FORMAT, "%" PRIu64 " elements of %s are %" PRIu64 " bits, not whole bytes", elems, d->name,
                   bits);
}

/* running: where the tensors before it end. */
static bool check_place(const struct tensor *t, uint64_t running, struct err *e)
{
    uint64_t begin = t->offset, end = t->bytes, bytes = 0;
    char shape[TENSOR_SHAPE_TEXT];

    if (end < begin)
        return err_set(e, ERR_FORMAT, "end offset %" PRIu64 " is before begin offset %" PRIu64, end, begin);
    if (begin > running)
        return err_set(e, ERR_FORMAT, "a hole before it: begin offset %" PRIu64 ", the data before ends at %" PRIu64,
                       begin, running);
    if (begin < running)
        return err_set(e, ERR_FORMAT, "overlaps: begin offset %" PRIu64 ", the data before ends at %" PRIu64, begin,
                       running);
    if (!shape_bytes(t, &bytes, e))
        return false;
    return end - begin == bytes ||
           err_set(e, ERR_FORMAT, "offsets span %" PRIu64 " bytes, but shape %s of %s takes %" PRIu64, end - begin,
                   tensor_shape_text(t->rank, t->dims, shape), dtype_get(t->dtype)->name, bytes);
}

/* Sorts the tensors and turns [begin, end) into an absolute offset and a size. */
static bool place_tensors(struct safetensors *s, uint64_t file_bytes, struct err *e)
{
    uint64_t running = 0, data_bytes = file_bytes - s->data_offset;

    if (s->tensor_count)
        qsort(s->tensors, s->tensor_count, sizeof *s->tensors, by_place);
    for (size_t i = 0; i < s->tensor_count; i++) {
        struct tensor *t = &s->tensors[i];
        if (!check_place(t, running, e))
            return err_in(e, "tensor '%s'", t->name);
        running = t->bytes;
        t->bytes -= t->offset;
        t->offset += s->data_offset; /* may wrap; then the end is past the file, below */
    }
    if (running > data_bytes)
        return err_broken(e, ERR_FORMAT, "shard-truncated",
                          "data is missing: the tensors take %" PRIu64 " bytes, the file has %" PRIu64, running,
                          data_bytes);
    if (running < data_bytes && file_bytes != SAFETENSORS_ANY_BYTES)
        return err_set(e, ERR_FORMAT,
                       "data behind the last tensor: the tensors take %" PRIu64 " bytes, the file has %" PRIu64,
                       running, data_bytes);
    return true;
}

/* ---- entry ---- */

static bool parse_header(struct safetensors *s, struct arena *a, const uint8_t *head, uint64_t header_bytes,
                         uint64_t file_bytes, struct err *e)
{
    struct reading r = {.s = s, .arena = a};
    bool ok = false;

    s->data_offset = LENGTH_BYTES + header_bytes;
    ok = json_parse(&r.doc, (const char *)head + LENGTH_BYTES, (size_t)header_bytes,
                    JSON_INTEGERS_ONLY | JSON_NO_LEADING_SPACE, e) ||
         err_in(e, "header");
    ok = ok && read_header(&r, e) && place_tensors(s, file_bytes, e);
    json_release(&r.doc);
    return ok;
}

bool safetensors_parse(struct safetensors *s, struct arena *a, const uint8_t *head, size_t head_bytes,
                       uint64_t file_bytes, struct err *e)
{
    uint64_t header_bytes = 0;

    *s = (struct safetensors){0};
    assert(head_bytes >= LENGTH_BYTES || file_bytes < LENGTH_BYTES);
    if (!header_length(head, file_bytes, &header_bytes, e))
        return false;
    assert(head_bytes >= LENGTH_BYTES + header_bytes);
    return parse_header(s, a, head, header_bytes, file_bytes, e);
}

static bool read_header_of(struct safetensors *s, struct arena *a, const struct file *f, uint64_t file_bytes,
                           struct err *e)
{
    uint8_t length[LENGTH_BYTES] = {0};
    uint64_t header_bytes = 0;
    uint8_t *head = NULL;
    bool ok = false;

    *s = (struct safetensors){0};
    if (f->bytes >= LENGTH_BYTES && !file_read(f, 0, length, LENGTH_BYTES, e))
        return false;
    if (!header_length(length, f->bytes, &header_bytes, e))
        return false;
    /* The limit was looked at: at most 100 MB. */
    head = mem_alloc((size_t)header_bytes + LENGTH_BYTES);
    ok = file_read(f, 0, head, (size_t)header_bytes + LENGTH_BYTES, e) &&
         safetensors_parse(s, a, head, (size_t)header_bytes + LENGTH_BYTES, file_bytes, e);
    mem_free(head);
    return ok;
}

bool safetensors_read(struct safetensors *s, struct arena *a, const struct file *f, struct err *e)
{
    return read_header_of(s, a, f, f->bytes, e);
}

bool safetensors_read_cut(struct safetensors *s, struct arena *a, const struct file *f, struct err *e)
{
    return read_header_of(s, a, f, SAFETENSORS_ANY_BYTES, e);
}
