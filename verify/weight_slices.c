#include "verify/weight_slices.h"

#include "formats/base/mem.h"

static size_t round_up(uint64_t bytes)
{
    return (size_t)((bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN);
}

uint64_t weight_slices_multiple(const struct scheme *a, const struct scheme *b)
{
    uint64_t product = (uint64_t)scheme_row_multiple(a) * scheme_row_multiple(b);
    uint64_t x = scheme_row_multiple(a), y = scheme_row_multiple(b);

    while (y != 0) {
        uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    return product / x;
}

uint64_t weight_slices_rows(uint64_t rows, uint64_t cols, uint64_t multiple, uint64_t elems)
{
    uint64_t step = multiple > 0 ? multiple : 1;

    if (cols > 0 && step < elems / cols)
        step = elems / cols / step * step;
    return step < rows ? step : rows;
}

size_t weight_slices_bytes(const struct scheme *s, uint64_t rows, uint64_t cols, uint64_t row, uint64_t count)
{
    size_t total = 0;

    for (enum part part = PART_CODES; part < PART_COUNT; part++) {
        uint64_t offset = 0, bytes = 0;
        if (part != PART_SHAPE)
            scheme_slice(s, part, rows, cols, row, count, &offset, &bytes); /* 0 of what is not there */
        total += round_up(bytes);
    }
    return total;
}

bool weight_slices_read(const struct checkpoint *c, const struct weight *w, uint64_t row, uint64_t count, void *memory,
                        struct slices *out, uint64_t *read_bytes, struct err *e)
{
    uint8_t *to = memory;

    *out = (struct slices){0};
    for (enum part part = PART_CODES; part < PART_COUNT; part++) {
        uint64_t offset = 0, bytes = 0;
        if (!w->parts[part] || part == PART_SHAPE)
            continue;
        scheme_slice(&w->stored, part, w->rows, w->cols, row, count, &offset, &bytes);
        if (!checkpoint_read(c, w->parts[part], offset, to, bytes, e))
            return false;
        out->part[part] = to;
        to += round_up(bytes);
        *read_bytes += bytes;
    }
    return true;
}
