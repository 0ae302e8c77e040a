#include "convert/layer_rows.h"

#include "formats/base/mem.h"

static bool belongs(const struct weight *w, uint64_t layers)
{
    return w->id.layer >= 0 && (uint64_t)w->id.layer < layers;
}

void layer_rows_make(struct layer_rows *l, const struct plan *p, uint64_t layers)
{
    *l = (struct layer_rows){
        .rows = mem_alloc((p->weight_count + 1) * sizeof *l->rows),
        .begin = mem_alloc((layers + 2) * sizeof *l->begin),
        .layers = layers,
    };
    /* Counted two places further on, then summed: begin[l + 1] is where layer l goes, and moves to its end. */
    for (size_t i = 0; i < p->weight_count; i++)
        if (belongs(p->weights[i], layers))
            l->begin[p->weights[i]->id.layer + 2]++;
    for (uint64_t i = 2; i < layers + 2; i++)
        l->begin[i] += l->begin[i - 1];
    for (size_t i = 0; i < p->weight_count; i++)
        if (belongs(p->weights[i], layers))
            l->rows[l->begin[p->weights[i]->id.layer + 1]++] = (uint32_t)i;
}

void layer_rows_release(struct layer_rows *l)
{
    mem_free(l->rows);
    mem_free(l->begin);
    *l = (struct layer_rows){0};
}
