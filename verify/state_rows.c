#include "verify/state_rows.h"

#include <math.h>
#include <string.h>

#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "quant/bits.h"
#include "verify/golden.h"

/* Rows a worker takes at a time: at 7,168 columns, 1.8 MB a buffer. */
#define ROWS 64u

struct task {
    const struct stream *in, *ref, *other;
    struct stream *to;
    const struct batch *batch;
    struct state_error *errors;
    float *projections;
    size_t count, width;
    uint64_t layer;
    float *buffers; /* three of ROWS rows for each worker */
};

static float *buffer(const struct task *t, unsigned worker, size_t which)
{
    return t->buffers + ((size_t)worker * 3 + which) * ROWS * t->width;
}

static bool run(struct task *t, unsigned threads, size_t jobs, pool_job *job, struct err *e)
{
    unsigned workers = threads ? threads : pool_cpu_count();

    t->buffers = mem_alloc((size_t)workers * 3 * ROWS * t->width * sizeof *t->buffers);
    bool ok = pool_run(workers, jobs, job, t, e);
    mem_free(t->buffers);
    return ok;
}

static size_t rows_of(size_t job, size_t count)
{
    size_t left = count - job * ROWS;

    return left < ROWS ? left : ROWS;
}

static size_t jobs_for(size_t count)
{
    return (count + ROWS - 1) / ROWS;
}

static bool compare_rows(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct task *t = ctx;
    size_t first = job * ROWS, rows = rows_of(job, t->count);
    const float *in = NULL, *ref, *other;

    if (t->in && !stream_read(t->in, first, rows, buffer(t, worker, 0), &in, e))
        return false;
    if (!stream_read(t->ref, first, rows, buffer(t, worker, 1), &ref, e) ||
        !stream_read(t->other, first, rows, buffer(t, worker, 2), &other, e))
        return false;
    for (size_t r = 0; r < rows; r++)
        state_compare(&t->errors[first + r], in ? in + r * t->width : NULL, ref + r * t->width, other + r * t->width,
                      t->width);
    return true;
}

bool states_compare(unsigned threads, const struct stream *in, const struct stream *ref, const struct stream *other,
                    size_t count, struct state_error *errors, struct err *e)
{
    struct task t = {.in = in, .ref = ref, .other = other, .errors = errors, .count = count, .width = ref->width};

    return run(&t, threads, jobs_for(count), compare_rows, e);
}

static bool copy_rows(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct task *t = ctx;
    size_t first = job * ROWS, rows = rows_of(job, t->count);
    float *place = stream_place(t->to, first, buffer(t, worker, 0));
    const float *from;

    if (!stream_read(t->ref, first, rows, buffer(t, worker, 1), &from, e))
        return false;
    memcpy(place, from, rows * t->width * sizeof *from);
    return stream_write(t->to, first, rows, place, e);
}

bool states_copy(unsigned threads, const struct stream *from, struct stream *to, struct err *e)
{
    struct task t = {.ref = from, .to = to, .count = to->tokens, .width = from->width};

    return run(&t, threads, jobs_for(t.count), copy_rows, e);
}

/* splitmix64's finisher. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* One unit in the last place; zero and what is about to overflow stay. */
static float nudged(float x, uint64_t hash)
{
    uint32_t bits = float_bits(x), magnitude = bits & 0x7FFFFFFFu;

    if (hash >> 63 || magnitude == 0 || magnitude >= 0x7F7FFFFFu)
        return x;
    return bits_float(hash >> 62 & 1 ? bits + 1 : bits - 1);
}

static bool nudge_rows(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct task *t = ctx;
    size_t first = job * ROWS, rows = rows_of(job, t->count);
    float *place = stream_place(t->to, first, buffer(t, worker, 0));
    const float *from;

    if (!stream_read(t->to, first, rows, buffer(t, worker, 1), &from, e))
        return false;
    for (size_t r = 0; r < rows; r++) {
        uint64_t seed = mix(0x9E3779B97F4A7C15u * (t->layer + 1) + first + r);
        for (size_t c = 0; c < t->width; c++)
            place[r * t->width + c] = nudged(from[r * t->width + c], mix(seed + 0x9E3779B97F4A7C15u * c));
    }
    return stream_write(t->to, first, rows, place, e);
}

bool states_nudge(unsigned threads, struct stream *s, uint64_t layer, struct err *e)
{
    struct task t = {.to = s, .count = s->tokens, .width = s->width, .layer = layer};

    return run(&t, threads, jobs_for(t.count), nudge_rows, e);
}

/* A context is one job: its sums are added up in token order. */
static bool project_context(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct task *t = ctx;
    const struct sequence *s = &t->batch->sequences[job];
    double sums[GOLDEN_PROJECTIONS] = {0};

    for (size_t token = 0; token < s->tokens; token += ROWS) {
        size_t rows = s->tokens - token < ROWS ? s->tokens - token : ROWS;
        const float *from;
        if (!stream_read(t->ref, s->first + token, rows, buffer(t, worker, 0), &from, e))
            return false;
        for (size_t r = 0; r < rows; r++)
            golden_project(sums, token + r, from + r * t->width, t->width);
    }
    for (size_t k = 0; k < GOLDEN_PROJECTIONS; k++)
        t->projections[job * GOLDEN_PROJECTIONS + k] = (float)sums[k];
    return true;
}

bool states_project(unsigned threads, const struct stream *s, const struct batch *batch, float *out, struct err *e)
{
    struct task t = {.ref = s, .batch = batch, .projections = out, .width = s->width};

    return run(&t, threads, batch->sequence_count, project_context, e);
}
