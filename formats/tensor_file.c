#include "formats/tensor_file.h"

#include "formats/base/file.h"

struct tensor_item tensor_item_vector(const char *name, enum dtype_id dtype, uint64_t elems, const void *data)
{
    return (struct tensor_item){.tensor = {.name = name, .dtype = dtype, .rank = 1, .dims = {elems}}, .data = data};
}

struct tensor_item tensor_item_matrix(const char *name, enum dtype_id dtype, uint64_t rows, uint64_t cols,
                                      const void *data)
{
    return (struct tensor_item){.tensor = {.name = name, .dtype = dtype, .rank = 2, .dims = {rows, cols}},
                                .data = data};
}

static bool measure(struct tensor_item *items, size_t count, struct tensor **list, struct err *e)
{
    for (size_t i = 0; i < count; i++) {
        struct tensor *t = &items[i].tensor;
        if (!dtype_bytes(t->dtype, tensor_elems(t), &t->bytes))
            return err_set(e, ERR_LIMIT, "tensor '%s' is past any size", t->name);
        list[i] = t;
    }
    return true;
}

bool tensor_file_write(const char *path, const struct safetensors_meta *metadata, size_t metadata_count,
                       struct tensor_item *items, size_t count, struct err *e)
{
    struct tensor **list = mem_alloc((count + 1) * sizeof(*list));
    struct buf head = {0};
    struct output out = {0};
    uint64_t file_bytes = 0;
    bool ok =
        measure(items, count, list, e) &&
        safetensors_layout_meta(&head, metadata, metadata_count, SAFETENSORS_DATA_ALIGN, list, count, &file_bytes, e) &&
        output_open(&out, path, file_bytes, false, e) && output_write(&out, 0, head.data, head.bytes, e);

    for (size_t i = 0; i < count && ok; i++)
        ok = output_write(&out, items[i].tensor.offset, items[i].data, (size_t)items[i].tensor.bytes, e);
    ok = ok && output_commit(&out, e);
    output_release(&out);
    buf_release(&head);
    mem_free(list);
    return ok || err_in(e, "'%s'", path);
}
