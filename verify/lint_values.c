/* Every value, decoded as an engine would: chunks of rows on the pool, each with its own slot, folded in order. */
#include "verify/lint_values.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/pool.h"
#include "formats/base/progress.h"
#include "formats/base/units.h"
#include "quant/transform.h"
#include "verify/weight_slices.h"

#define CHUNK_ELEMS (1u << 20)
#define ROW_ELEMS_MAX                                                                                                  \
    (64u << 20) /* a row that no worker's memory is made for: none of this family is a tenth of it                     \
                 */

struct chunk {
    uint32_t weight;
    uint64_t row, count;
    struct err *bad;       /* not decodable, and why; owned */
    bool any;              /* a value that is not zero */
    uint64_t empty_groups; /* int4 groups of zeros whose scale is not 1 */
    uint64_t read_bytes;
};

struct scratch {
    uint8_t *in;
    float *x;
    void *decode;
};

struct scan {
    const struct lint *l;
    struct chunk *chunks;
    size_t chunk_count, chunk_room;
    size_t in_bytes, x_elems, decode_bytes; /* of a scratch */
    struct scratch *scratch;
    struct progress *progress;
};

static const struct weight *weight_of(const struct scan *k, const struct chunk *c)
{
    return &k->l->source->weights.items[c->weight];
}

/* ---- cutting ---- */

static void add_chunk(struct scan *k, size_t weight, uint64_t row, uint64_t count)
{
    if (k->chunk_count == k->chunk_room) {
        k->chunk_room = k->chunk_room ? 2 * k->chunk_room : 4096;
        k->chunks = mem_grow(k->chunks, k->chunk_room, sizeof *k->chunks);
    }
    k->chunks[k->chunk_count++] = (struct chunk){.weight = (uint32_t)weight, .row = row, .count = count};
}

static void grow_to(size_t *most, size_t bytes)
{
    *most = bytes > *most ? bytes : *most;
}

static void cut_weight(struct scan *k, size_t index)
{
    const struct weight *w = &k->l->source->weights.items[index];
    uint64_t step = weight_slices_rows(w->rows, w->cols, scheme_row_multiple(&w->stored), CHUNK_ELEMS);

    if (w->cols > ROW_ELEMS_MAX || step * w->cols > ROW_ELEMS_MAX) {
        findings_add(k->l->findings, RULE_MALFORMED,
                     "'%s': %" PRIu64 " rows of %" PRIu64 " columns at a time are past the limit of %u values", w->name,
                     step, w->cols, ROW_ELEMS_MAX);
        return;
    }
    for (uint64_t row = 0; row < w->rows; row += step) {
        uint64_t count = w->rows - row < step ? w->rows - row : step;
        add_chunk(k, index, row, count);
        grow_to(&k->in_bytes, weight_slices_bytes(&w->stored, w->rows, w->cols, row, count));
        grow_to(&k->x_elems, count * w->cols);
    }
    grow_to(&k->decode_bytes, decode_scratch_bytes(&w->stored, w->cols));
}

/* Numbers; what is RAW has none that anything here could read. */
static bool is_scanned(const struct weight *w)
{
    return !w->broken && w->stored.kind != SCHEME_RAW && w->rows > 0 && w->cols > 0;
}

static uint64_t cut_all(struct scan *k)
{
    const struct weights *weights = &k->l->source->weights;
    uint64_t bytes = 0;

    for (size_t i = 0; i < weights->count; i++) {
        if (!is_scanned(&weights->items[i]))
            continue;
        cut_weight(k, i);
        for (enum part part = PART_CODES; part < PART_SHAPE; part++)
            bytes += weights->items[i].parts[part] ? weights->items[i].parts[part]->bytes : 0;
    }
    return bytes;
}

/* ---- scanning ---- */

static bool is_group_empty(const uint32_t *words, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (words[i] != 0x88888888u) /* eight codes of 0, stored + 8 */
            return false;
    return true;
}

/* Where all codes are 0 this program writes a scale of 1; another scale says that something was there. */
static void count_empty_groups(struct chunk *c, const struct weight *w, const struct slices *in)
{
    const uint32_t *words = in->part[PART_CODES];
    const uint16_t *scales = in->part[PART_SCALE];
    uint64_t group = w->stored.group_cols, groups = group ? w->cols / group : 0;

    if (w->stored.kind != SCHEME_INT4 || w->stored.asymmetric || w->stored.scale != SCALE_BF16 || group % 8 != 0)
        return;
    for (uint64_t g = 0; g < c->count * groups; g++)
        c->empty_groups += scales[g] != 0x3F80u && is_group_empty(words + g * (group / 8), group / 8);
}

