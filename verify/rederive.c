#include "verify/rederive.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/hash.h"
#include "formats/base/map.h"
#include "formats/base/pool.h"
#include "formats/base/progress.h"
#include "quant/calibrated.h"
#include "quant/transform.h"
#include "verify/weight_slices.h"

#define CHUNK_ELEMS (1u << 20)
/* One row of the manifest that was picked. */
struct pick {
    const struct manifest_row *row;
    const struct weight *made, *from; /* in the bundle and in the source */
    struct scheme to;                 /* made's, with the method that makes it again */
    bool same_codes, same_scales;     /* it gives these again; else how far off they are is measured */
    struct err bad;                   /* why it is not so; ERR_NONE: it is */
};

struct chunk {
    uint32_t pick;
    uint64_t row, count;
    struct weight_error error; /* of the bundle's numbers against the source's */
    struct err *bad;           /* owned */
};

/* What a worker needs; grown by the job, kept for the next. */
struct scratch {
    uint8_t *from, *made, *again;
    float *x, *y;
    uint8_t *work;
};

struct deriving {
    const struct rederive_job *job;
    struct findings *findings;
    struct pick *picks;
    size_t pick_count;
    struct chunk *chunks;
    size_t chunk_count, chunk_room;
    size_t from_bytes, made_bytes, x_elems, work_bytes; /* of a scratch */
    struct scratch *scratch;
    struct progress *progress;
};

/* ---- picking ---- */

struct ticket {
    uint64_t order;
    size_t row;
};

static int compare_orders(const void *a, const void *b)
{
    const struct ticket *s = a, *t = b;

    if (s->order != t->order)
        return s->order < t->order ? -1 : 1;
    return s->row < t->row ? -1 : s->row > t->row;
}

static int compare_rows(const void *a, const void *b)
{
    const struct ticket *s = a, *t = b;

    return s->row < t->row ? -1 : s->row > t->row;
}

static uint64_t order_of(const struct rederive_job *job, const struct manifest_row *r)
{
    struct buf text = {0};

    buf_printf(&text, "%" PRIu64 " %s", job->seed, r->name);
    uint64_t order = hash_key(text.data, text.bytes);
    buf_release(&text);
    return order;
}

/* The first of its kind in the drawn order is taken however small the sample. */
static bool is_first_of_kind(struct map *kinds, struct arena *a, const struct manifest_row *r)
{
    return map_put(kinds, arena_printf(a, "%s %s %s", r->role, r->scheme, r->method), 0);
}

static size_t sample_size(const struct rederive_job *job)
{
    size_t rows = job->manifest->row_count;
    size_t wanted = (size_t)ceil((double)rows * job->percent / 100);

    wanted = wanted < REDERIVE_LEAST ? REDERIVE_LEAST : wanted;
    return wanted < rows ? wanted : rows;
}

/* Rows drawn, in the manifest's order; mem_free them. */
static struct ticket *draw(const struct rederive_job *job, size_t *count)
{
    const struct manifest *m = job->manifest;
    struct ticket *tickets = mem_alloc((m->row_count + 1) * sizeof *tickets);
    struct map kinds = {0};
    struct arena a = {0};
    size_t wanted = sample_size(job);

    size_t whole = 0;
    for (size_t i = 0; i < m->row_count; i++)
        if (!m->rows[i].piece)
            tickets[whole++] = (struct ticket){order_of(job, &m->rows[i]), i};
    qsort(tickets, whole, sizeof *tickets, compare_orders);
    *count = 0;
    for (size_t i = 0; i < whole; i++)
        if (is_first_of_kind(&kinds, &a, &m->rows[tickets[i].row]) || i < wanted)
            tickets[(*count)++] = tickets[i];
    qsort(tickets, *count, sizeof *tickets, compare_rows);
    map_release(&kinds);
    arena_release(&a);
    return tickets;
}

/* ---- what a row promises ---- */

static enum method find_method(const char *name)
{
    enum method method = 0;

    while (method < METHOD_COUNT && strcmp(scheme_method_name(method), name) != 0)
        method++;
    return method;
}

