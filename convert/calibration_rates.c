#include "convert/calibration_rates.h"

#include <assert.h>
#include <string.h>
#include <time.h>

#include "formats/base/mem.h"
#include "formats/base/random.h"
#include "quant/calibrated.h"
#include "quant/gemm.h"

#define MEASURE_SECONDS 0.08 /* at least, of each */
#define COLS_MAX        1024u
#define COLS_STEP       128u /* a group of int4 and a block of FP8 */
#define ROWS            256u
#define TOKENS          256u /* at a time, as the pipeline has them */

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A matrix, an input, and what rounding the one for the other needs. */
struct bench {
    size_t cols;
    struct loss_matrix matrix;
    struct moments moments;
    struct calibrated calibrated;
    float *x, *y;
    void *calibrated_memory, *scratch;
    void *owned[12];
    size_t owned_count;
};

static void *room(struct bench *b, size_t bytes)
{
    void *p = memset(mem_aligned(bytes + 1), 0, bytes + 1);

    assert(b->owned_count < sizeof b->owned / sizeof b->owned[0]);
    return b->owned[b->owned_count++] = p;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* A sum of four draws: bell shaped enough for a scale search to have work to do. */
static float bell(struct random_state *r)
{
    double sum = 0;

    for (int i = 0; i < 4; i++)
        sum += random_unit(r);
    return (float)(1.7 * (sum - 2));
}

static void make_matrix(struct bench *b, struct random_state *r)
{
    struct loss_matrix *m = &b->matrix;
    struct scheme schemes[] = {
        {.kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .block_rows = 128, .block_cols = 128},
        {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 128, .method = METHOD_LDLQ},
    };
    struct slices *sides[] = {&m->in, &m->out};

    *m = (struct loss_matrix){.from = schemes[0], .to = schemes[1], .rows = ROWS, .cols = b->cols};
    for (int side = 0; side < 2; side++)
        for (enum part part = 0; part < PART_SHAPE; part++) {
            uint64_t offset, bytes;
            scheme_slice(&schemes[side], part, ROWS, b->cols, 0, ROWS, &offset, &bytes);
            sides[side]->part[part] = bytes > 0 ? room(b, bytes) : NULL;
        }
    for (size_t i = 0; i < ROWS * b->cols; i++) {
        float v = 100 * bell(r), one = 1;
        kernel_get()->e4m3_encode((uint8_t *)m->in.part[PART_CODES] + i, &v, 1, &one, 1);
    }
    for (size_t i = 0; i < ROWS / 128 * (b->cols / 128); i++)
        ((float *)m->in.part[PART_SCALE])[i] = 2e-4f;
}

static void bench_make(struct bench *b, size_t cols)
{
    struct random_state r = {.counter = cols};
    size_t scratch;

    *b = (struct bench){.cols = cols};
    make_matrix(b, &r);
    struct coded w = {.scheme = b->matrix.from, .rows = ROWS, .cols = cols};
    b->x = room(b, TOKENS * cols * sizeof *b->x);
    b->y = room(b, TOKENS * ROWS * sizeof *b->y);
    for (size_t i = 0; i < TOKENS * cols; i++)
        b->x[i] = bell(&r) + (i % cols % 7 == 0 ? b->x[i > 0 ? i - 1 : 0] : 0);
    moments_init(&b->moments, kernel_get(), cols, room(b, moments_bytes(cols)));
    b->calibrated_memory = room(b, calibrated_bytes(cols));
    scratch = most(moments_scratch_bytes(cols), calibrated_scratch_bytes(cols));
    scratch = most(scratch, most(calibrated_round_scratch_bytes(&b->matrix), gemm_scratch_bytes(&w, TOKENS)));
    b->scratch = room(b, scratch);
}

static void bench_release(struct bench *b)
{
    for (size_t i = 0; i < b->owned_count; i++)
        mem_free(b->owned[i]);
}

/* ---- the stages; each returns the seconds of one go ---- */

typedef void stage(struct bench *b);

static double time_stage(struct bench *b, stage *run)
{
    double begin = now_seconds(), spent = 0;
    size_t times = 0;

    while (spent < MEASURE_SECONDS) {
        run(b);
        times++;
        spent = now_seconds() - begin;
    }
    return spent / (double)times;
}

static void run_product(struct bench *b)
{
    struct coded w = {.scheme = b->matrix.from, .rows = ROWS, .cols = b->cols, .parts = b->matrix.in};
    struct err e;

    bool ok = gemm(kernel_get(), &w, 0, ROWS, b->x, b->cols, TOKENS, b->y, ROWS, false, b->scratch, &e);
    assert(ok); /* the weights are our own */
}

static void run_moments(struct bench *b)
{
    moments_add(&b->moments, b->x, b->cols, TOKENS, 1, b->scratch);
}

static void run_factor(struct bench *b)
{
    struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);

    calibrated_make(&b->calibrated, kernel_get(), &o, &b->moments, NULL, 1, b->calibrated_memory, b->scratch);
}

static void run_search(struct bench *b)
{
    struct calibrated_options o = calibrated_defaults(METHOD_SEARCH);
    struct calibrated c;
    struct rounded ignored;
    struct err e;

    calibrated_make(&c, kernel_get(), &o, NULL, NULL, 1, b->calibrated_memory, b->scratch);
    bool ok = calibrated_round(&c, &b->matrix, b->scratch, &ignored, &e);
    assert(ok);
}

static void run_solve(struct bench *b)
{
    struct rounded ignored;
    struct err e;

    bool ok = calibrated_round(&b->calibrated, &b->matrix, b->scratch, &ignored, &e);
    assert(ok);
}

/* Operations per second of each stage at one width. */
static struct calibration_rates measure_width(size_t cols)
{
    struct calibration_rates r;
    struct bench b;
    double d = (double)cols;

    bench_make(&b, cols);
    r.product = 2 * d * ROWS * TOKENS / time_stage(&b, run_product);
    r.moments = d * d * TOKENS / time_stage(&b, run_moments);
    /* Over the search's own memory, which it does not need any more. */
    double search = time_stage(&b, run_search);
    bool finite = moments_close(&b.moments);
    assert(finite);
    moments_spread(&b.moments, b.x, cols, TOKENS, b.scratch);
    r.factor = d * d * d / 3 / time_stage(&b, run_factor);
    double solve = time_stage(&b, run_solve);
    r.search = d * ROWS / search;
    /* What the solve takes beside the search; a fifth of it, where the clock cannot tell them apart. */
    r.solve = d * d * ROWS / (solve > 1.25 * search ? solve - search : solve / 5);
    bench_release(&b);
    return r;
}

static size_t width_for(uint64_t cols)
{
    size_t steps = (size_t)(cols / COLS_STEP);

    return steps == 0 ? COLS_STEP : steps * COLS_STEP < COLS_MAX ? steps * COLS_STEP : COLS_MAX;
}

/* At the hidden state's width, which most of the work has. */
void calibration_rates_measure(struct calibration_rates *r, const struct arch *arch)
{
    *r = measure_width(width_for(arch->hidden_size));
}
