/* How fast the float codecs are: G weights per second of every variant, next to
 * memcpy of the same bytes, in cache and out of it. On one core:
 *
 *     bench-codecs [seconds per measurement, default 0.2] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "formats/base/mem.h"
#include "quant/bits.h"
#include "quant/kernel.h"
#include "quant/transform.h"

/* A row of 7168, as the matrices have them; 16 of them stay in a 1 MB L2, 2048 are past any L3 we know. */
#define COLS        7168u
#define ROWS_CACHED 16u
#define ROWS_DRAM   8192u
#define BLOCK       128u

struct buffers {
    float *x, *y;
    uint8_t *codes8;
    uint16_t *codes16;
    uint8_t *sink;
    float scales[COLS / BLOCK];
};

struct job {
    const char *name;
    unsigned in_bits, out_bits;                                        /* per weight, for memcpy's part */
    void (*row)(const struct kernel *k, struct buffers *b, size_t at); /* at: first weight */
};

static volatile float keep; /* results must be wanted */

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void e4m3_to_bf16(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->e4m3_to_bf16(b->codes16 + at, b->codes8 + at, COLS, b->scales, BLOCK));
}

static void e4m3_decode(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->e4m3_decode(b->y + at, b->codes8 + at, COLS, b->scales, BLOCK));
}

static void e4m3_encode(const struct kernel *k, struct buffers *b, size_t at)
{
    k->e4m3_encode(b->sink + at, b->x + at, COLS, b->scales, BLOCK);
}

static void bf16_decode(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->bf16_decode(b->y + at, b->codes16 + at, COLS));
}

static void bf16_encode(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->bf16_encode((uint16_t *)(void *)b->sink + at, b->x + at, COLS));
}

static void f16_decode(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->f16_decode(b->y + at, b->codes16 + at, COLS));
}

static void f16_encode(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->f16_encode((uint16_t *)(void *)b->sink + at, b->x + at, COLS));
}

static void e5m2_decode(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->e5m2_decode(b->y + at, b->codes8 + at, COLS, 0.5f));
}

static void e5m2_encode(const struct kernel *k, struct buffers *b, size_t at)
{
    k->e5m2_encode(b->sink + at, b->x + at, COLS, 0.5f);
}

static void e8m0_decode(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->e8m0_decode(b->y + at, b->codes8 + at, COLS));
}

static void e2m1_decode(const struct kernel *k, struct buffers *b, size_t at)
{
    k->e2m1_decode(b->y + at, b->codes8 + at, COLS, 0.5f);
}

static void e2m1_encode(const struct kernel *k, struct buffers *b, size_t at)
{
    k->e2m1_encode(b->sink + at, b->x + at, COLS, 0.01f);
}

static void absmax(const struct kernel *k, struct buffers *b, size_t at)
{
    keep = k->absmax(b->x + at, COLS);
}

static void f32_check(const struct kernel *k, struct buffers *b, size_t at)
{
    must(k->f32_check(b->x + at, COLS));
}

static void row_error(const struct kernel *k, struct buffers *b, size_t at)
{
    keep = k->row_error(b->x + at, b->y + at, COLS).error2;
}

static const struct job jobs[] = {
    {"e4m3_to_bf16", 8, 16, e4m3_to_bf16},
    {"e4m3_decode", 8, 32, e4m3_decode},
    {"e4m3_encode", 32, 8, e4m3_encode},
    {"bf16_decode", 16, 32, bf16_decode},
    {"bf16_encode", 32, 16, bf16_encode},
    {"f16_decode", 16, 32, f16_decode},
    {"f16_encode", 32, 16, f16_encode},
    {"e5m2_decode", 8, 32, e5m2_decode},
    {"e5m2_encode", 32, 8, e5m2_encode},
    {"e8m0_decode", 8, 32, e8m0_decode},
    {"e2m1_decode", 4, 32, e2m1_decode},
    {"e2m1_encode", 32, 4, e2m1_encode},
    {"absmax", 32, 0, absmax},
    {"f32_check", 32, 0, f32_check},
    {"row_error", 64, 0, row_error},
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* G weights/s of the fastest pass over `rows` rows: what disturbs only ever slows down. */
static double measure(const struct job *j, const struct kernel *k, struct buffers *b, size_t rows, double seconds)
{
    double best = 1e9, end = now() + seconds;

    j->row(k, b, 0);
    do {
        double begin = now();
        for (size_t r = 0; r < rows; r++)
            j->row(k, b, r * COLS);
        double took = now() - begin;
        best = took < best ? took : best;
    } while (now() < end);
    return (double)(rows * COLS) / best / 1e9;
}

/* memcpy that moves as many bytes: half of those read and written together. */
static double measure_memcpy(const struct job *j, struct buffers *b, size_t rows, double seconds)
{
    size_t row_bytes = COLS * (j->in_bits + j->out_bits) / 16;
    double best = 1e9, end = now() + seconds;

    do {
        double begin = now();
        for (size_t r = 0; r < rows; r++)
            memcpy((uint8_t *)b->y + r * row_bytes, (uint8_t *)b->x + r * row_bytes, row_bytes);
        double took = now() - begin;
        best = took < best ? took : best;
    } while (now() < end);
    return (double)(rows * COLS) / best / 1e9;
}

static void print_table(struct buffers *b, const char *title, size_t rows, double seconds)
{
    printf("%s, G weights/s\n%-14s", title, "");
    for (size_t v = 0; v < kernel_count(); v++)
        printf("%8s", kernel_at(v)->name);
    printf("%8s  best/ref best/avx2 best/memcpy\n", "memcpy");

    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++) {
        double speed[8] = {0}, best = 0.0, copied = measure_memcpy(&jobs[i], b, rows, seconds);
        printf("%-14s", jobs[i].name);
        for (size_t v = 0; v < kernel_count(); v++) {
            if (kernel_at(v)->usable())
                speed[v] = measure(&jobs[i], kernel_at(v), b, rows, seconds);
            best = speed[v] > best ? speed[v] : best;
            printf("%8.2f", speed[v]);
        }
        printf("%8.2f  %8.1f %9.2f %11.2f\n", copied, best / speed[0],
               kernel_count() > 1 && speed[1] > 0.0 ? best / speed[1] : 1.0, best / copied);
    }
}

