#include "formats/base/mem.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#define REDZONE_BYTES 16u
#else
#define ASAN_POISON_MEMORY_REGION(p, bytes)   ((void)(p), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) ((void)(p), (void)(bytes))
#define REDZONE_BYTES                         0u
#endif

#define ARENA_ALIGN 16u
#define CHUNK_BYTES ((size_t)256 << 10)

struct arena_chunk {
    struct arena_chunk *next;
    size_t room, used;
    _Alignas(ARENA_ALIGN) char data[];
};

_Noreturn static void out_of_memory(size_t bytes)
{
    fprintf(stderr, "quern: out of memory: %zu bytes were refused\n", bytes);
    abort();
}

static size_t sum(size_t a, size_t b)
{
    size_t s;

    if (__builtin_add_overflow(a, b, &s))
        out_of_memory(SIZE_MAX);
    return s;
}

static size_t product(size_t a, size_t b)
{
    size_t p;

    if (__builtin_mul_overflow(a, b, &p))
        out_of_memory(SIZE_MAX);
    return p;
}

static size_t round_up(size_t bytes, size_t align)
{
    return sum(bytes, align - 1) / align * align;
}

/* The heap */

void *mem_alloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);

    if (!p)
        out_of_memory(bytes);
    return p;
}

void *mem_grow(void *p, size_t count, size_t elem_bytes)
{
    size_t bytes = product(count, elem_bytes);

    p = realloc(p, bytes ? bytes : 1);
    if (!p)
        out_of_memory(bytes);
    return p;
}

void mem_free(void *p)
{
    free(p);
}

/* Of x86 and of most other systems; elsewhere less is asked for. */
#define HUGE_BYTES ((size_t)2 << 20)
/* With fewer huge pages in a block there is little to win. */
#define HUGE_BLOCK_BYTES (2 * HUGE_BYTES)

/* Asks for huge pages where whole ones fit, so that none reaches past the block: a fault for 2 MB in place of 512, and
 * products whose operands the TLB holds. Advice, so nothing can fail. */
static void prefer_huge_pages(void *p, size_t bytes)
{
    uintptr_t first = ((uintptr_t)p + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    uintptr_t end = ((uintptr_t)p + bytes) / HUGE_BYTES * HUGE_BYTES;

    if (bytes >= HUGE_BLOCK_BYTES && first < end)
        (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
}

void *mem_aligned(size_t bytes)
{
    void *p = aligned_alloc(MEM_ALIGN, round_up(bytes ? bytes : 1, MEM_ALIGN));

    if (!p)
        out_of_memory(bytes);
    prefer_huge_pages(p, bytes);
    return p;
}

/* The arena. Under ASan a chunk starts out poisoned and each allocation opens
 * its own bytes, so that what lies between two of them stays shut. */

static struct arena_chunk *chunk_new(size_t room)
{
    struct arena_chunk *c = mem_alloc(sum(sizeof *c, room));

    c->room = room;
    ASAN_POISON_MEMORY_REGION(c->data, room);
    return c;
}

/* A chunk with room: the first, or a new one. What is large gets a chunk of its
 * own behind the first, which then goes on being filled. */
static struct arena_chunk *chunk_for(struct arena *a, size_t need)
{
    struct arena_chunk *first = a->chunks;

    if (first && first->room - first->used >= need)
        return first;
    struct arena_chunk *c = chunk_new(need > CHUNK_BYTES / 4 ? need : CHUNK_BYTES);
    if (first && need > CHUNK_BYTES / 4) {
        c->next = first->next;
        first->next = c;
    } else {
        c->next = first;
        a->chunks = c;
    }
    return c;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    size_t need = sum(round_up(bytes ? bytes : 1, ARENA_ALIGN), REDZONE_BYTES);
    struct arena_chunk *c = chunk_for(a, need);
    char *p = c->data + c->used;

    c->used += need;
    a->used_bytes += bytes;
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    return p;
}

void *arena_array(struct arena *a, size_t count, size_t elem_bytes)
{
    return arena_alloc(a, product(count, elem_bytes));
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_strndup(struct arena *a, const char *s, size_t bytes)
{
    size_t length = strnlen(s, bytes);
    char *copy = arena_alloc(a, sum(length, 1));

    memcpy(copy, s, length);
    return copy;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    assert(length >= 0);
    char *text = arena_alloc(a, (size_t)length + 1);
    va_start(args, fmt);
    vsnprintf(text, (size_t)length + 1, fmt, args);
    va_end(args);
    return text;
}

void arena_release(struct arena *a)
{
    while (a->chunks) {
        struct arena_chunk *c = a->chunks;

        a->chunks = c->next;
        ASAN_UNPOISON_MEMORY_REGION(c->data, c->room);
        free(c);
    }
    a->used_bytes = 0;
}

/* The buffer */

/* Room for `bytes` more and the NUL; doubles, so that adding is linear in all. */
static void buf_reserve(struct buf *b, size_t bytes)
{
    size_t need = sum(sum(b->bytes, bytes), 1);

    if (need <= b->room)
        return;
    size_t doubled = b->room > SIZE_MAX / 2 ? SIZE_MAX : b->room * 2;
    b->room = need > doubled ? need : doubled;
    if (b->room < 64)
        b->room = 64;
    b->data = mem_grow(b->data, b->room, 1);
}

void buf_add(struct buf *b, const void *data, size_t bytes)
{
    buf_reserve(b, bytes);
    if (bytes)
        memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
    b->data[b->bytes] = '\0';
}

void buf_puts(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    assert(length >= 0);
    buf_reserve(b, (size_t)length);
    va_start(args, fmt);
    vsnprintf(b->data + b->bytes, (size_t)length + 1, fmt, args);
    va_end(args);
    b->bytes += (size_t)length;
}

void buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

/* VmHWM and not getrusage: ru_maxrss starts at what the parent had before exec. */
uint64_t mem_peak_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[128];
    unsigned long long kib = 0;

    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    fclose(f);
    return (uint64_t)kib * 1024;
}