static bool is_plain(const struct scheme *s)
{
    return s->kind == SCHEME_RAW || s->kind == SCHEME_PLAIN;
}

static bool same_shape(const struct weight *a, const struct weight *b)
{
    const struct tensor *s = a->parts[PART_CODES], *t = b->parts[PART_CODES];

    if (is_plain(&a->stored) && is_plain(&b->stored))
        return s->rank == t->rank && memcmp(s->dims, t->dims, s->rank * sizeof s->dims[0]) == 0;
    return a->rows == b->rows && a->cols == b->cols;
}

/* How a calibration chose int4 scales and any codes is not known without its text or its statistics; what it recorded
 * is. FP8 scales are
 * those of the largest magnitude whatever chose the codes, and where no input reached a weight it was only searched. */
static void choose_proof(struct pick *p, enum method method)
{
    const struct manifest_calibration *c = p->row->calibration;
    bool searched = c && strcmp(c->ending, ending_name(ENDING_SEARCH)) == 0;
    bool weighed = c && strcmp(c->ending, ending_name(ENDING_DIAGONAL)) == 0;

    if (!weighed && method != METHOD_GPTQ && method != METHOD_LDLQ) {
        p->same_codes = p->same_scales = true;
        return;
    }
    p->same_codes = searched;
    p->same_scales = searched || p->to.kind != SCHEME_INT4;
    p->to.method = p->to.kind == SCHEME_INT4 && searched ? METHOD_SEARCH : METHOD_ABSMAX;
}

static bool prepare(struct pick *p, struct err *e)
{
    enum method method = find_method(p->row->method);

    if (method == METHOD_COUNT)
        return err_broken(e, ERR_UNSUPPORTED, "method-unknown", "method '%s' is not known here", p->row->method);
    if (!p->from)
        return err_broken(e, ERR_FORMAT, "source-tensor-missing", "the source has no '%s'",
                          p->row->source_count > 0 ? p->row->sources[0] : "?");
    if (p->from->broken || p->made->broken)
        return err_broken(e, ERR_FORMAT, "malformed", "it cannot be read");
    if (!same_shape(p->made, p->from))
        return err_broken(e, ERR_FORMAT, "source-mismatch",
                          "[%" PRIu64 ", %" PRIu64 "], but [%" PRIu64 ", %" PRIu64 "] in the source", p->made->rows,
                          p->made->cols, p->from->rows, p->from->cols);
    p->to = p->made->stored;
    p->to.method = method;
    p->to.positive_scales = p->row->positive_scales;
    /* Whether F32 scales are powers of two is a row's word for its own, and config.json's only for all of them. */
    if (p->to.scale == SCALE_F32 || p->to.scale == SCALE_F32_POW2)
        p->to.scale = strstr(p->row->scheme, " pow2") ? SCALE_F32_POW2 : SCALE_F32;
    if (method == METHOD_COPY)
        p->to.compressed_tensors = p->from->stored.compressed_tensors; /* the bytes are the same under either name */
    choose_proof(p, method);
    return transform_check(&p->from->stored, &p->to, e) || err_rule(e, "source-mismatch");
}

/* The weight whose codes a tensor holds. A static activation scale is a tensor without a weight of its own: it becomes
 * one for the time of this check. NULL: there is no such tensor. */
static const struct weight *find_weight(const struct source *s, struct arena *a, const char *codes)
{
    static const char packed[] = "_packed";
    const struct tensor *t = checkpoint_find(&s->checkpoint, codes);
    size_t bytes = strlen(codes), tail = strlen(packed);

    if (!t)
        return NULL;
    if (bytes > tail && strcmp(codes + bytes - tail, packed) == 0)
        bytes -= tail;
    const struct weight *w = weights_find(&s->weights, arena_strndup(a, codes, bytes));
    if (w && w->parts[PART_CODES] == t)
        return w;
    struct weight *alone = arena_alloc(a, sizeof *alone);
    *alone = (struct weight){.name = t->name,
                             .module = t->name,
                             .stored = {.kind = SCHEME_RAW, .dtype = t->dtype},
                             .rows = 1,
                             .cols = tensor_elems(t),
                             .parts = {[PART_CODES] = t}};
    return alone;
}

