/* Block int4 kernels: billions of weights a second on one core, best of several runs, rows in the L2 cache.
 * A main of its own; it needs the objects of quant/int4_*.c and quant/search_*.c and nothing else. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "quant/int4.h"

#define ROWS 16
#define COLS 4096
#define RUNS 60

struct variant {
    const char *name;
    bool usable;
    void (*absmax)(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);
    void (*search)(const struct int4_rows *q, const float *x, size_t x_stride, const float *h, bool positive,
                   struct row_error *err);
    void (*decode)(float *x, size_t x_stride, const struct int4_rows *q);
};

enum kind { ABSMAX, SEARCH, SEARCH_WEIGHTED, SEARCH_POSITIVE, DECODE };

struct task {
    const char *name;
    enum kind kind;
    size_t group_cols;
    bool asym;
};

/* clang-format off */
static const struct task tasks[] = {
    {"absmax g128",           ABSMAX,          128,  false},
    {"absmax g32",            ABSMAX,          32,   false},
    {"absmax channel",        ABSMAX,          COLS, false},
    {"absmax g128 asym",      ABSMAX,          128,  true},
    {"absmax g32 asym",       ABSMAX,          32,   true},
    {"search g128",           SEARCH,          128,  false},
    {"search g32",            SEARCH,          32,   false},
    {"search channel",        SEARCH,          COLS, false},
    {"search g128 weighted",  SEARCH_WEIGHTED, 128,  false},
    {"search g128 positive",  SEARCH_POSITIVE, 128,  false},
    {"search g128 asym",      SEARCH,          128,  true},
    {"search g32 asym",       SEARCH,          32,   true},
    {"decode g128",           DECODE,          128,  false},
    {"decode g32 asym",       DECODE,          32,   true},
};
/* clang-format on */

static float x[ROWS * COLS], h[COLS];
static uint32_t words[ROWS * COLS / 8];
static uint16_t scales[ROWS * COLS / 32];
static int8_t zeros[ROWS * COLS / 32];

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void call(const struct variant *v, const struct task *t)
{
    struct int4_rows q = {.words = words,
                          .scales = scales,
                          .zeros = t->asym ? zeros : NULL,
                          .words_stride = COLS / 8,
                          .rows = ROWS,
                          .cols = COLS,
                          .group_cols = t->group_cols};
    struct row_error err[ROWS];

    switch (t->kind) {
    case ABSMAX:
        v->absmax(&q, x, COLS, err);
        break;
    case SEARCH:
    case SEARCH_WEIGHTED:
    case SEARCH_POSITIVE:
        v->search(&q, x, COLS, t->kind == SEARCH_WEIGHTED ? h : NULL, t->kind == SEARCH_POSITIVE, err);
        break;
    case DECODE:
        v->decode(x, COLS, &q);
        break;
    }
}

static double gigaweights(const struct variant *v, const struct task *t)
{
    double best = 1e9, once;
    size_t calls;

    once = now();
    call(v, t);
    once = now() - once;
    calls = once > 0.002 ? 1 : (size_t)(0.002 / (once + 1e-7)) + 1;
    for (int run = 0; run < RUNS && (run < 3 || once < 0.01); run++) {
        double start = now();

        for (size_t i = 0; i < calls; i++)
            call(v, t);
        start = (now() - start) / (double)calls;
        best = start < best ? start : best;
    }
    return 1e-9 * ROWS * COLS / best;
}

/* Bell-shaped, which decides how often codes clip. */
static void fill(void)
{
    uint64_t state = 1;

    for (size_t i = 0; i < ROWS * COLS; i++) {
        float sum = 0;

        for (int k = 0; k < 12; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) * 0x1p-24f;
        }
        x[i] = 0.02f * (sum - 6);
    }
    for (size_t i = 0; i < COLS; i++)
        h[i] = 0.5f + (float)(i % 7);
}

int main(void)
{
    const struct variant variants[] = {
        {"ref", true, int4_absmax_ref, int4_search_ref, int4_decode_ref},
        {"avx2", __builtin_cpu_supports("avx2"), int4_absmax_avx2, int4_search_avx2, int4_decode_avx2},
        {"avx512",
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"),
         int4_absmax_avx512, int4_search_avx512, int4_decode_avx512},
    };

    printf("%-22s %10s %10s %10s %16s %16s\n", "G weights/s", "ref", "avx2", "avx512", "avx2 / ref", "avx512 / avx2");
    for (size_t t = 0; t < sizeof tasks / sizeof tasks[0]; t++) {
        double rate[3] = {0};

        for (int v = 0; v < 3; v++) {
            fill();
            if (variants[v].usable)
                rate[v] = gigaweights(&variants[v], &tasks[t]);
        }
        printf("%-22s %10.4f %10.4f %10.4f %16.1f %16.2f\n", tasks[t].name, rate[0], rate[1], rate[2],
               rate[1] / rate[0], rate[1] > 0 ? rate[2] / rate[1] : 0);
    }
    return 0;
}
