/* Matrices that have one scale: it takes the largest magnitude of all rows, and of what engines load with them, before
 * the first code. */
#include <string.h>

#include "convert/layer_rows.h"
#include "convert/measured.h"
#include "convert/run_private.h"
#include "formats/base/pool.h"
#include "formats/engine.h"

/* ---- reading ---- */

struct looking {
    struct line *line;
    size_t *jobs; /* numbers of those to look at */
    float *found; /* [jobs] */
};

static bool wants_most(const struct plan *p, size_t weight)
{
    for (size_t o = 0; o < p->output_count; o++)
        if (plan_row_has_most(&p->outputs[o].rows[weight]))
            return true;
    return false;
}

static bool read_slices(const struct line *l, const struct job *job, uint8_t *to, struct slices *from, struct err *e)
{
    struct plan_slice in[PART_COUNT];

    plan_job_in(l->plan, job, in);
    *from = (struct slices){0};
    for (enum part part = 0; part < PART_COUNT; part++) {
        if (!in[part].tensor)
            continue;
        from->part[part] = to;
        if (!plan_read(l->plan, &in[part], to, e))
            return false;
        to += (in[part].bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
        progress_add(l->progress, in[part].bytes);
    }
    return true;
}

static bool look(void *ctx, size_t index, unsigned worker, struct err *e)
{
    struct looking *k = ctx;
    struct line *l = k->line;
    const struct job *job = &l->plan->jobs[k->jobs[index]];
    const struct weight *w = l->plan->weights[job->weight];
    struct transform t = {
        .kernel = kernel_get(),
        .from = w->stored,
        .to = {.kind = SCHEME_FP8_TENSOR, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .method = METHOD_ABSMAX},
        .cols = w->cols};
    struct slices from;

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    return (read_slices(l, job, l->slots[worker].in, &from, e) &&
            transform_most(&t, job->row, job->count, &from, l->scratch[worker], &k->found[index], e)) ||
           err_in(e, "shard '%s', tensor '%s'", l->plan->source->checkpoint.shards[w->parts[PART_CODES]->shard].name,
                  w->parts[PART_CODES]->name);
}

static bool share_scale(const struct tensor_id *a, const struct tensor_id *b)
{
    return a->role == engine_scale_partner(b->role) && a->role != ROLE_UNKNOWN && a->expert == b->expert &&
           a->part != NAME_INPUT_SCALE && b->part != NAME_INPUT_SCALE;
}

/* Both stand in one layer. */
static void find_partners(struct line *l)
{
    const struct plan *p = l->plan;
    struct layer_rows index;

    l->partners = mem_alloc((p->weight_count + 1) * sizeof *l->partners);
    layer_rows_make(&index, p, p->source->arch.layers + 1);
    for (uint64_t layer = 0; layer <= p->source->arch.layers; layer++)
        for (size_t i = index.begin[layer]; i < index.begin[layer + 1]; i++)
            for (size_t k = index.begin[layer]; k < index.begin[layer + 1] && wants_most(p, index.rows[i]); k++)
                if (share_scale(&p->weights[index.rows[k]]->id, &p->weights[index.rows[i]]->id))
                    l->partners[index.rows[i]] = index.rows[k] + 1;
    layer_rows_release(&index);
}

static size_t list_jobs(const struct line *l, size_t *jobs)
{
    size_t count = 0;

    for (size_t j = 0; j < l->plan->job_count; j++)
        if (wants_most(l->plan, l->plan->jobs[j].weight))
            jobs[count++] = j;
    return count;
}

bool run_find_most(struct line *l, unsigned threads, struct err *e)
{
    struct plan *p = l->plan;
    float *most = l->results[0].most;
    struct looking k = {.line = l, .jobs = mem_alloc((p->job_count + 1) * sizeof *k.jobs)};
    size_t count = list_jobs(l, k.jobs);
    bool known = true;

    if (count > 0)
        find_partners(l);
    for (size_t i = 0; i < count; i++)
        known &= most[p->jobs[k.jobs[i]].weight] >= 0;
    if (known) {
        mem_free(k.jobs);
        return true;
    }
    k.found = mem_alloc((count + 1) * sizeof *k.found);
    bool ok = pool_run(threads, count, look, &k, e);
    for (size_t i = 0; i < count && ok; i++) {
        float *of_weight = &most[p->jobs[k.jobs[i]].weight];
        *of_weight = k.found[i] > *of_weight ? k.found[i] : *of_weight;
    }
    for (size_t i = 0; i < p->weight_count && ok; i++)
        if (most[i] >= 0)
            journal_most(l->journal, i, most[i]);
    ok = ok && journal_flush(l->journal, e);
    mem_free(k.found);
    mem_free(k.jobs);
    return ok;
}

/* ---- using ---- */

static float scale_of(const struct line *l, size_t output, size_t weight)
{
    const struct plan *p = l->plan;
    const float *most = l->results[output].most;
    size_t partner = l->partners[weight];
    bool shared = partner > 0 && plan_row_has_most(&p->outputs[output].rows[partner - 1]);

    return transform_tensor_scale(shared && most[partner - 1] > most[weight] ? most[partner - 1] : most[weight]);
}

bool run_measured(const struct line *l, size_t output, size_t weight, struct transform *t, const struct slices *to,
                  void *scratch, struct err *e)
{
    const struct plan_row *row = &l->plan->outputs[output].rows[weight];

    if (!row->scheme.static_input)
        return measured_weights(l->plan->statistics, row->measured, scratch, &t->weights, e);
    t->tensor_scale = scale_of(l, output, weight);
    if (to->part[PART_INPUT_SCALE]) {
        float scale = transform_tensor_scale(row->measured->static_most);
        memcpy(to->part[PART_INPUT_SCALE], &scale, sizeof scale);
    }
    return true;
}
