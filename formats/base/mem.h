/* Memory: an arena for what lives as long as a command, aligned buffers for
 * what a worker owns, and heap wrappers that abort: sizes we choose cannot be
 * refused in a way that is worth an untested recovery path. Sizes that come
 * from a file are held against a named limit before they get here. */
#ifndef FORMATS_BASE_MEM_H
#define FORMATS_BASE_MEM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

#define MEM_ALIGN 64u /* a cache line, and one AVX-512 register */

/* Grows by chunks; everything in it is freed together. Zero is an empty arena.
 * Not for use by two threads at once. */
struct arena {
    struct arena_chunk *chunks;
    size_t used_bytes; /* what was asked for, for reports and tests */
};

void *arena_alloc(struct arena *a, size_t bytes); /* zeroed, aligned to 16; never NULL */
void *arena_array(struct arena *a, size_t count, size_t elem_bytes); /* the same; product checked */
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t bytes);
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
void arena_release(struct arena *a); /* idempotent; leaves an empty arena */

void *mem_alloc(size_t bytes);                        /* zeroed heap, aborts when there is none */
void *mem_grow(void *p, size_t count, size_t elem_bytes); /* realloc of count elements, product checked */
void mem_free(void *p);

void *mem_aligned(size_t bytes); /* MEM_ALIGN aligned, not zeroed; free with mem_free */

/* A growing byte buffer that always ends in a NUL past `bytes`. Zero is empty. */
struct buf {
    char *data; /* NULL while nothing was ever added */
    size_t bytes, room;
};
void buf_add(struct buf *b, const void *data, size_t bytes);
void buf_puts(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_release(struct buf *b);

/* Peak resident set of this process in bytes (VmHWM), 0 when unknown. */
uint64_t mem_peak_bytes(void);

#endif
