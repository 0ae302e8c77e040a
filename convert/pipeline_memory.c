/* What a calibrated run needs, known before it begins. */
#include "convert/pipeline_private.h"

#include "formats/base/pool.h"
#include "formats/calib_stats.h"

#define BIT(role) (UINT64_C(1) << (role))

unsigned pipeline_threads(struct pipeline *p)
{
    const struct pipeline_options *o = p->options;
    unsigned threads = o->threads > 0 ? o->threads : pool_cpu_count();

    while (o->memory_bytes > 0 && threads > 1 && pipeline_room_bytes(p) * threads > o->memory_bytes / 4 * 3)
        threads--;
    return threads;
}

/* An input's moments, the tokens at hand and those kept of it, and for its own matrices what they are rounded by. */
static uint64_t flow_bytes(const struct arch *arch, enum role input)
{
    uint64_t rows = 0, cols = 0;

    if (!arch_shape(arch, input, &rows, &cols))
        cols = arch->hidden_size; /* q_a_proj names the input of a q_proj */
    uint64_t bytes = moments_bytes(cols) + (PIPELINE_CHUNK + PIPELINE_SPREAD_TOKENS) * cols * sizeof(float);
    return input == ROLE_ROUTER ? bytes : bytes + calibrated_bytes(cols);
}

/* The inputs that a layer's calibrated matrices want, a bit for each. */
static uint64_t *list_inputs(const struct plan *plan, const struct plan_output *out)
{
    uint64_t *inputs = mem_alloc((plan->source->arch.layers + 1) * sizeof *inputs);

    for (size_t i = 0; i < plan->weight_count; i++) {
        const struct tensor_id *id = &plan->weights[i]->id;
        if (out->rows[i].calibrated)
            inputs[id->layer] |= BIT(id->expert >= 0 ? ROLE_ROUTER : calib_input_of(id->role));
    }
    return inputs;
}

uint64_t pipeline_flow_bytes(const struct plan *plan, const struct plan_output *out)
{
    const struct arch *arch = &plan->source->arch;
    uint64_t *inputs = list_inputs(plan, out), most = 0;

    for (uint64_t layer = 0; layer <= arch->layers; layer++) {
        uint64_t bytes = 0;
        for (enum role role = 0; role < ROLE_COUNT; role++)
            if (inputs[layer] & BIT(role))
                bytes += flow_bytes(arch, role);
        most = bytes > most ? bytes : most;
    }
    mem_free(inputs);
    return most;
}

bool pipeline_memory(struct plan *plan, size_t output, const struct pipeline_options *o, uint64_t *bytes,
                     unsigned *threads, struct err *e)
{
    struct pipeline p = {
        .plan = plan, .output = output, .out = &plan->outputs[output], .options = o, .kernel = kernel_get()};
    struct forward *f = NULL;

    p.threads = pipeline_threads(&p);
    struct forward_options options = {.threads = p.threads};
    if (!forward_open(&f, plan->source, &options, e))
        return false;
    *threads = p.threads;
    *bytes = forward_memory_bytes(f, o->batch) + pipeline_room_bytes(&p) * p.threads + pipeline_flow_bytes(plan, p.out);
    forward_close(f);
    return true;
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