#define FP8_BLOCK(scale_)                                                                                              \
    {                                                                                                                  \
        .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = (scale_), .block_rows = BLOCK, .block_cols = BLOCK, \
        .method = METHOD_ABSMAX                                                                                        \
    }
#define BF16                                                                                                           \
    {                                                                                                                  \
        .kind = SCHEME_PLAIN, .dtype = DTYPE_BF16, .method = METHOD_ROUND                                              \
    }
#define INT4(method_)                                                                                                  \
    {                                                                                                                  \
        .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 128, .method = (method_)           \
    }

static const struct {
    const char *name;
    struct scheme from, to;
} pairs[] = {
    {"fp8 to bf16", FP8_BLOCK(SCALE_F32), BF16},
    {"bf16 to fp8", BF16, FP8_BLOCK(SCALE_F32)},
    {"fp8 to pow2", FP8_BLOCK(SCALE_F32), FP8_BLOCK(SCALE_F32_POW2)},
    {"int4 absmax", FP8_BLOCK(SCALE_F32), INT4(METHOD_ABSMAX)},
    {"int4 search", FP8_BLOCK(SCALE_F32), INT4(METHOD_SEARCH)},
};

/* 128 rows are one slice of a conversion. */
static double measure_pair(size_t i, const struct kernel *k, struct buffers *b, void *scratch, double seconds)
{
    struct transform t = {.kernel = k, .from = pairs[i].from, .to = pairs[i].to, .cols = COLS};
    bool plain = t.from.kind == SCHEME_PLAIN;
    struct slices in = {.part = {plain ? (void *)b->codes16 : b->codes8, b->scales}};
    struct slices out = {.part = {b->sink, b->y}};
    double best = 1e9, end = now() + seconds;

    do {
        struct weight_error error = {0};
        struct err e = {0};
        double begin = now();
        if (!transform_run(&t, 0, BLOCK, BLOCK, &in, &out, scratch, &error, &e)) {
            fprintf(stderr, "bench-codecs: %s\n", e.text);
            exit(1);
        }
        double took = now() - begin;
        best = took < best ? took : best;
    } while (now() < end);
    return (double)(BLOCK * COLS) / best / 1e9;
}

static void print_pairs(struct buffers *b, double seconds)
{
    void *scratch = mem_aligned(8u << 20);

    printf("transforms of 128 rows, G weights/s\n");
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        printf("%-14s", pairs[i].name);
        for (size_t v = 0; v < kernel_count(); v++)
            printf("%8.2f", kernel_at(v)->usable() ? measure_pair(i, kernel_at(v), b, scratch, seconds) : 0.0);
        printf("\n");
    }
    mem_free(scratch);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 0.2;
    size_t n = (size_t)COLS * ROWS_DRAM;
    struct buffers b = {.x = mem_aligned(n * 4),
                        .y = mem_aligned(n * 4),
                        .codes8 = mem_aligned(n),
                        .codes16 = mem_aligned(n * 2),
                        .sink = mem_aligned(n * 2)};
    uint32_t seed = 1;

    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        b.codes8[i] = (uint8_t)(seed >> 24 & 0xBF); /* finite in every format */
        b.x[i] = (float)(int32_t)seed * 0x1p-36f;
        b.y[i] = b.x[i] * 1.01f;
        b.codes16[i] = (uint16_t)(seed >> 16 & 0xBFFF);
    }
    memset(b.sink, 0, n * 2);
    for (size_t i = 0; i < COLS / BLOCK; i++)
        b.scales[i] = 0.0001f * (float)(i + 1);
    print_table(&b, "in L2", ROWS_CACHED, seconds);
    print_table(&b, "in DRAM", ROWS_DRAM, seconds);
    print_pairs(&b, seconds);
    mem_free(b.x);
    mem_free(b.y);
    mem_free(b.codes8);
    mem_free(b.codes16);
    mem_free(b.sink);
    return 0;
}
