/* Products with coded weights against OpenBLAS's sgemm with the same weights as float32, which it is given for
 * nothing: one thread each, by turns, medians of the thread's own clock. Then few tokens, against the rate at which
 * the weights' bytes can be read at all.
 *
 *     bench-gemm [rounds, default 5]
 *     bench-gemm --rate TOKENS        only FLOP a second of FP8 weights and so many tokens, for other benches
 *
 * OpenBLAS is opened while this runs; without it its column is left out. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are
 * dropped first, so that it chooses its kernels for this CPU itself. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/mem.h"
#include "quant/bits.h"
#include "quant/gemm.h"

#define TOKENS_MAX 1024u
#define WEIGHTS    ((size_t)2048 * 7168)
#define ROUNDS_MAX 99u
#define COPIES     6u /* of a matrix, for few tokens: past the cache, as layer after layer is */

#define INT4(group)                                                                                                    \
    {                                                                                                                  \
        .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = (group), .method = METHOD_ABSMAX   \
    }

/* bar: times sgemm, many tokens; by tiles with two terms, and with one where x is BF16. */
static const struct task {
    const char *name;
    struct scheme scheme;
    double bar, tiles_bar, tiles_bar1;
} tasks[] = {
    {"FP8 128x128",
     {.kind = SCHEME_FP8_BLOCK,
      .dtype = DTYPE_F8_E4M3,
      .scale = SCALE_F32,
      .block_rows = 128,
      .block_cols = 128,
      .method = METHOD_ABSMAX},
     1.0,
     3.0,
     5.0},
    {"int4 g128", INT4(128), 1.0, 3.0, 5.0},
    {"int4 g32", INT4(32), 1.0, 1.5, 0},
    {"BF16", {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16, .method = METHOD_ROUND}, 0, 0, 0},
};
#define TASKS (sizeof tasks / sizeof tasks[0])

static const struct {
    uint64_t rows, cols;
} shapes[] = {{2048, 7168}, {7168, 2048}};
static const size_t many[] = {64, 256, 1024};
static const size_t few[] = {1, 2, 4, 8, 16};

typedef void sgemm_f(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a,
                     int lda, const float *b, int ldb, float beta, float *c, int ldc);
static sgemm_f *sgemm;

static float *w, *x, *x_bf16, *y;
static void *codes[TASKS][COPIES], *scales[TASKS][COPIES], *scratch;
static unsigned rounds = 5;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double l = *(const double *)a, r = *(const double *)b;

    return (l > r) - (l < r);
}

static double median(double *values, unsigned count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return values[count / 2];
}

static void must(bool ok, const struct err *e)
{
    if (ok)
        return;
    fprintf(stderr, "bench-gemm: %s\n", e->text);
    exit(1);
}

/* Function pointers and data pointers are different things to C, the same to dlsym. */
static void symbol(void *library, const char *name, void *function)
{
    void *p = dlsym(library, name);

    memcpy(function, &p, sizeof p);
}

static void open_blas(void)
{
    unsetenv("OPENBLAS_CORETYPE");
    unsetenv("OPENBLAS_L2_SIZE");
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        printf("  (OpenBLAS skipped: %s)\n", dlerror());
        return;
    }
    void (*set_threads)(int) = NULL;
    char *(*core)(void) = NULL, *(*config)(void) = NULL;
    symbol(library, "openblas_set_num_threads", &set_threads);
    symbol(library, "openblas_get_corename", &core);
    symbol(library, "openblas_get_config", &config);
    symbol(library, "cblas_sgemm", &sgemm);
    if (!set_threads || !core || !config || !sgemm) {
        sgemm = NULL;
        printf("  (OpenBLAS skipped: it lacks what is called here)\n");
        return;
    }
    set_threads(1);
    printf("OpenBLAS: core '%s', %s\n", core(), config());
}

static const struct kernel *kernel_named(const char *name)
{
    for (size_t i = 0; i < kernel_count(); i++)
        if (strcmp(kernel_at(i)->name, name) == 0 && kernel_at(i)->usable())
            return kernel_at(i);
    return NULL;
}

static void fill(float *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (float)(int32_t)seed * 0x1p-31f;
    }
}

