/* Final norm and head. The head is large (1.85 GB in V3): workers read slices
 * of its rows and use each for all tokens at hand. */
#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "verify/forward_private.h"

#define SLICE_BYTES (8u << 20)
#define SLICE_ROWS  128u

struct head {
    const struct forward *f;
    const struct weight *head;
    struct vector_place norm;
    uint64_t rows; /* of a slice */
    uint8_t *slices;
    size_t slice_bytes;
    const float *x;
    float *normed;       /* [count][hidden] */
    size_t first, count; /* tokens */
    float *logits;
};

/* Enough for a panel, not so many that workers wait for the last one. */
static uint64_t slice_rows(const struct forward *f, const struct weight *w)
{
    uint64_t multiple = scheme_row_multiple(&w->stored), step = multiple > SLICE_ROWS ? multiple : SLICE_ROWS;
    uint64_t rows = SLICE_BYTES / (weight_memory_bytes(w) / w->rows + 1), share = w->rows / (4 * f->crew.threads);

    step = step / multiple * multiple;
    rows = rows < share ? rows : share;
    rows = rows / step * step;
    rows = rows < step ? step : rows;
    return rows < w->rows ? rows : w->rows;
}

static void place(struct head *h, const struct forward *f, const struct weight *norm, const struct weight *head,
                  struct scratch *s)
{
    h->f = f;
    h->head = head;
    place_vector(&h->norm, norm, s);
    h->rows = slice_rows(f, head);
    h->slice_bytes = weight_rows_memory_bytes(head, h->rows);
    h->slices = scratch_take(s, f->crew.threads * h->slice_bytes);
}

void head_place(const struct forward *f, const struct weight *norm, const struct weight *head, struct scratch *s)
{
    struct head h = {0};

    place(&h, f, norm, head, s);
}

static bool norm_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct head *h = ctx;
    size_t d = h->f->arch->hidden_size;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++)
        crew_norm(&h->f->crew, h->normed + t * d, h->x + t * d, h->norm.x, d, h->f->arch->rms_norm_eps);
    return true;
}

static bool run_slice(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct head *h = ctx;
    const struct crew *c = &h->f->crew;
    uint64_t row = job * h->rows, rows = h->head->rows - row < h->rows ? h->head->rows - row : h->rows;
    float *logits = h->logits + row;
    struct coded w;

    if (!weight_load_rows(h->f->source, h->head, row, rows, h->slices + worker * h->slice_bytes, &w, e))
        return false;
    if (!gemm(c->kernel, &w, 0, rows, h->normed, w.cols, h->count, logits, h->head->rows, false,
              crew_scratch(c, worker), e))
        return err_in(e, "tensor '%s', from row %llu", h->head->name, (unsigned long long)row);
    for (size_t t = 0; c->emulate == EMULATE_BF16 && t < h->count; t++)
        crew_round(c, logits + t * h->head->rows, rows);
    return true;
}

static bool check_logits(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct head *h = ctx;
    uint64_t vocab = h->head->rows;

    (void)worker;
    for (size_t t = first; t < first + count; t++)
        if (!h->f->crew.kernel->f32_check(h->logits + t * vocab, vocab))
            return err_set(e, ERR_FORMAT, "token %zu: a logit is not finite", h->first + t);
    return true;
}

/* The normed rows are not of the workspace: how many there are is the caller's, who has the logits to hold too. */
bool head_run(struct forward *f, const struct weight *norm, const struct weight *head, const struct stream *last,
              size_t first, size_t count, float *logits, struct err *e)
{
    struct scratch s = {.base = f->memory};
    struct head h = {.first = first, .count = count, .logits = logits};
    size_t d = f->arch->hidden_size;
    bool ok;

    place(&h, f, norm, head, &s);
    h.normed = mem_aligned((count * d + 1) * sizeof(float));
    ok = load_vector(f, &h.norm, e) && stream_read(last, first, count, h.normed, &h.x, e) &&
         crew_rows(&f->crew, count, norm_rows, &h, e) &&
         pool_run(f->crew.threads, (size_t)((head->rows + h.rows - 1) / h.rows), run_slice, &h, e) &&
         crew_rows(&f->crew, count, check_logits, &h, e);
    mem_free(h.normed);
    return ok;
}
