#include "quant/expert.h"

#include <math.h>
#include <string.h>

#include "quant/decode.h"
#include "quant/expert_private.h"
#include "quant/vecmath.h"

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- memory ---- */

static struct loss_matrix matrix_of(const struct expert_job *job, enum expert_part part, const struct coded *out)
{
    const struct coded *from = &job->mlp[part];

    struct loss_matrix m = {.from = from->scheme, .to = job->to[part], .rows = from->rows, .cols = from->cols};

    m.in = from->parts;
    if (out)
        m.out = out[part].parts;
    return m;
}

static struct transform transform_of(const struct expert_job *job, enum expert_part part)
{
    const struct coded *from = &job->mlp[part];

    return (struct transform){.kernel = job->kernel, .from = from->scheme, .to = job->to[part], .cols = from->cols};
}

static size_t scratch_bytes(const struct expert_job *job)
{
    size_t bytes = 0;

    for (enum expert_part part = 0; part < EXPERT_PARTS; part++) {
        struct loss_matrix m = matrix_of(job, part, NULL);
        struct transform t = transform_of(job, part);
        struct coded rounded = {.scheme = m.to, .rows = m.rows, .cols = m.cols};

        if (method_is_calibrated(m.to.method))
            bytes = most(bytes, calibrated_round_scratch_bytes(&m));
        else
            bytes = most(bytes, transform_scratch_bytes(&t));
        bytes = most(bytes, most(moments_scratch_bytes(m.cols), calibrated_scratch_bytes(m.cols)));
        bytes = most(bytes, gemm_scratch_bytes(&rounded, EXPERT_CHUNK));
    }
    return bytes;
}

void expert_place(struct expert_work *w, const struct expert_job *job, size_t scratch, struct scratch *s)
{
    size_t hidden = job->mlp[EXPERT_GATE].cols, inner = job->mlp[EXPERT_GATE].rows;
    size_t wide = moments_bytes(hidden), narrow = moments_bytes(inner);

    *w = (struct expert_work){.job = job, .hidden = hidden, .inner = inner};
    w->stage.sum = scratch_take(s, most(wide, narrow));
    w->stage.prior_sum = scratch_take(s, narrow);
    w->stage.calibrated = scratch_take(s, most(calibrated_bytes(hidden), calibrated_bytes(inner)));
    w->x = scratch_take(s, EXPERT_CHUNK * hidden * sizeof *w->x);
    w->gate = scratch_take(s, EXPERT_CHUNK * inner * sizeof *w->gate);
    w->up = scratch_take(s, EXPERT_CHUNK * inner * sizeof *w->up);
    w->spread = scratch_take(s, EXPERT_SPREAD_TOKENS * inner * sizeof *w->spread);
    w->factor = scratch_take(s, EXPERT_CHUNK * sizeof *w->factor);
    w->scratch = scratch_take(s, scratch);
}

/* Without a calibrated matrix, no moments. */
static void place(struct expert_work *w, const struct expert_job *job, struct scratch *s)
{
    bool calibrated = false;

    for (enum expert_part part = 0; part < EXPERT_PARTS; part++)
        calibrated |= method_is_calibrated(job->to[part].method);
    if (calibrated) {
        expert_place(w, job, scratch_bytes(job), s);
        return;
    }
    *w = (struct expert_work){
        .job = job, .hidden = job->mlp[EXPERT_GATE].cols, .inner = job->mlp[EXPERT_GATE].rows};
    w->scratch = scratch_take(s, scratch_bytes(job));
}

size_t expert_memory_bytes(const struct expert_job *job)
{
    struct expert_work w;
    struct scratch s = {0};

    place(&w, job, &s);
    return s.used_bytes;
}

