#include "formats/dtype.h"

#include <assert.h>
#include <string.h>

/* The names are safetensors' own, case included. A row that is not written is
 * a zero row: the test walks all of them. */
/* clang-format off */
static const struct dtype dtypes[DTYPE_COUNT] = {
    [DTYPE_NONE]        = {.name = "NONE",        .block_elems = 1, .block_bytes = 0, .align = 1},
    [DTYPE_BOOL]        = {.name = "BOOL",        .block_elems = 1, .block_bytes = 1, .align = 1},
    [DTYPE_F4]          = {.name = "F4",          .block_elems = 2, .block_bytes = 1, .align = 1, .is_float = true},
    [DTYPE_F6_E2M3]     = {.name = "F6_E2M3",     .block_elems = 4, .block_bytes = 3, .align = 1, .is_float = true},
    [DTYPE_F6_E3M2]     = {.name = "F6_E3M2",     .block_elems = 4, .block_bytes = 3, .align = 1, .is_float = true},
    [DTYPE_U8]          = {.name = "U8",          .block_elems = 1, .block_bytes = 1, .align = 1},
    [DTYPE_I8]          = {.name = "I8",          .block_elems = 1, .block_bytes = 1, .align = 1},
    [DTYPE_F8_E5M2]     = {.name = "F8_E5M2",     .block_elems = 1, .block_bytes = 1, .align = 1, .is_float = true},
    [DTYPE_F8_E4M3]     = {.name = "F8_E4M3",     .block_elems = 1, .block_bytes = 1, .align = 1, .is_float = true},
    [DTYPE_F8_E8M0]     = {.name = "F8_E8M0",     .block_elems = 1, .block_bytes = 1, .align = 1, .is_float = true},
    [DTYPE_F8_E4M3FNUZ] = {.name = "F8_E4M3FNUZ", .block_elems = 1, .block_bytes = 1, .align = 1, .is_float = true},
    [DTYPE_F8_E5M2FNUZ] = {.name = "F8_E5M2FNUZ", .block_elems = 1, .block_bytes = 1, .align = 1, .is_float = true},
    [DTYPE_I16]         = {.name = "I16",         .block_elems = 1, .block_bytes = 2, .align = 2},
    [DTYPE_U16]         = {.name = "U16",         .block_elems = 1, .block_bytes = 2, .align = 2},
    [DTYPE_F16]         = {.name = "F16",         .block_elems = 1, .block_bytes = 2, .align = 2, .is_float = true},
    [DTYPE_BF16]        = {.name = "BF16",        .block_elems = 1, .block_bytes = 2, .align = 2, .is_float = true},
    [DTYPE_I32]         = {.name = "I32",         .block_elems = 1, .block_bytes = 4, .align = 4},
    [DTYPE_U32]         = {.name = "U32",         .block_elems = 1, .block_bytes = 4, .align = 4},
    [DTYPE_F32]         = {.name = "F32",         .block_elems = 1, .block_bytes = 4, .align = 4, .is_float = true},
    [DTYPE_C64]         = {.name = "C64",         .block_elems = 1, .block_bytes = 8, .align = 4, .is_float = true},
    [DTYPE_F64]         = {.name = "F64",         .block_elems = 1, .block_bytes = 8, .align = 8, .is_float = true},
    [DTYPE_I64]         = {.name = "I64",         .block_elems = 1, .block_bytes = 8, .align = 8},
    [DTYPE_U64]         = {.name = "U64",         .block_elems = 1, .block_bytes = 8, .align = 8},
};
/* clang-format on */

const struct dtype *dtype_get(enum dtype_id id)
{
    assert(id < DTYPE_COUNT);
    return &dtypes[id];
}

enum dtype_id dtype_find(const char *name)
{
    for (unsigned id = DTYPE_NONE + 1; id < DTYPE_COUNT; id++)
        if (!strcmp(dtypes[id].name, name))
            return (enum dtype_id)id;
    return DTYPE_NONE;
}

bool dtype_bytes(enum dtype_id id, uint64_t elems, uint64_t *bytes)
{
    const struct dtype *d = dtype_get(id);
    uint64_t bits_per_elem = (uint64_t)d->block_bytes * 8 / d->block_elems;

    if (elems % d->block_elems)
        return false;
    /* The reference reader counts bits in 64 bits; so do we, to refuse what it refuses. */
    if (bits_per_elem && elems > UINT64_MAX / bits_per_elem)
        return false;
    *bytes = elems / d->block_elems * d->block_bytes;
    return true;
}
