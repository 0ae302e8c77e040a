#include "quant/trial.h"

#include <assert.h>
#include <math.h>

#include "formats/base/mem.h"
#include "quant/channels.h"
#include "quant/decode.h"
#include "quant/expert_private.h"

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- one matrix ---- */

/* Where its output goes; the bytes of it. Another scheme's may take its place. */
static size_t place_out(struct loss_matrix *m, void *memory)
{
    struct scratch s = {.base = memory};

    for (enum part p = PART_CODES; p < PART_SHAPE; p++) {
        uint64_t offset, bytes;

        scheme_slice(&m->to, p, m->rows, m->cols, 0, m->rows, &offset, &bytes);
        m->out.part[p] = bytes > 0 ? scratch_take(&s, bytes) : NULL;
    }
    return s.used_bytes;
}

static struct loss_matrix matrix_of(const struct coded *w, const struct scheme *to)
{
    return (struct loss_matrix){.from = w->scheme, .to = *to, .rows = w->rows, .cols = w->cols, .in = w->parts};
}

static bool can_be(const struct coded *w, const struct scheme *to)
{
    struct part_layout parts[PART_COUNT];

    return scheme_layout(to, w->rows, w->cols, parts, NULL) && calibrated_check(to->method, &w->scheme, to, NULL);
}

size_t trial_bytes(const struct coded *w, const struct scheme *schemes, size_t count)
{
    struct loss_matrix same = matrix_of(w, &w->scheme);
    size_t out = 0, scratch = loss_scratch_bytes(&same);

    for (size_t i = 0; i < count; i++) {
        struct loss_matrix m = matrix_of(w, &schemes[i]);
        if (!can_be(w, &schemes[i]))
            continue;
        out = most(out, place_out(&m, NULL));
        scratch = most(scratch, calibrated_round_scratch_bytes(&m));
    }
    return out + scratch;
}

static double all_rows(double sum, const struct loss *l, uint64_t rows)
{
    return l->rows > 0 ? sum * (double)rows / (double)l->rows : 0;
}

/* The input's moments under another method than the one it was made for. */
static struct calibrated by_method(const struct calibrated *c, enum method method)
{
    struct calibrated as = *c;

    if (method_is_calibrated(method))
        return as;
    as.options.method = method;
    as.ending = ENDING_PLAIN;
    return as;
}

static bool try_scheme(const struct calibrated *c, const struct coded *w, const struct scheme *to, void *memory,
                       double *loss, double *energy, struct err *e)
{
    struct loss_matrix m = matrix_of(w, to);
    struct calibrated as = by_method(c, to->method);
    struct rounded r;
    uint8_t *scratch = (uint8_t *)memory + place_out(&m, memory);

    if (!calibrated_round(&as, &m, scratch, &r, e))
        return false;
    *loss = all_rows(r.loss.error, &r.loss, w->rows);
    *energy = all_rows(r.loss.energy, &r.loss, w->rows);
    return true;
}

/* Where no scheme had to be tried. */
static bool measure_energy(const struct calibrated *c, const struct coded *w, void *memory, double *energy,
                           struct err *e)
{
    struct loss_matrix m = matrix_of(w, &w->scheme);
    struct loss l = {0};

    m.out = m.in;
    if (!loss_measure(c->kernel, &c->shrunk, &m, c->options.check_rows, memory, &l, e))
        return false;
    *energy = all_rows(l.energy, &l, w->rows);
    return true;
}

bool trial_run(const struct calibrated *c, const struct coded *w, const struct scheme *schemes, size_t count,
               void *memory, struct trial *t, struct err *e)
{
    bool measured = false;

    assert(count <= TRIAL_SCHEMES);
    *t = (struct trial){0};
    if (!c->has_moments)
        return true;
    for (size_t i = 0; i < count; i++) {
        if (scheme_same_storage(&w->scheme, &schemes[i]))
            continue;
        if (!can_be(w, &schemes[i])) {
            t->loss[i] = INFINITY;
            continue;
        }
        if (!try_scheme(c, w, &schemes[i], memory, &t->loss[i], &t->energy, e))
            return false;
        measured = true;
    }
    return measured || measure_energy(c, w, memory, &t->energy, e);
}

/* ---- an expert's three ---- */

