/* One expert matrix of DeepSeek-V3 through transform_run on one thread, each bar beside its figure: warm (the same
 * buffers again and again) and streaming (so many matrices that every byte comes from memory and goes there). The
 * clock is the thread's own, so that what else runs disturbs less; each figure is the median of the rounds.
 *
 * With llama.cpp's library in build/peers (make bench-peers), its Q4_0 quantizer takes turns with ours: float32 rows
 * there, FP8 codes here. The bar is ten times its rate. */
#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/mem.h"
#include "quant/transform.h"
#include "samples/generate/synthetic_weights.h"

#define ROWS     2048u
#define COLS     7168u
#define WEIGHTS  ((size_t)ROWS * COLS)
#define STREAMED 12u /* matrices: 12 x 15 MB of codes alone, past any cache */
#define ROUNDS   11u
#define PEER     "build/peers/node_modules/@node-llama-cpp/linux-x64*/bins/linux-x64*/libggml-base.so"

struct matrix {
    struct slices in, out;
};

static struct matrix matrices[STREAMED];
static void *scratch;

static const struct scheme from = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .block_rows = 128, .block_cols = 128};

struct task {
    const char *name;
    struct scheme to;
    double warm_bar, streaming_bar; /* G weights/s, 0: none */
};

#define INT4(how, group)                                                                                               \
    {                                                                                                                  \
        .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = group, .method = how               \
    }

/* clang-format off */
static const struct task tasks[] = {
    {"FP8 -> BF16",             {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16, .method = METHOD_ROUND}, 6, 3},
    {"FP8 -> int4 g128 absmax", INT4(METHOD_ABSMAX, 128), 3, 2.5},
    {"FP8 -> int4 g32 absmax",  INT4(METHOD_ABSMAX, 32), 0, 0},
    {"FP8 -> int4 g128 search", INT4(METHOD_SEARCH, 128), 0.15, 0},
    {"FP8 -> int4 g32 search",  INT4(METHOD_SEARCH, 32), 0.15, 0},
};
/* clang-format on */

#define TASK_COUNT  (sizeof tasks / sizeof tasks[0])
#define TASK_ABSMAX 1u /* the one that Q4_0 is held against */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double values[ROUNDS])
{
    qsort(values, ROUNDS, sizeof *values, compare_doubles);
    return values[ROUNDS / 2];
}

static void make_matrices(void)
{
    struct synthetic_weights *weights = mem_alloc(sizeof *weights);
    size_t scales = (ROWS / 128) * (COLS / 128) * sizeof(float), most = 0;

    synthetic_weights_init(weights, 1);
    for (unsigned i = 0; i < STREAMED; i++) {
        char name[32];
        snprintf(name, sizeof name, "expert.%u", i);
        struct tensor codes = {.name = name, .dtype = DTYPE_F8_E4M3, .rank = 2, .dims = {ROWS, COLS}};
        struct tensor scale = {.name = name, .dtype = DTYPE_F32, .rank = 2, .dims = {ROWS / 128, COLS / 128}};
        struct matrix *m = &matrices[i];
        m->in.part[PART_CODES] = mem_aligned(WEIGHTS);
        m->in.part[PART_SCALE] = mem_aligned(scales);
        m->out.part[PART_CODES] = mem_aligned(WEIGHTS * 2);
        m->out.part[PART_SCALE] = mem_aligned(WEIGHTS / 32 * 2);
        memset(m->out.part[PART_CODES], 0, WEIGHTS * 2);
        memset(m->out.part[PART_SCALE], 0, WEIGHTS / 32 * 2);
        synthetic_weights_fill(weights, &codes, 0, m->in.part[PART_CODES], WEIGHTS);
        synthetic_weights_fill(weights, &scale, 0, m->in.part[PART_SCALE], scales);
    }
    for (size_t i = 0; i < TASK_COUNT; i++) {
        struct transform t = {.kernel = kernel_get(), .from = from, .to = tasks[i].to, .cols = COLS};
        size_t bytes = transform_scratch_bytes(&t);
        most = bytes > most ? bytes : most;
    }
    scratch = mem_aligned(most);
    mem_free(weights);
}

/* Seconds for one matrix. */
static double once(const struct kernel *k, const struct task *task, struct matrix *m)
{
    struct transform t = {.kernel = k, .from = from, .to = task->to, .cols = COLS};
    struct weight_error error = {0};
    struct err e = {0};
    double start = now();

    if (!transform_run(&t, 0, ROWS, ROWS, &m->in, &m->out, scratch, &error, &e)) {
        fprintf(stderr, "bench: %s\n", e.text);
        exit(1);
    }
    return now() - start;
}