static bool is_any(const float *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (x[i] != 0)
            return true;
    return false;
}

static bool run_chunk(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct scan *k = ctx;
    struct chunk *c = &k->chunks[job];
    const struct weight *w = weight_of(k, c);
    const struct scratch *s = &k->scratch[worker];
    struct slices in;
    struct err bad = {0};

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    if (!weight_slices_read(&k->l->source->checkpoint, w, c->row, c->count, s->in, &in, &c->read_bytes, e))
        return false;
    if (decode_rows(kernel_get(), &w->stored, c->row, c->count, w->rows, w->cols, &in, s->x, s->decode, &bad)) {
        c->any = is_any(s->x, c->count * w->cols);
        count_empty_groups(c, w, &in);
    } else {
        c->bad = mem_alloc(sizeof *c->bad);
        *c->bad = bad;
    }
    progress_add(k->progress, c->read_bytes);
    return true;
}

/* ---- the report ---- */

struct empties {
    uint64_t groups, weights;
    const struct weight *first;
};

/* The first bad value of a weight stands for all: what made one has often made more. */
static void judge(const struct lint *l, const struct weight *w, const struct err *bad, bool any)
{
    if (bad)
        findings_add(l->findings, rule_find(bad->rule), "tensor '%s': %s", w->parts[PART_CODES]->name, bad->text);
    else if (!any && w->rows > 1)
        findings_add(l->findings, RULE_WEIGHT_EMPTY, "'%s' holds nothing but zeros", w->name);
}

static void report(const struct scan *k, struct values_sum *sum)
{
    struct empties empties = {0};

    for (size_t i = 0, next = 0; i < k->chunk_count; i = next) {
        const struct weight *w = weight_of(k, &k->chunks[i]);
        const struct err *bad = NULL;
        uint64_t empty = 0;
        bool any = false;
        for (next = i; next < k->chunk_count && k->chunks[next].weight == k->chunks[i].weight; next++) {
            const struct chunk *c = &k->chunks[next];
            bad = bad ? bad : c->bad;
            any |= c->any;
            empty += c->empty_groups;
            sum->read_bytes += c->read_bytes;
        }
        judge(k->l, w, bad, any);
        sum->values += w->rows * w->cols;
        empties.first = empties.groups == 0 ? w : empties.first;
        empties.groups += empty;
        empties.weights += empty > 0;
    }
    if (empties.groups > 0)
        findings_add(k->l->findings, RULE_GROUP_EMPTY,
                     "%" PRIu64 " group%s of %" PRIu64 " weight%s %s zeros under a scale that is not 1, first in '%s'",
                     empties.groups, plural(empties.groups), empties.weights, plural(empties.weights),
                     empties.groups == 1 ? "holds" : "hold", empties.first->name);
}

static void scratch_new(struct scan *k, unsigned threads)
{
    k->scratch = mem_alloc(threads * sizeof *k->scratch);
    for (unsigned i = 0; i < threads; i++)
        k->scratch[i] = (struct scratch){.in = mem_aligned(k->in_bytes + 1),
                                         .x = mem_aligned(k->x_elems * sizeof(float) + 1),
                                         .decode = mem_aligned(k->decode_bytes + 1)};
}

static void release(struct scan *k, unsigned threads)
{
    for (unsigned i = 0; i < threads; i++) {
        mem_free(k->scratch[i].decode);
        mem_free(k->scratch[i].x);
        mem_free(k->scratch[i].in);
    }
    mem_free(k->scratch);
    for (size_t i = 0; i < k->chunk_count; i++)
        mem_free(k->chunks[i].bad);
    mem_free(k->chunks);
}

bool lint_all_values(const struct lint *l, const struct values_job *job, struct values_sum *sum, struct err *e)
{
    unsigned threads = job->threads ? job->threads : pool_cpu_count();
    struct scan k = {.l = l};

    uint64_t bytes = cut_all(&k);
    if (threads > k.chunk_count)
        threads = k.chunk_count ? (unsigned)k.chunk_count : 1;
    scratch_new(&k, threads);
    k.progress = progress_new("values", bytes, job->quiet);
    bool ok = pool_run(threads, k.chunk_count, run_chunk, &k, e);
    progress_end(k.progress, ok);
    if (ok)
        report(&k, sum);
    release(&k, threads);
    return ok;
}
