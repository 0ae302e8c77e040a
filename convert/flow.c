#include "convert/flow.h"

#include <string.h>

#include "formats/base/mem.h"
#include "quant/vecmath.h"

void *flow_scratch_get(struct flow_scratch *s, size_t bytes)
{
    if (bytes > s->bytes) {
        mem_free(s->memory);
        s->memory = mem_aligned(bytes);
        s->bytes = bytes;
    }
    return s->memory;
}

void flow_scratch_release(struct flow_scratch *s)
{
    mem_free(s->memory);
    *s = (struct flow_scratch){0};
}

size_t flow_bytes(size_t cols, bool calibrated)
{
    return moments_bytes(cols) + (FLOW_CHUNK + FLOW_SPREAD_TOKENS) * cols * sizeof(float) +
           (calibrated ? calibrated_bytes(cols) : 0);
}

size_t flow_scratch_bytes(size_t cols)
{
    size_t add = moments_scratch_bytes(cols), make = calibrated_scratch_bytes(cols);

    return add > make ? add : make;
}

static void flow_open(struct flow *f, const struct kernel *k, size_t cols)
{
    f->chunk = mem_aligned(FLOW_CHUNK * cols * sizeof *f->chunk);
    f->kept = mem_aligned(FLOW_SPREAD_TOKENS * cols * sizeof *f->kept);
    moments_init(&f->moments, k, cols, mem_aligned(moments_bytes(cols)));
}

static void flow_add(struct flow *f, unsigned threads, struct flow_scratch *scratch)
{
    size_t cols = f->moments.cols;

    moments_add(&f->moments, f->chunk, cols, f->chunk_tokens, threads,
                flow_scratch_get(scratch, moments_scratch_bytes(cols)));
    f->chunk_tokens = 0;
}

/* The kept tokens' spread stands for that of all (quant/shrink.h). */
static bool flow_close(struct flow *f, uint64_t layer, unsigned threads, struct flow_scratch *scratch, struct err *e)
{
    struct moments *m = &f->moments;

    flow_add(f, threads, scratch);
    if (!moments_close(m))
        return err_set(e, ERR_FORMAT, "layer %llu: second moments of an input are past the range of float32",
                       (unsigned long long)layer);
    moments_spread(m, f->kept, m->cols, f->kept_tokens, flow_scratch_get(scratch, moments_scratch_bytes(m->cols)));
    return true;
}

bool flow_take(struct flow *f, const struct kernel *k, const struct linear_input *in, uint64_t all, unsigned threads,
               struct flow_scratch *scratch, struct err *e)
{
    uint64_t cap = MOMENTS_CAP_PER_COL * in->cols;

    if (!f->chunk)
        flow_open(f, k, in->cols);
    for (size_t t = 0; t < in->tokens; t++, f->seen++) {
        if (!moments_takes(f->seen, all, cap))
            continue;
        float *row = f->chunk + f->chunk_tokens++ * in->cols;
        k->vec->round_bf16(row, in->x + t * in->x_stride, in->cols);
        if (moments_takes(f->seen, all, FLOW_SPREAD_TOKENS))
            memcpy(f->kept + f->kept_tokens++ * in->cols, row, in->cols * sizeof *row);
        if (f->chunk_tokens == FLOW_CHUNK)
            flow_add(f, threads, scratch);
    }
    return f->seen < all || flow_close(f, in->layer, threads, scratch, e);
}

struct calibrated *flow_calibrated(struct flow *f, const struct calibrated_options *o, unsigned threads,
                                   struct flow_scratch *scratch)
{
    size_t cols = f->moments.cols;

    if (f->memory && f->calibrated.options.method == o->method)
        return &f->calibrated;
    if (!f->memory)
        f->memory = mem_aligned(calibrated_bytes(cols));
    calibrated_make(&f->calibrated, f->moments.kernel, o, &f->moments, NULL, threads, f->memory,
                    flow_scratch_get(scratch, calibrated_scratch_bytes(cols)));
    return &f->calibrated;
}

void flow_release(struct flow *f)
{
    mem_free(f->moments.sum);
    mem_free(f->chunk);
    mem_free(f->kept);
    mem_free(f->memory);
    *f = (struct flow){0};
}