/* Billions of weights a second. */
static double rate(const struct kernel *k, const struct task *task, unsigned matrix_count)
{
    double seconds[ROUNDS] = {0};

    once(k, task, &matrices[0]);
    for (unsigned r = 0; r < ROUNDS; r++) {
        for (unsigned i = 0; i < matrix_count; i++)
            seconds[r] += once(k, task, &matrices[i]);
        seconds[r] /= matrix_count;
    }
    return 1e-9 * WEIGHTS / median(seconds);
}

static const struct kernel *kernel_named(const char *name)
{
    for (size_t i = 0; i < kernel_count(); i++)
        if (strcmp(kernel_at(i)->name, name) == 0 && kernel_at(i)->usable())
            return kernel_at(i);
    return NULL;
}

static void print_bar(double value, double bar)
{
    if (bar > 0)
        printf(" (bar %.2f)%-8s", bar, value >= bar ? " ok" : " MISSED");
    else
        printf("%20s", "");
}

static void bench_task(const struct task *t)
{
    const struct kernel *best = kernel_get(), *avx2 = kernel_named("avx2"), *avx512 = kernel_named("avx512");
    bool slow = t->to.method == METHOD_SEARCH;
    double warm = rate(best, t, 1), streaming = slow ? 0 : rate(best, t, STREAMED);

    printf("%-24s warm %6.3f", t->name, warm);
    print_bar(warm, t->warm_bar);
    if (!slow) {
        printf(" streaming %6.3f", streaming);
        print_bar(streaming, t->streaming_bar);
    }
    if (avx2 && avx512) {
        double times = rate(avx512, t, 1) / rate(avx2, t, 1);
        printf(" avx512 / avx2 %.2f (bar 2.5)%s", times, times <= 2.5 ? " ok" : " MISSED");
    }
    printf("\n");
    fflush(stdout);
}

/* ---- llama.cpp ---- */

#define GGML_TYPE_Q4_0 2

typedef size_t quantize_chunk(int type, const float *src, void *dst, int64_t start, int64_t rows, int64_t cols,
                              const float *importance);

static quantize_chunk *find_peer(void)
{
    glob_t found = {0};
    quantize_chunk *function = NULL;

    if (glob(PEER, 0, NULL, &found) == 0) {
        void *library = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_LOCAL);
        void *symbol = library ? dlsym(library, "ggml_quantize_chunk") : NULL;
        if (!symbol)
            fprintf(stderr, "bench: %s\n", dlerror());
        memcpy(&function, &symbol, sizeof function);
    }
    globfree(&found);
    return function;
}

/* The same weights as float32. */
static float *decode_matrix(void)
{
    float *x = mem_aligned(WEIGHTS * sizeof *x);
    void *memory = mem_aligned(decode_scratch_bytes(&from, COLS) + 1);
    struct err e = {0};

    if (!decode_rows(kernel_get(), &from, 0, ROWS, ROWS, COLS, &matrices[0].in, x, memory, &e))
        fprintf(stderr, "bench: %s\n", e.text);
    mem_free(memory);
    return x;
}

static void bench_peer(void)
{
    quantize_chunk *quantize = find_peer();
    double ours[ROUNDS] = {0}, theirs[ROUNDS] = {0}, ratio[ROUNDS] = {0};

    if (!quantize) {
        printf("llama.cpp Q4_0: SKIPPED, no library in build/peers (make bench-peers brings it)\n");
        return;
    }
    float *x = decode_matrix();
    void *out = mem_aligned(WEIGHTS);
    quantize(GGML_TYPE_Q4_0, x, out, 0, ROWS, COLS, NULL);
    for (unsigned r = 0; r < ROUNDS; r++) {
        double start = now();
        quantize(GGML_TYPE_Q4_0, x, out, 0, ROWS, COLS, NULL);
        theirs[r] = now() - start;
        ours[r] = once(kernel_get(), &tasks[TASK_ABSMAX], &matrices[0]);
        ratio[r] = theirs[r] / ours[r];
    }
    double times = median(ratio);
    printf("llama.cpp Q4_0 %.3f, FP8 -> int4 g128 absmax %.3f: %.1f times (bar 10)%s\n",
           1e-9 * WEIGHTS / median(theirs), 1e-9 * WEIGHTS / median(ours), times, times >= 10 ? " ok" : " MISSED");
    mem_free(out);
    mem_free(x);
}

int main(void)
{
    struct err e = {0};

    if (!kernel_pick(&e)) {
        fprintf(stderr, "bench: %s\n", e.text);
        return 1;
    }
    make_matrices();
    printf("one thread, %s, one %u x %u matrix, G weights/s, median of %u\n", kernel_get()->name, ROWS, COLS, ROUNDS);
    for (size_t i = 0; i < TASK_COUNT; i++)
        bench_task(&tasks[i]);
    bench_peer();
    return 0;
}