size_t expert_place_output(const struct expert_job *job, struct coded out[EXPERT_PARTS], void *memory)
{
    struct scratch s = {.base = memory};

    for (enum expert_part part = 0; part < EXPERT_PARTS; part++) {
        uint64_t rows = job->mlp[part].rows, cols = job->mlp[part].cols;

        if (out)
            out[part] = (struct coded){.scheme = job->to[part], .rows = rows, .cols = cols};
        for (enum part p = PART_CODES; p < PART_SHAPE; p++) {
            uint64_t offset, bytes;

            scheme_slice(&job->to[part], p, rows, cols, 0, rows, &offset, &bytes);
            void *at = bytes > 0 ? scratch_take(&s, bytes) : NULL;
            if (out)
                out[part].parts.part[p] = at;
        }
    }
    return s.used_bytes;
}

/* ---- inputs ---- */

static float factor_of(const struct expert_work *w, double weight)
{
    return (float)sqrt(w->share + w->rest * weight * weight);
}

/* The tokens that count, of [first, first + count), moved together in x; their number. */
static bool read_inputs(struct expert_work *w, size_t first, size_t count, size_t *kept, struct err *e)
{
    const struct expert_job *job = w->job;

    if (!job->inputs(job->ctx, first, count, w->x, e))
        return false;
    *kept = 0;
    for (size_t t = 0; t < count; t++) {
        if (!moments_takes(first + t, job->tokens, job->cap))
            continue;
        if (*kept != t)
            memcpy(w->x + *kept * w->hidden, w->x + t * w->hidden, w->hidden * sizeof *w->x);
        w->factor[*kept] = w->even ? 1 : factor_of(w, (double)job->weights[first + t]);
        ++*kept;
    }
    return true;
}

bool expert_for_inputs(struct expert_work *w, expert_over *each, void *ctx, struct err *e)
{
    for (size_t t = 0; t < w->job->tokens; t += EXPERT_CHUNK) {
        size_t count = w->job->tokens - t < EXPERT_CHUNK ? w->job->tokens - t : EXPERT_CHUNK, kept;

        if (!read_inputs(w, t, count, &kept, e) || (kept > 0 && !each(w, w->x, kept, ctx, e)))
            return false;
    }
    return true;
}

/* Rows of the tokens in w->x. */
static void weigh(const struct expert_work *w, float *rows, size_t cols, size_t tokens)
{
    for (size_t t = 0; t < tokens && !w->even; t++)
        for (size_t c = 0; c < cols; c++)
            rows[t * cols + c] = rows[t * cols + c] * w->factor[t];
}

static bool add_x(struct expert_work *w, const float *x, size_t tokens, void *ctx, struct err *e)
{
    (void)e;
    weigh(w, w->x, w->hidden, tokens); /* which x is */
    moments_add(ctx, x, w->hidden, tokens, 1, w->scratch);
    return true;
}

static bool spread_x(struct expert_work *w, const float *x, size_t tokens, void *ctx, struct err *e)
{
    (void)e;
    weigh(w, w->x, w->hidden, tokens); /* which x is */
    moments_spread(ctx, x, w->hidden, tokens, w->scratch);
    return true;
}

/* a of some tokens, in w->gate. */
bool expert_activate(struct expert_work *w, const float *x, size_t tokens, struct err *e)
{
    const struct kernel *k = w->job->kernel;
    const struct coded *gate = &w->out[EXPERT_GATE], *up = &w->out[EXPERT_UP];

    if (!gemm(k, gate, 0, w->inner, x, w->hidden, tokens, w->gate, w->inner, false, w->scratch, e) ||
        !gemm(k, up, 0, w->inner, x, w->hidden, tokens, w->up, w->inner, false, w->scratch, e))
        return false;
    for (size_t t = 0; t < tokens; t++)
        k->vec->silu_mul(w->gate + t * w->inner, w->gate + t * w->inner, w->up + t * w->inner, w->inner);
    return true;
}

struct activations {
    struct moments *moments;
    uint64_t total; /* tokens that will come */
};

static bool add_a(struct expert_work *w, const float *x, size_t tokens, void *ctx, struct err *e)
{
    struct activations *a = ctx;

    if (!expert_activate(w, x, tokens, e))
        return false;
    weigh(w, w->gate, w->inner, tokens);
    for (size_t t = 0; t < tokens; t++)
        if (moments_takes(a->moments->tokens + t, a->total, EXPERT_SPREAD_TOKENS))
            memcpy(w->spread + w->spread_rows++ * w->inner, w->gate + t * w->inner, w->inner * sizeof *w->gate);
    moments_add(a->moments, w->gate, w->inner, tokens, 1, w->scratch);
    return true;
}