/* Both shapes have the same weights, so the same bytes serve both. */
static void make_weights(const struct task *task, void **code_bytes, void **scale_bytes)
{
    struct part_layout layout[PART_COUNT];
    struct err e = {0};
    struct weight_error error = {0};
    uint64_t rows = shapes[0].rows, cols = shapes[0].cols;
    struct transform t = {
        .kernel = kernel_get(), .from = {.kind = SCHEME_PLAIN, .dtype = DTYPE_F32}, .to = task->scheme, .cols = cols};

    must(scheme_layout(&task->scheme, rows, cols, layout, &e), &e);
    *code_bytes = mem_aligned(layout[PART_CODES].bytes);
    *scale_bytes = mem_aligned(layout[PART_SCALE].bytes + MEM_ALIGN);
    void *work = mem_aligned(transform_scratch_bytes(&t) + MEM_ALIGN);
    struct slices in = {.part = {[PART_CODES] = w}},
                  out = {.part = {[PART_CODES] = *code_bytes, [PART_SCALE] = *scale_bytes}};
    must(transform_run(&t, 0, rows, rows, &in, &out, work, &error, &e), &e);
    mem_free(work);
}

static struct coded coded_of(size_t task, size_t copy, size_t shape)
{
    return (struct coded){.scheme = tasks[task].scheme,
                          .rows = shapes[shape].rows,
                          .cols = shapes[shape].cols,
                          .parts = {.part = {[PART_CODES] = codes[task][copy], [PART_SCALE] = scales[task][copy]}}};
}

static double time_with(const float *from, const struct kernel *k, const struct coded *c, size_t tokens)
{
    struct err e = {0};
    double start = now();

    must(gemm(k, c, 0, c->rows, from, c->cols, tokens, y, c->rows, false, scratch, &e), &e);
    return now() - start;
}

static double time_ours(const struct kernel *k, const struct coded *c, size_t tokens)
{
    return time_with(x, k, c, tokens);
}

static double time_sgemm(size_t shape, size_t tokens)
{
    int rows = (int)shapes[shape].rows, cols = (int)shapes[shape].cols;
    double start = now();

    sgemm(101, 111, 112, (int)tokens, rows, cols, 1.0f, x, cols, w, cols, 0.0f, y, rows);
    return now() - start;
}

static void print_rate(const char *name, double rate, double times, double bar)
{
    printf(" %s %4.0f GFLOP/s", name, rate);
    if (times > 0)
        printf(", %.2fx sgemm%s", times, bar == 0 ? "" : times >= bar ? " ok" : " MISSED");
}

/* Every variant that this machine runs, by turns with sgemm. */
static void many_tokens(size_t shape, size_t tokens)
{
    const struct kernel *fast = kernel_named("avx512"), *avx2 = kernel_named("avx2"), *tiles = kernel_named("amx");
    double theirs[ROUNDS_MAX], ours[TASKS][ROUNDS_MAX], slow[TASKS][ROUNDS_MAX];
    double two_terms[TASKS][ROUNDS_MAX], one_term[TASKS][ROUNDS_MAX];
    double flop = 2.0 * (double)tokens * (double)WEIGHTS;

    for (unsigned r = 0; r < rounds; r++) {
        theirs[r] = sgemm ? time_sgemm(shape, tokens) : 0.0;
        for (size_t i = 0; i < TASKS; i++) {
            struct coded c = coded_of(i, r % COPIES, shape);
            ours[i][r] = fast ? time_ours(fast, &c, tokens) : 0.0;
            slow[i][r] = avx2 ? time_ours(avx2, &c, tokens) : 0.0;
            two_terms[i][r] = tiles ? time_ours(tiles, &c, tokens) : 0.0;
            one_term[i][r] = tiles ? time_with(x_bf16, tiles, &c, tokens) : 0.0;
        }
    }
    double sgemm_seconds = median(theirs, rounds);
    printf("%llu x %llu, %zu tokens: sgemm %.0f GFLOP/s\n", (unsigned long long)shapes[shape].rows,
           (unsigned long long)shapes[shape].cols, tokens, sgemm ? 1e-9 * flop / sgemm_seconds : 0.0);
    for (size_t i = 0; i < TASKS; i++) {
        double a = median(ours[i], rounds), b = median(slow[i], rounds);
        printf("  %-12s", tasks[i].name);
        if (fast)
            print_rate("avx512", 1e-9 * flop / a, sgemm_seconds / a, tasks[i].bar);
        if (avx2)
            print_rate(fast ? "; avx2" : "avx2", 1e-9 * flop / b, sgemm_seconds / b, fast ? 0 : tasks[i].bar);
        a = median(two_terms[i], rounds);
        b = median(one_term[i], rounds);
        if (tiles) {
            print_rate("; amx", 1e-9 * flop / a, sgemm_seconds / a, tasks[i].tiles_bar);
            print_rate("; of BF16", 1e-9 * flop / b, sgemm_seconds / b, tasks[i].tiles_bar1);
        }
        printf("\n");
    }
}

