/* Static FP8: a matrix under one scale, and one for what enters it, from the largest magnitudes.
 *
 * What engines load as one gets one scale: gate and up, q_a_proj and kv_a_proj_with_mqa, for they would take the larger
 * one and round the other's codes again. An expert's input scale is that of all of its layer's experts: engines take
 * the largest, and an expert that no token reached has none of its own. */

#include "convert/pipeline_private.h"
#include "formats/engine.h"

/* ---- weights ---- */

static bool most_of(struct pipeline *p, const struct coded *w, float *most, struct err *e)
{
    struct transform t = {
        .kernel = p->kernel,
        .from = w->scheme,
        .to = {.kind = SCHEME_FP8_TENSOR, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .method = METHOD_ABSMAX},
        .cols = w->cols};

    return transform_most(&t, 0, w->rows, &w->parts, flow_scratch_get(&p->scratch, transform_scratch_bytes(&t)), most,
                          e);
}

/* Of the weight that shares a scale, read for it alone; it comes to be rounded later, or was. */
static bool most_of_row(struct pipeline *p, const struct plan_row *row, float *most, struct err *e)
{
    const struct source *s = p->plan->source;
    void *memory = mem_aligned(weight_memory_bytes(row->weight));
    struct coded w;
    bool ok = weight_load(s, row->weight, memory, &w, e) && most_of(p, &w, most, e);

    mem_free(memory);
    return ok || err_in(e, "tensor '%s'", row->weight->name);
}

static bool find_scale(struct pipeline *p, enum role role, const struct coded *w, float *scale, struct err *e)
{
    uint32_t partner = p->linear[engine_scale_partner(role)];
    float most, other = 0;

    if (!most_of(p, w, &most, e))
        return false;
    if (partner > 0 && p->out->rows[partner - 1].scheme.static_input &&
        !most_of_row(p, &p->out->rows[partner - 1], &other, e))
        return false;
    *scale = transform_tensor_scale(other > most ? other : most);
    return true;
}

bool pipeline_round_static(struct pipeline *p, enum role role, const struct coded *w, const struct loss_matrix *m,
                           struct rounded *rounded, struct err *e)
{
    struct transform t = {.kernel = p->kernel, .from = m->from, .to = m->to, .cols = m->cols};

    *rounded = (struct rounded){.ending = ENDING_PLAIN, .reason = REASON_ASKED};
    return find_scale(p, role, w, &t.tensor_scale, e) &&
           transform_run(&t, 0, m->rows, m->rows, &m->in, &m->out,
                         flow_scratch_get(&p->scratch, transform_scratch_bytes(&t)), &rounded->weights, e);
}

/* ---- inputs ---- */

static float experts_most(const struct pipeline *p)
{
    float most = 0;

    for (uint64_t i = 0; i < p->plan->source->arch.experts; i++)
        most = p->most[i].act > most ? p->most[i].act : most;
    return most;
}

static float static_most(const struct pipeline *p, enum role role)
{
    return role == ROLE_EXPERT_DOWN ? experts_most(p) : pipeline_input_most(p, role);
}

bool pipeline_put_static(struct pipeline *p, struct err *e)
{
    for (size_t k = p->index.begin[p->layer]; k < p->index.begin[p->layer + 1]; k++) {
        const struct plan_row *row = &p->out->rows[p->index.rows[k]];
        if (!row->calibrated || !row->scheme.static_input)
            continue;
        float scale = transform_tensor_scale(static_most(p, row->weight->id.role));
        if (!pipeline_put_part(p, row, PART_INPUT_SCALE, &scale, e))
            return false;
    }
    return true;
}