static uint64_t counted(const struct expert_job *job)
{
    return job->cap > 0 && job->cap < job->tokens ? job->cap : job->tokens;
}

static void close_spread(struct expert_work *w, struct moments *m)
{
    if (moments_close(m)) /* what is not finite is found, and named, by calibrated_make */
        moments_spread(m, w->spread, w->inner, w->spread_rows, w->scratch);
}

/* ---- the two inputs ---- */

/* For the input, of `cols` columns, of matrices [first, last]. */
static void set_weights(struct expert_work *w, enum expert_part first, enum expert_part last, size_t cols)
{
    const struct expert_job *job = w->job;
    double n = (double)counted(job), sum = 0;

    w->even = !job->weights || n <= 2 * (double)cols;
    for (enum expert_part part = first; part <= last; part++)
        w->even |= job->to[part].method == METHOD_GPTQ;
    for (uint64_t t = 0; t < job->tokens && !w->even; t++)
        if (moments_takes(t, job->tokens, job->cap))
            sum += (double)job->weights[t] * (double)job->weights[t];
    w->even |= !(sum > 0);
    w->share = 2 * (double)cols / n;
    w->rest = (1 - w->share) * n / sum;
}

bool expert_measure_x(struct expert_work *w, struct moments *own, struct err *e)
{
    set_weights(w, EXPERT_GATE, EXPERT_UP, w->hidden);
    moments_init(own, w->job->kernel, w->hidden, w->stage.sum);
    if (!expert_for_inputs(w, add_x, own, e))
        return false;
    return !moments_close(own) || expert_for_inputs(w, spread_x, own, e);
}

bool expert_measure_a(struct expert_work *w, struct moments *own, struct err *e)
{
    struct activations a = {.moments = own, .total = counted(w->job)};

    set_weights(w, EXPERT_DOWN, EXPERT_DOWN, w->inner);
    moments_init(own, w->job->kernel, w->inner, w->stage.sum);
    w->spread_rows = 0;
    if (!expert_for_inputs(w, add_a, &a, e))
        return false;
    close_spread(w, own);
    return true;
}

static double trace(const struct moments *m)
{
    double sum = 0;

    for (size_t j = 0; j < m->cols; j++)
        sum += (double)moments_variance(m, j);
    return sum;
}

/* The layer's sample through this expert. Sums are scaled, not spread and correlations, which have no scale. */
bool expert_measure_prior_a(struct expert_work *w, const struct moments *own, struct moments *prior, struct err *e)
{
    const struct expert_layer *layer = w->job->layer;
    struct activations a = {.moments = prior, .total = layer->sample_tokens};

    moments_init(prior, w->job->kernel, w->inner, w->stage.prior_sum);
    w->even = true;
    w->spread_rows = 0;
    for (size_t t = 0; t < layer->sample_tokens; t += EXPERT_CHUNK) {
        size_t left = layer->sample_tokens - t, count = left < EXPERT_CHUNK ? left : EXPERT_CHUNK;

        if (!add_a(w, layer->sample + t * w->hidden, count, &a, e))
            return false;
    }
    close_spread(w, prior);
    double mine = trace(own), theirs = trace(prior);
    if (mine > 0 && theirs > 0)
        for (size_t i = 0; i < prior->stride * prior->stride; i++)
            prior->sum[i] = prior->sum[i] * (float)(mine / theirs);
    return true;
}

static void note_input(struct expert_input *i, const struct calibrated *c, const struct moments *own)
{
    *i = (struct expert_input){.tokens = own->tokens};
    if (c->has_moments) {
        i->dead = c->shrunk.dead;
        i->to_prior = c->shrunk.to_prior;
        i->to_diagonal = c->shrunk.to_diagonal;
        i->retries = c->factor.retries;
    }
    (void)calibrated_text(c, i->text);
}

