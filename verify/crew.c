#include "verify/crew.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "quant/decode.h"
#include "quant/vecmath.h"
#include "verify/layer_weights.h"

/* Rows of a matrix in one job, at least: enough that a panel is filled. */
#define LINEAR_ROWS 128u
/* Jobs of a product for each worker. Every job packs its tokens' x again; and who is late is late by one of them. */
#define JOBS_EACH 8u
/* Tokens in one job of row work. */
#define ROW_TOKENS 32u

/* Of one product: as many as make quant/gemm.h cut them, since what is beyond needs no more. */
#define ANY_TOKENS (1u << 20)

void crew_init(struct crew *c, unsigned threads, enum emulate emulate, uint64_t max_cols)
{
    /* No scheme has more scales, and zero points besides. */
    struct coded worst = {
        .scheme = {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_F32, .group_cols = 1, .asymmetric = true},
        .rows = 1,
        .cols = max_cols};
    size_t bytes = gemm_scratch_bytes(&worst, ANY_TOKENS);

    *c = (struct crew){.kernel = kernel_get(), .threads = threads ? threads : pool_cpu_count(), .emulate = emulate};
    c->scratch_bytes = (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    c->scratch = mem_aligned(c->threads * c->scratch_bytes);
}

void crew_release(struct crew *c)
{
    mem_free(c->scratch);
    mem_free(c->slices);
    *c = (struct crew){0};
}

void *crew_scratch(const struct crew *c, unsigned worker)
{
    return c->scratch + worker * c->scratch_bytes;
}

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

void crew_take_slices(struct crew *c, size_t slice_bytes)
{
    c->slice_bytes = slice_bytes;
    c->slices = mem_aligned(c->threads * slice_bytes);
}

uint64_t crew_slice_rows(const struct weight *w)
{
    uint64_t rows = round_up(LINEAR_ROWS, scheme_row_multiple(&w->stored));

    return rows < w->rows ? rows : w->rows;
}

void matrix_by_slices(struct matrix *m, const struct source *s, const struct weight *w)
{
    *m = (struct matrix){
        .name = w->name, .coded = {.scheme = w->stored, .rows = w->rows, .cols = w->cols}, .source = s, .weight = w};
}

static bool load_slice(const struct crew *c, unsigned worker, const struct matrix *w, uint64_t row, uint64_t rows,
                       struct coded *slice, struct err *e)
{
    assert(c->slices);
    return weight_load_rows(w->source, w->weight, row, rows, c->slices + worker * c->slice_bytes, slice, e);
}

/* ---- rows ---- */

struct rows_job {
    size_t tokens;
    crew_rows_fn *fn;
    void *ctx;
};

static bool run_rows(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct rows_job *r = ctx;
    size_t first = job * ROW_TOKENS, left = r->tokens - first;

    return r->fn(r->ctx, first, left < ROW_TOKENS ? left : ROW_TOKENS, worker, e);
}

bool crew_rows(const struct crew *c, size_t tokens, crew_rows_fn *fn, void *ctx, struct err *e)
{
    struct rows_job r = {tokens, fn, ctx};

    return pool_run(c->threads, (tokens + ROW_TOKENS - 1) / ROW_TOKENS, run_rows, &r, e);
}

void crew_round(const struct crew *c, float *x, size_t n)
{
    if (c->emulate == EMULATE_BF16)
        c->kernel->vec->round_bf16(x, x, n);
}

/* The normalized row is rounded before the weight multiplies it, and again after. */
static void norm_bf16(const struct crew *c, float *y, const float *x, const float *w, size_t n, double eps)
{
    const struct vecmath *v = c->kernel->vec;

    v->scale(y, x, (float)(1.0 / sqrt(v->sum2(x, n) / (double)n + eps)), n);
    v->round_bf16(y, y, n);
    for (size_t i = 0; i < n; i++)
        y[i] *= w[i];
    v->round_bf16(y, y, n);
}

void crew_norm(const struct crew *c, float *y, const float *x, const float *w, size_t n, double eps)
{
    if (c->emulate == EMULATE_BF16)
        norm_bf16(c, y, x, w, n, eps);
    else
        c->kernel->vec->rms_norm(y, x, w, n, eps);
}

static void silu_mul_bf16(const struct crew *c, float *gate, const float *up, size_t n)
{
    const struct vecmath *v = c->kernel->vec;
    float ones[256], act[256];

    for (size_t i = 0; i < 256; i++)
        ones[i] = 1.0f;
    for (size_t i = 0; i < n; i += 256) {
        size_t count = n - i < 256 ? n - i : 256;
        v->silu_mul(act, gate + i, ones, count);
        v->round_bf16(act, act, count);
        for (size_t j = 0; j < count; j++)
            gate[i + j] = act[j] * up[i + j];
    }
    v->round_bf16(gate, gate, n);
}

void crew_silu_mul(const struct crew *c, float *gate, const float *up, size_t n)
{
    if (c->emulate == EMULATE_BF16)
        silu_mul_bf16(c, gate, up, n);
    else
        c->kernel->vec->silu_mul(gate, gate, up, n);
}

void crew_add(const struct crew *c, float *y, const float *x, size_t n)
{
    c->kernel->vec->add(y, x, n);
    crew_round(c, y, n);
}

static bool rounds_inputs(const struct crew *c, const struct scheme *s)
{
    return c->emulate == EMULATE_FP8_ACTIVATIONS && scheme_is_fp8(s);
}

bool crew_round_input(const struct crew *c, const struct scheme *s, float scale, float *x, size_t n, struct err *e)
{
    if (!rounds_inputs(c, s))
        return true;
    if (scale > 0)
        return fp8_static_activations(c->kernel, x, x, n, scale) ||
               err_set(e, ERR_FORMAT, "an activation is not finite");
    return fp8_activations(c->kernel, x, x, n, s->scale == SCALE_F32_POW2 || s->scale == SCALE_E8M0) ||
           err_set(e, ERR_FORMAT, "an activation is not finite");
}

/* ---- products ---- */

/* Rows [row, row + rows). */
static bool multiply(const struct crew *c, unsigned worker, const struct matrix *w, uint64_t row, uint64_t rows,
                     const float *x, size_t x_stride, size_t tokens, float *y, size_t y_stride, struct err *e)
{
    void *scratch = crew_scratch(c, worker);
    struct coded slice;

    if (!w->source)
        return gemm(c->kernel, &w->coded, row, rows, x, x_stride, tokens, y, y_stride, false, scratch, e) ||
               err_in(e, "tensor '%s'", w->name);
    if (!load_slice(c, worker, w, row, rows, &slice, e))
        return false;
    return gemm(c->kernel, &slice, 0, rows, x, x_stride, tokens, y + row, y_stride, false, scratch, e) ||
           err_in(e, "tensor '%s', from row %llu", w->name, (unsigned long long)row);
}

struct linear_job {
    const struct crew *crew;
    const struct matrix *w;
    const float *x;
    size_t x_stride, tokens;
    float *y;
    size_t y_stride;
    uint64_t step; /* rows of a job */
    size_t row_jobs;
};

static bool run_linear(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct linear_job *l = ctx;
    uint64_t row = job % l->row_jobs * l->step, rows = l->w->coded.rows - row;
    size_t first = job / l->row_jobs * CREW_TOKENS, tokens = l->tokens - first;
    float *y = l->y + first * l->y_stride;

    rows = rows < l->step ? rows : l->step;
    tokens = tokens < CREW_TOKENS ? tokens : CREW_TOKENS;
    if (!multiply(l->crew, worker, l->w, row, rows, l->x + first * l->x_stride, l->x_stride, tokens, y, l->y_stride, e))
        return false;
    for (size_t t = 0; l->crew->emulate == EMULATE_BF16 && t < tokens; t++)
        crew_round(l->crew, y + t * l->y_stride + row, rows);
    return true;
}

static bool run_round_input(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct linear_job *l = ctx;
    size_t cols = l->w->coded.cols;

    (void)worker;
    for (size_t t = first; t < first + count; t++) {
        float *to = l->crew->rounded + t * cols;
        memcpy(to, l->x + t * l->x_stride, cols * sizeof *to);
        if (!crew_round_input(l->crew, &l->w->coded.scheme, l->w->input_scale, to, cols, e))
            return err_in(e, "input of '%s'", l->w->name);
    }
    return true;
}

/* Slices have room for the fewest. */
static uint64_t job_rows(const struct crew *c, const struct matrix *w, size_t token_jobs)
{
    uint64_t least = round_up(LINEAR_ROWS, scheme_row_multiple(&w->coded.scheme));

    if (w->source || token_jobs == 0)
        return least;
    uint64_t row_jobs = ((uint64_t)c->threads * JOBS_EACH + token_jobs - 1) / token_jobs;
    return round_up((w->coded.rows + row_jobs - 1) / row_jobs, least);
}

bool crew_linear(const struct crew *c, const struct matrix *w, const float *x, size_t x_stride, size_t tokens, float *y,
                 size_t y_stride, struct err *e)
{
    struct linear_job l = {c, w, x, x_stride, tokens, y, y_stride, LINEAR_ROWS, 0};

    if (rounds_inputs(c, &w->coded.scheme)) {
        if (!crew_rows(c, tokens, run_round_input, &l, e))
            return false;
        l.x = c->rounded;
        l.x_stride = w->coded.cols;
    }
    size_t token_jobs = (tokens + CREW_TOKENS - 1) / CREW_TOKENS;
    l.step = job_rows(c, w, token_jobs);
    l.row_jobs = (size_t)((w->coded.rows + l.step - 1) / l.step);
    return pool_run(c->threads, l.row_jobs * token_jobs, run_linear, &l, e);
}

bool worker_linear(const struct crew *c, unsigned worker, const struct matrix *w, float *x, size_t tokens, float *y,
                   struct err *e)
{
    size_t cols = w->coded.cols, rows = w->coded.rows;
    uint64_t step = w->source ? crew_slice_rows(w->weight) : rows;

    for (size_t t = 0; rounds_inputs(c, &w->coded.scheme) && t < tokens; t++)
        if (!crew_round_input(c, &w->coded.scheme, w->input_scale, x + t * cols, cols, e))
            return err_in(e, "input of '%s'", w->name);
    for (uint64_t row = 0; row < rows; row += step)
        if (!multiply(c, worker, w, row, rows - row < step ? rows - row : step, x, cols, tokens, y, rows, e))
            return false;
    crew_round(c, y, tokens * rows);
    return true;
}

/* ---- decoding ---- */

struct decode_job {
    const struct crew *crew;
    const struct matrix *w;
    float *x;
    uint64_t step;
};

static bool run_decode(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct decode_job *d = ctx;
    const struct coded *w = &d->w->coded;
    uint64_t row = job * d->step, rows = w->rows - row;
    struct slices in = {{0}};

    rows = rows < d->step ? rows : d->step;
    for (enum part p = 0; p < PART_COUNT; p++) {
        uint64_t offset, bytes;
        if (!w->parts.part[p])
            continue;
        scheme_slice(&w->scheme, p, w->rows, w->cols, row, rows, &offset, &bytes);
        in.part[p] = (uint8_t *)w->parts.part[p] + offset;
    }
    return decode_rows(d->crew->kernel, &w->scheme, row, rows, w->rows, w->cols, &in, d->x + row * w->cols,
                       crew_scratch(d->crew, worker), e) ||
           err_in(e, "tensor '%s'", d->w->name);
}

bool crew_decode(const struct crew *c, const struct matrix *w, float *x, struct err *e)
{
    struct decode_job d = {c, w, x, round_up(LINEAR_ROWS, scheme_row_multiple(&w->coded.scheme))};

    assert(decode_scratch_bytes(&w->coded.scheme, w->coded.cols) <= c->scratch_bytes);
    return pool_run(c->threads, (size_t)((w->coded.rows + d.step - 1) / d.step), run_decode, &d, e);
}

/* A slice starts where the scheme lets it, and there may be two such starts too many. */
uint64_t worker_decode_rows(const struct weight *w, uint64_t count)
{
    uint64_t multiple = scheme_row_multiple(&w->stored), rows = round_up(count + multiple - 1, multiple);

    return rows < w->rows ? rows : w->rows;
}

bool worker_decode(const struct crew *c, unsigned worker, const struct matrix *w, uint64_t row, uint64_t count,
                   float *x, const float **rows, struct err *e)
{
    uint64_t multiple = scheme_row_multiple(&w->coded.scheme), first = row / multiple * multiple;
    uint64_t end = round_up(row + count, multiple), some = (end < w->coded.rows ? end : w->coded.rows) - first;
    size_t cols = w->coded.cols;
    struct coded slice;

    *rows = x + (row - first) * cols;
    return load_slice(c, worker, w, first, some, &slice, e) &&
           (decode_rows(c->kernel, &slice.scheme, 0, some, some, cols, &slice.parts, x, crew_scratch(c, worker), e) ||
            err_in(e, "tensor '%s', from row %llu", w->name, (unsigned long long)first));
}