/* Seconds to read the bytes of all copies once, a sum of words. */
static double time_read(size_t task)
{
    static volatile uint64_t keep;
    size_t words = (size_t)((double)WEIGHTS * scheme_bits_per_weight(&tasks[task].scheme, 2048, 7168) / 64) / 8 * 8;
    uint64_t sum[8] = {0};
    double start = now();

    for (size_t copy = 0; copy < COPIES; copy++) {
        const uint64_t *p = codes[task][copy];
        for (size_t i = 0; i + 8 <= words; i += 8)
            for (size_t l = 0; l < 8; l++)
                sum[l] ^= p[i + l];
    }
    keep = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
    (void)keep;
    return (now() - start) / COPIES;
}

static void few_tokens(const struct kernel *k, size_t task)
{
    double read[ROUNDS_MAX], ours[sizeof few / sizeof few[0]][ROUNDS_MAX];

    for (unsigned r = 0; r < rounds; r++) {
        read[r] = time_read(task);
        for (size_t i = 0; i < sizeof few / sizeof few[0]; i++) {
            ours[i][r] = 0.0;
            for (size_t copy = 0; copy < COPIES; copy++) {
                struct coded c = coded_of(task, copy, 0);
                ours[i][r] += time_ours(k, &c, few[i]) / COPIES;
            }
        }
    }
    double reading = median(read, rounds);
    printf("  %-6s %-12s reading %.2f ms;", k->name, tasks[task].name, 1e3 * reading);
    for (size_t i = 0; i < sizeof few / sizeof few[0]; i++) {
        double seconds = median(ours[i], rounds);
        printf(" %zu: %.2f ms (%.2fx)", few[i], 1e3 * seconds, seconds / reading);
    }
    printf("\n");
}

static void print_rate_alone(size_t tokens)
{
    double seconds[ROUNDS_MAX];

    for (unsigned r = 0; r < rounds; r++) {
        struct coded c = coded_of(0, r % COPIES, 0);
        seconds[r] = time_ours(kernel_get(), &c, tokens);
    }
    printf("%.4e\n", 2.0 * (double)tokens * (double)WEIGHTS / median(seconds, rounds));
}

int main(int argc, char **argv)
{
    struct err e = {0};
    size_t tokens = argc == 3 && strcmp(argv[1], "--rate") == 0 ? strtoul(argv[2], NULL, 10) : 0;

    if (argc == 2)
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 3 || (argc == 3 && (tokens < 1 || tokens > TOKENS_MAX)) || rounds < 1 || rounds > ROUNDS_MAX)
        return 2;
    must(kernel_pick(&e), &e);
    w = mem_aligned(WEIGHTS * sizeof *w);
    x = mem_aligned(TOKENS_MAX * 7168 * sizeof *x);
    y = mem_aligned(TOKENS_MAX * 7168 * sizeof *y);
    scratch = mem_aligned(16 << 20);
    fill(w, WEIGHTS, 1);
    fill(x, (size_t)TOKENS_MAX * 7168, 2);
    x_bf16 = mem_aligned(TOKENS_MAX * 7168 * sizeof *x_bf16);
    for (size_t i = 0; i < (size_t)TOKENS_MAX * 7168; i++)
        x_bf16[i] = bits_float(float_bits(x[i]) & 0xFFFF0000u);
    memset(y, 0, TOKENS_MAX * 7168 * sizeof *y);
    for (size_t i = 0; i < TASKS; i++)
        for (size_t copy = 0; copy < COPIES; copy++)
            make_weights(&tasks[i], &codes[i][copy], &scales[i][copy]);
    if (tokens > 0) {
        print_rate_alone(tokens);
        return 0;
    }

    if (!kernel_named("amx"))
        printf("Not measured: amx%s, which this CPU has not\n", kernel_named("avx512") ? "" : " and avx512");
    open_blas();
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t t = 0; t < sizeof many / sizeof many[0]; t++)
            many_tokens(s, many[t]);
    printf("2048 x 7168, few tokens, weights from memory: tokens: time (times reading the bytes)\n");
    for (size_t v = 1; v < kernel_count(); v++)
        for (size_t i = 0; kernel_at(v)->usable() && i < TASKS; i++)
            few_tokens(kernel_at(v), i);
    return 0;
}