static const char *part_name(enum expert_part part)
{
    static const char *const names[] = {"gate_proj", "up_proj", "down_proj"};

    return names[part];
}

/* One scale for FP8 matrices of one input: engines load gate and up as one. */
static bool tensor_scale(struct expert_work *w, enum expert_part first, enum expert_part last, float *scale, struct err *e)
{
    float most = 0;

    for (enum expert_part part = first; part <= last; part++) {
        struct transform t = transform_of(w->job, part);
        const struct coded *from = &w->job->mlp[part];
        float part_most = 0;
        if (t.to.kind != SCHEME_FP8_TENSOR || t.to.method == METHOD_COPY)
            continue;
        if (!transform_most(&t, 0, from->rows, &from->parts, w->scratch, &part_most, e))
            return err_in(e, "%s", part_name(part));
        most = part_most > most ? part_most : most;
    }
    *scale = transform_tensor_scale(most);
    return true;
}

static bool round_plainly(struct expert_work *w, enum expert_part part, float scale, struct rounded *r, struct err *e)
{
    struct transform t = transform_of(w->job, part);
    const struct coded *from = &w->job->mlp[part];

    t.tensor_scale = scale;
    *r = (struct rounded){.ending = ENDING_PLAIN, .reason = REASON_ASKED};
    return transform_run(&t, 0, from->rows, from->rows, &from->parts, &w->out[part].parts, w->scratch, &r->weights, e);
}

/* Matrices [first, last] of one input; own may be NULL when none of them is calibrated. */
static bool round_parts(struct expert_work *w, enum expert_part first, enum expert_part last, const struct moments *own,
                        const struct moments *prior, struct expert_result *result, struct err *e)
{
    enum method made = METHOD_COUNT;
    float scale = 0;

    if (!tensor_scale(w, first, last, &scale, e))
        return false;
    for (enum expert_part part = first; part <= last; part++) {
        struct loss_matrix m = matrix_of(w->job, part, w->out);
        struct calibrated_options o = w->job->options;
        bool calibrated = method_is_calibrated(m.to.method);

        o.method = m.to.method;
        if (calibrated && made != o.method) {
            calibrated_make(&w->calibrated, w->job->kernel, &o, own, prior, 1, w->stage.calibrated, w->scratch);
            note_input(&result->inputs[first == EXPERT_DOWN], &w->calibrated, own);
            made = o.method;
        }
        if (calibrated ? !calibrated_round(&w->calibrated, &m, w->scratch, &result->parts[part], e)
                       : !round_plainly(w, part, scale, &result->parts[part], e))
            return err_in(e, "%s", part_name(part));
    }
    return true;
}

bool expert_is_starved(const struct expert_job *job)
{
    return job->tokens < EXPERT_STARVED && job->layer->sample_tokens > 0;
}

bool expert_round(const struct expert_job *job, const struct coded out[EXPERT_PARTS], void *memory,
                  struct expert_result *result, struct err *e)
{
    struct scratch s = {.base = memory};
    struct moments own, prior;
    struct expert_work w;
    bool wide = method_is_calibrated(job->to[EXPERT_GATE].method) || method_is_calibrated(job->to[EXPERT_UP].method);
    bool starved = expert_is_starved(job);

    place(&w, job, &s);
    w.out = out;
    *result = (struct expert_result){0};
    if (wide && !expert_measure_x(&w, &own, e))
        return false;
    if (!round_parts(&w, EXPERT_GATE, EXPERT_UP, wide ? &own : NULL, job->layer->prior, result, e))
        return false;
    if (!method_is_calibrated(job->to[EXPERT_DOWN].method))
        return round_parts(&w, EXPERT_DOWN, EXPERT_DOWN, NULL, NULL, result, e);
    if (!expert_measure_a(&w, &own, e) || (starved && !expert_measure_prior_a(&w, &own, &prior, e)))
        return false;
    return round_parts(&w, EXPERT_DOWN, EXPERT_DOWN, &own, starved ? &prior : NULL, result, e);
}
