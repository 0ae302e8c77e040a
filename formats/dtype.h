/* Dtype facts: names and bytes. Arithmetic on them lives in quant/. */
#ifndef FORMATS_DTYPE_H
#define FORMATS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Our own ids; every container maps them to its own wire names or numbers. */
enum dtype_id {
    DTYPE_NONE,
    DTYPE_BOOL,
    DTYPE_F4,
    DTYPE_F6_E2M3,
    DTYPE_F6_E3M2,
    DTYPE_U8,
    DTYPE_I8,
    DTYPE_F8_E5M2,
    DTYPE_F8_E4M3,
    DTYPE_F8_E8M0,
    DTYPE_F8_E4M3FNUZ,
    DTYPE_F8_E5M2FNUZ,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_F32,
    DTYPE_C64,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_COUNT
};

struct dtype {
    const char *name;                  /* "BF16": safetensors' name, and ours in reports */
    uint32_t block_elems, block_bytes; /* F4: 2 elements in 1 byte */
    uint32_t align;                    /* bytes a loader likes a tensor's start to be a multiple of */
    bool is_float;                     /* a number with a sign, a fraction or an exponent of its own */
};

const struct dtype *dtype_get(enum dtype_id id); /* never NULL; NONE has 0 bytes */
enum dtype_id dtype_find(const char *name);      /* exact match; DTYPE_NONE: unknown */

/* Bytes of `elems` elements. false: not a whole number of blocks, or more than 2^64-1 bits. */
bool dtype_bytes(enum dtype_id id, uint64_t elems, uint64_t *bytes);

#endif
