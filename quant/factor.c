#include "quant/factor.h"

#include <math.h>
#include <string.h>

#include "quant/bits.h"
#include "quant/decode.h" /* scratch_take */

static void place(struct factor *f, size_t cols, struct scratch *s)
{
    *f = (struct factor){.cols = cols};
    f->a = scratch_take(s, triangle_bytes(cols));
    f->order = scratch_take(s, cols * sizeof *f->order);
    f->r2 = scratch_take(s, tile_padded(cols) * sizeof *f->r2);
    f->weights = scratch_take(s, tile_padded(cols) * sizeof *f->weights);
}

size_t factor_bytes(size_t cols)
{
    struct factor f;
    struct scratch s = {0};

    place(&f, cols, &s);
    return s.used_bytes;
}

size_t factor_scratch_bytes(size_t cols)
{
    return cholesky_scratch_bytes(cols);
}

/* ---- order ---- */

static void sift_down(uint64_t *keys, size_t at, size_t n)
{
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && keys[child] < keys[child + 1];
        if (keys[at] >= keys[child])
            return;
        uint64_t key = keys[at];
        keys[at] = keys[child];
        keys[child] = key;
    }
}

/* Keys are all different, so any sort gives this order; this one needs no memory. */
static void sort(uint64_t *keys, size_t n)
{
    for (size_t i = n / 2; i-- > 0;)
        sift_down(keys, i, n);
    for (size_t i = n; i-- > 1;) {
        uint64_t most = keys[0];
        keys[0] = keys[i];
        keys[i] = most;
        sift_down(keys, 0, i);
    }
}

/* Positive floats are in the order of their bits. */
static void set_order(struct factor *f, const struct shrunk *s, bool act_order, uint64_t *keys)
{
    for (size_t j = 0; j < f->cols; j++)
        keys[j] = (uint64_t)(act_order ? ~float_bits(s->variance[j]) : 0) << 32 | j;
    sort(keys, f->cols);
    for (size_t j = 0; j < f->cols; j++)
        f->order[j] = (uint32_t)keys[j];
}

/* ---- matrix ---- */

static void fill_row(struct factor *f, const struct shrunk *s, size_t j, float *row)
{
    float *to = triangle_row(f->a, j);

    shrink_row(s, f->order[j], row);
    for (size_t i = 0; i <= j; i++)
        to[i] = row[f->order[i]];
    memset(to + j + 1, 0, (triangle_stride(j) - j - 1) * sizeof *to);
}

/* From the factor of C2 to a and r2. */
static void finish(struct factor *f, const struct shrunk *s, float *root)
{
    for (size_t j = 0; j < f->cols; j++)
        root[j] = sqrtf(s->variance[f->order[j]]);
    for (size_t j = 0; j < f->cols; j++) {
        float *row = triangle_row(f->a, j);
        float r = root[j] * row[j], g = 1.0f / r;

        for (size_t i = 0; i < j; i++)
            row[i] = row[i] * root[i] * g;
        row[j] = 1;
        f->r2[j] = r * r;
        f->weights[f->order[j]] = f->r2[j];
    }
}

bool factor_make(struct factor *f, const struct kernel *k, struct shrunk *s, bool act_order, unsigned threads,
                 void *memory, void *scratch)
{
    struct scratch take = {.base = memory};

    place(f, s->own->cols, &take);
    memset(f->r2, 0, tile_padded(f->cols) * sizeof *f->r2);
    memset(f->weights, 0, tile_padded(f->cols) * sizeof *f->weights);
    set_order(f, s, act_order, scratch);
    for (;; f->retries++, shrink_more(s)) {
        for (size_t j = 0; j < f->cols; j++)
            fill_row(f, s, j, scratch);
        if (cholesky_reverse(k, f->a, f->cols, threads, scratch, &f->failed)) {
            finish(f, s, scratch);
            return true;
        }
        if (f->retries == FACTOR_RETRIES)
            return false;
    }
}