static size_t channels_scratch(const struct expert_job *job)
{
    return most(gemm_scratch_bytes(&job->mlp[EXPERT_GATE], EXPERT_CHUNK),
                gemm_scratch_bytes(&job->mlp[EXPERT_UP], EXPERT_CHUNK));
}

static size_t trial_scratch(const struct expert_job *job, const struct scheme *schemes, size_t count)
{
    size_t bytes = channels_scratch(job);

    for (enum expert_part part = 0; part < EXPERT_PARTS; part++) {
        const struct coded *w = &job->mlp[part];
        bytes = most(bytes, trial_bytes(w, schemes, count));
        bytes = most(bytes, most(moments_scratch_bytes(w->cols), calibrated_scratch_bytes(w->cols)));
    }
    return bytes;
}

size_t trial_expert_bytes(const struct expert_job *job, const struct scheme *schemes, size_t count)
{
    struct expert_work w;
    struct scratch s = {0};

    expert_place(&w, job, trial_scratch(job, schemes, count), &s);
    return s.used_bytes;
}

static bool try_parts(struct expert_work *w, enum expert_part first, enum expert_part last, const struct moments *own,
                      const struct moments *prior, const struct scheme *schemes, size_t count, struct trial *t,
                      struct err *e)
{
    static const char *const names[] = {"gate_proj", "up_proj", "down_proj"};

    calibrated_make(&w->calibrated, w->job->kernel, &w->job->options, own, prior, 1, w->stage.calibrated, w->scratch);
    for (enum expert_part part = first; part <= last; part++)
        if (!trial_run(&w->calibrated, &w->job->mlp[part], schemes, count, w->scratch, &t[part], e))
            return err_in(e, "%s", names[part]);
    return true;
}

bool trial_expert(const struct expert_job *job, const struct scheme *schemes, size_t count, void *memory,
                  struct trial t[EXPERT_PARTS], struct err *e)
{
    struct scratch s = {.base = memory};
    bool starved = expert_is_starved(job);
    struct moments own, prior;
    struct expert_work w;

    expert_place(&w, job, trial_scratch(job, schemes, count), &s);
    w.out = job->mlp;
    return expert_measure_x(&w, &own, e) &&
           try_parts(&w, EXPERT_GATE, EXPERT_UP, &own, job->layer->prior, schemes, count, t, e) &&
           expert_measure_a(&w, &own, e) && (!starved || expert_measure_prior_a(&w, &own, &prior, e)) &&
           try_parts(&w, EXPERT_DOWN, EXPERT_DOWN, &own, starved ? &prior : NULL, schemes, count, t, e);
}

/* ---- channels ---- */

struct sums {
    struct channels *x, *a;
};

static bool add_channels(struct expert_work *w, const float *x, size_t tokens, void *ctx, struct err *e)
{
    const struct sums *s = ctx;

    channels_add(s->x, x, w->hidden, tokens, 1);
    if (!expert_activate(w, x, tokens, e))
        return false;
    channels_add(s->a, w->gate, w->inner, tokens, 1);
    return true;
}

/* x, gate and up are all it wants of an expert's memory. */
size_t trial_channels_bytes(const struct expert_job *job)
{
    return EXPERT_CHUNK * (job->mlp[EXPERT_GATE].cols + 2 * job->mlp[EXPERT_GATE].rows + 1) * sizeof(float) +
           4 * MEM_ALIGN + channels_scratch(job);
}

bool trial_channels(const struct expert_job *job, void *memory, struct channels *x, struct channels *a, struct err *e)
{
    struct expert_job all = *job;
    struct scratch s = {.base = memory};
    struct expert_work w = {
        .job = &all, .out = job->mlp, .hidden = job->mlp[EXPERT_GATE].cols, .inner = job->mlp[EXPERT_GATE].rows};
    struct sums sums = {x, a};

    all.cap = 0;
    w.even = true;
    w.x = scratch_take(&s, EXPERT_CHUNK * w.hidden * sizeof *w.x);
    w.gate = scratch_take(&s, EXPERT_CHUNK * w.inner * sizeof *w.gate);
    w.up = scratch_take(&s, EXPERT_CHUNK * w.inner * sizeof *w.up);
    w.factor = scratch_take(&s, EXPERT_CHUNK * sizeof *w.factor);
    w.scratch = scratch_take(&s, channels_scratch(job));
    return expert_for_inputs(&w, add_channels, &sums, e);
}