static void pick_all(struct deriving *d, struct arena *a)
{
    size_t count = 0;
    struct ticket *tickets = draw(d->job, &count);

    d->picks = mem_alloc((count + 1) * sizeof *d->picks);
    for (size_t i = 0; i < count; i++) {
        struct pick *p = &d->picks[d->pick_count];
        const struct manifest_row *r = p->row = &d->job->manifest->rows[tickets[i].row];
        p->made = r->tensor_count > 0 ? find_weight(d->job->bundle, a, r->tensors[0]) : NULL;
        p->from = r->source_count > 0 ? find_weight(d->job->source, a, r->sources[0]) : NULL;
        if (!p->made) /* said by integrity_rows */
            continue;
        d->pick_count++;
        (void)prepare(p, &p->bad);
    }
    mem_free(tickets);
}

/* ---- cutting ---- */

static void add_chunk(struct deriving *d, size_t pick, uint64_t row, uint64_t count)
{
    if (d->chunk_count == d->chunk_room) {
        d->chunk_room = d->chunk_room ? 2 * d->chunk_room : 256;
        d->chunks = mem_grow(d->chunks, d->chunk_room, sizeof *d->chunks);
    }
    d->chunks[d->chunk_count++] = (struct chunk){.pick = (uint32_t)pick, .row = row, .count = count};
}

static void grow_to(size_t *most, size_t bytes)
{
    *most = bytes > *most ? bytes : *most;
}

static void measure_chunk(struct deriving *d, const struct pick *p, uint64_t row, uint64_t count)
{
    const struct transform t = {.kernel = kernel_get(), .from = p->from->stored, .to = p->to, .cols = p->from->cols};

    grow_to(&d->from_bytes, weight_slices_bytes(&p->from->stored, p->from->rows, p->from->cols, row, count));
    grow_to(&d->made_bytes, weight_slices_bytes(&p->made->stored, p->made->rows, p->made->cols, row, count));
    if (p->same_scales)
        grow_to(&d->work_bytes, transform_scratch_bytes(&t));
    if (!p->same_codes) {
        grow_to(&d->x_elems, count * p->made->cols);
        grow_to(&d->work_bytes, decode_scratch_bytes(&p->from->stored, p->from->cols));
        grow_to(&d->work_bytes, decode_scratch_bytes(&p->made->stored, p->made->cols));
    }
}

static uint64_t cut_all(struct deriving *d)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < d->pick_count; i++) {
        const struct pick *p = &d->picks[i];
        if (p->bad.code != ERR_NONE)
            continue;
        uint64_t multiple = weight_slices_multiple(&p->from->stored, &p->to);
        uint64_t step = weight_slices_rows(p->made->rows, p->made->cols, multiple, CHUNK_ELEMS);
        for (uint64_t row = 0; row < p->made->rows; row += step) {
            uint64_t count = p->made->rows - row < step ? p->made->rows - row : step;
            add_chunk(d, i, row, count);
            measure_chunk(d, p, row, count);
        }
        for (enum part part = PART_CODES; part < PART_SHAPE; part++)
            bytes += (p->from->parts[part] ? p->from->parts[part]->bytes : 0) +
                     (p->made->parts[part] ? p->made->parts[part]->bytes : 0);
    }
    return bytes;
}

/* ---- deriving ---- */

static void note_bad(struct chunk *c, const struct err *e)
{
    c->bad = mem_alloc(sizeof *c->bad);
    *c->bad = *e;
}

