#include "quant/channels.h"

#include <string.h>

#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "quant/bits.h"
#include "quant/vecmath.h"

/* Columns that a thread takes: sums and a row stay in the first-level cache. */
#define SLAB_COLS 512u

void channels_init(struct channels *c, const struct kernel *k, size_t cols, double *sum2)
{
    *c = (struct channels){.kernel = k, .cols = cols, .sum2 = sum2};
    memset(sum2, 0, cols * sizeof *sum2);
}

struct slabs {
    struct channels *channels;
    const float *x;
    size_t x_stride, tokens;
    uint32_t *peaks; /* [slabs] bits of the largest magnitude: as integers they have the same order */
};

static bool add_slab(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct slabs *s = ctx;
    const struct channels *c = s->channels;
    size_t first = job * SLAB_COLS, cols = c->cols - first < SLAB_COLS ? c->cols - first : SLAB_COLS;
    double *restrict sum2 = c->sum2 + first;
    float row[SLAB_COLS];
    uint32_t peak = 0;

    (void)worker, (void)e;
    for (size_t t = 0; t < s->tokens; t++) {
        c->kernel->vec->round_bf16(row, s->x + t * s->x_stride + first, cols);
        for (size_t j = 0; j < cols; j++)
            sum2[j] += (double)(row[j] * row[j]);
        for (size_t j = 0; j < cols; j++) {
            uint32_t magnitude = float_bits(row[j]) & 0x7FFFFFFFu;
            peak = magnitude > peak ? magnitude : peak;
        }
    }
    s->peaks[job] = peak;
    return true;
}

void channels_add(struct channels *c, const float *x, size_t x_stride, size_t tokens, unsigned threads)
{
    size_t count = (c->cols + SLAB_COLS - 1) / SLAB_COLS;
    struct slabs s = {c, x, x_stride, tokens, mem_alloc(count * sizeof *s.peaks)};

    if (threads != 1)
        (void)!pool_run(threads, count, add_slab, &s, NULL); /* its jobs cannot fail */
    for (size_t i = 0; i < count && threads == 1; i++)
        (void)add_slab(&s, i, 0, NULL);
    for (size_t i = 0; i < count; i++)
        c->peak = bits_float(s.peaks[i]) > c->peak ? bits_float(s.peaks[i]) : c->peak;
    c->tokens += tokens;
    mem_free(s.peaks);
}
