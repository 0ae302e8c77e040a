/* What a calibrated run needs, known before it begins. */
#include "convert/pipeline_private.h"

#include "formats/base/pool.h"

uint64_t pipeline_flows_need(struct pipeline *p)
{
    uint64_t most = 0;

    for (uint64_t layer = 0; layer <= p->plan->source->arch.layers; layer++) {
        pipeline_list_layer(p, layer, p->options->batch->tokens);
        pipeline_flows_want(p);
        uint64_t bytes = pipeline_flows_bytes(p);
        most = bytes > most ? bytes : most;
        pipeline_flows_release(p);
    }
    return most;
}

void pipeline_choose_threads(struct pipeline *p, uint64_t flows)
{
    const struct pipeline_options *o = p->options;
    uint64_t room = o->memory_bytes > flows ? (o->memory_bytes - flows) / 4 * 3 : 0;

    p->threads = o->threads > 0 ? o->threads : pool_cpu_count();
    while (o->memory_bytes > 0 && p->threads > 1 && pipeline_room_bytes(p) * p->threads > room)
        p->threads--;
}

static bool is_run(const struct weight *w, const struct arch *arch)
{
    return w->id.layer >= 0 && w->id.layer <= (int64_t)arch->layers;
}

uint64_t pipeline_read_bytes(const struct plan *p)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < p->weight_count; i++)
        for (enum part part = 0; part < PART_COUNT && is_run(p->weights[i], &p->source->arch); part++)
            if (p->weights[i]->parts[part])
                bytes += p->weights[i]->parts[part]->bytes;
    return bytes;
}