/* The target's slices in memory, laid out as weight_slices_read lays out what it reads. */
static void place(const struct pick *p, const struct chunk *c, uint8_t *to, struct slices *out)
{
    *out = (struct slices){0};
    for (enum part part = PART_CODES; part < PART_SHAPE; part++) {
        uint64_t offset = 0, bytes = 0;
        if (!p->made->parts[part])
            continue;
        scheme_slice(&p->to, part, p->made->rows, p->made->cols, c->row, c->count, &offset, &bytes);
        out->part[part] = to;
        to += (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    }
}

/* Where the first byte differs, for the message; false: none does. */
static bool find_difference(const struct pick *p, const struct chunk *c, const struct slices *a, const struct slices *b,
                            struct err *e)
{
    for (enum part part = PART_CODES; part < PART_SHAPE; part++) {
        uint64_t offset = 0, bytes = 0, at = 0;
        if (!p->made->parts[part] || (part == PART_CODES && !p->same_codes))
            continue;
        scheme_slice(&p->to, part, p->made->rows, p->made->cols, c->row, c->count, &offset, &bytes);
        const uint8_t *x = a->part[part], *y = b->part[part];
        if (memcmp(x, y, bytes) == 0)
            continue;
        while (x[at] == y[at])
            at++;
        err_broken(e, ERR_FORMAT, "source-mismatch",
                   "byte %" PRIu64 " of tensor '%s' is 0x%02x, but the source gives 0x%02x by method '%s'", offset + at,
                   p->made->parts[part]->name, x[at], y[at], p->row->method);
        return true;
    }
    return false;
}

/* One scale for a whole matrix, and maybe for another beside it, is not to be made again from some rows: it is
 * believed, and the codes must follow from it. */
static bool take_tensor_scale(struct transform *t, const struct slices *made, struct err *e)
{
    if (t->to.kind != SCHEME_FP8_TENSOR || t->to.method == METHOD_COPY)
        return true;
    memcpy(&t->tensor_scale, made->part[PART_SCALE], sizeof t->tensor_scale);
    return (t->tensor_scale > 0 && isfinite(t->tensor_scale)) ||
           err_broken(e, ERR_FORMAT, "source-mismatch", "its scale is %g", (double)t->tensor_scale);
}

static void rerun(const struct pick *p, struct chunk *c, const struct slices *from, const struct slices *made,
                  const struct scratch *s)
{
    struct transform t = {.kernel = kernel_get(), .from = p->from->stored, .to = p->to, .cols = p->from->cols};
    struct weight_error error = {0}, *to = p->same_codes ? &c->error : &error;
    struct slices again;
    struct err e = {0};

    place(p, c, s->again, &again);
    if (!take_tensor_scale(&t, made, &e)) {
        note_bad(c, &e);
    } else if (!transform_run(&t, c->row, c->count, p->from->rows, from, &again, s->work, to, &e)) {
        err_rule(&e, "source-mismatch");
        note_bad(c, &e);
    } else if (find_difference(p, c, made, &again, &e)) {
        note_bad(c, &e);
    }
}

/* How far the bundle's numbers are from the source's. */
static void measure(const struct pick *p, struct chunk *c, const struct slices *from, const struct slices *made,
                    const struct scratch *s)
{
    uint64_t rows = p->from->rows, cols = p->from->cols;
    struct err e = {0};

    if (!decode_rows(kernel_get(), &p->from->stored, c->row, c->count, rows, cols, from, s->x, s->work, &e) ||
        !decode_rows(kernel_get(), &p->made->stored, c->row, c->count, rows, cols, made, s->y, s->work, &e)) {
        note_bad(c, &e);
        return;
    }
    for (uint64_t r = 0; r < c->count; r++) {
        struct row_error row = kernel_get()->row_error(s->x + r * cols, s->y + r * cols, cols);
        c->error.error2 += (double)row.error2;
        c->error.energy2 += (double)row.energy2;
    }
    c->error.weights += c->count * cols;
}

static bool run_chunk(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct deriving *d = ctx;
    struct chunk *c = &d->chunks[job];
    const struct pick *p = &d->picks[c->pick];
    const struct scratch *s = &d->scratch[worker];
    struct slices from, made;
    uint64_t read_bytes = 0;

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    if (!weight_slices_read(&d->job->source->checkpoint, p->from, c->row, c->count, s->from, &from, &read_bytes, e) ||
        !weight_slices_read(&d->job->bundle->checkpoint, p->made, c->row, c->count, s->made, &made, &read_bytes, e))
        return false;
    if (p->same_scales)
        rerun(p, c, &from, &made, s);
    if (!p->same_codes && !c->bad)
        measure(p, c, &from, &made, s);
    progress_add(d->progress, read_bytes);
    return true;
}

/* ---- the report ---- */

static bool error_fits(const struct pick *p, const struct weight_error *error)
{
    double recorded = p->row->error, measured = weight_error_relative(error);

    return recorded < 0 || fabs(measured - recorded) <= REDERIVE_ERROR_TOLERANCE * recorded ||
           (isinf(recorded) && isinf(measured));
}

static void judge(struct deriving *d, const struct pick *p, const struct err *bad, const struct weight_error *error,
                  struct rederive_sum *sum)
{
    sum->rows++;
    if (bad)
        findings_add(d->findings, rule_find(bad->rule), "'%s' against the source: %s", p->row->name, bad->text);
    else if (!error_fits(p, error))
        findings_add(d->findings, RULE_SOURCE_ERROR,
                     "'%s' is %.6g from the source (relative error), not the %.6g of " MANIFEST_NAME, p->row->name,
                     weight_error_relative(error), p->row->error);
    else
        *(p->same_codes ? &sum->exact : &sum->as_far) += 1;
}

static void report(struct deriving *d, struct rederive_sum *sum)
{
    size_t next = 0;

    for (size_t i = 0; i < d->pick_count; i++) {
        const struct pick *p = &d->picks[i];
        const struct err *bad = p->bad.code != ERR_NONE ? &p->bad : NULL;
        struct weight_error error = {0};
        for (; next < d->chunk_count && d->chunks[next].pick == i; next++) {
            bad = bad ? bad : d->chunks[next].bad;
            weight_error_add(&error, &d->chunks[next].error);
        }
        judge(d, p, bad, &error, sum);
    }
}

static void scratch_new(struct deriving *d, unsigned threads)
{
    d->scratch = mem_alloc(threads * sizeof *d->scratch);
    for (unsigned i = 0; i < threads; i++)
        d->scratch[i] = (struct scratch){
            .from = mem_aligned(d->from_bytes + 1),
            .made = mem_aligned(d->made_bytes + 1),
            .again = mem_aligned(d->made_bytes + 1),
            .x = mem_aligned(d->x_elems * sizeof(float) + 1),
            .y = mem_aligned(d->x_elems * sizeof(float) + 1),
            .work = mem_aligned(d->work_bytes + 1),
        };
}

static void release(struct deriving *d, unsigned threads)
{
    for (unsigned i = 0; i < threads; i++) {
        const struct scratch *s = &d->scratch[i];
        void *const all[] = {s->from, s->made, s->again, s->x, s->y, s->work};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            mem_free(all[k]);
    }
    mem_free(d->scratch);
    for (size_t i = 0; i < d->chunk_count; i++)
        mem_free(d->chunks[i].bad);
    mem_free(d->chunks);
    mem_free(d->picks);
}

bool rederive(const struct rederive_job *job, struct rederive_sum *sum, struct findings *findings, struct err *e)
{
    unsigned threads = job->threads ? job->threads : pool_cpu_count();
    struct deriving d = {.job = job, .findings = findings};
    struct arena a = {0};

    *sum = (struct rederive_sum){0};
    pick_all(&d, &a);
    sum->read_bytes = cut_all(&d);
    if (threads > d.chunk_count)
        threads = d.chunk_count ? (unsigned)d.chunk_count : 1;
    scratch_new(&d, threads);
    d.progress = progress_new("re-derive", sum->read_bytes, job->quiet);
    bool ok = pool_run(threads, d.chunk_count, run_chunk, &d, e);
    progress_end(d.progress, ok);
    if (ok)
        report(&d, sum);
    release(&d, threads);
    arena_release(&a);
    return ok;
}
