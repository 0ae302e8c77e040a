/* Three passes. Pair the weights by name and cut those that both sides have
 * into chunks; run the chunks on the pool, each into its own slot; fold the
 * slots in order, so that sums do not depend on who computed what when, and
 * judge each weight. */
#include "verify/weights_diff.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/pool.h"
#include "verify/expert_numbers.h"
#include "verify/weight_slices.h"
#include "verify/weights_judge.h"

/* Elements of a chunk where rows allow it: 4 MB as float32, big enough that a read costs no seek. */
#define CHUNK_ELEMS (1u << 20)
/* A row that does not fit memory twice per worker is none that this family has. */
#define ROW_ELEMS_MAX (64u << 20)
#define LANES         8u

struct chunk {
    uint32_t weight;     /* index into items */
    bool failed[2];      /* ref, cand: not decodable */
    uint64_t row, count; /* RAW: first byte and bytes */
    uint64_t differing;
    double error2, energy2, max_abs;
};

/* What one worker owns. */
struct scratch {
    uint8_t *in[2];
    float *x[2];
    uint8_t *decode;
};

struct diff {
    struct weights_diff *out;
    const struct source *side[2];
    const struct kernel *kernel;
    struct expert_numbers numbers; /* of the second side, by the first's */
    bool exact_only;
    struct chunk *chunks;
    size_t chunk_count, chunk_room;
    size_t in_bytes[2], x_elems, decode_bytes; /* of a scratch */
    struct scratch *scratch;
    struct progress *progress;
};

static const struct weight *side_of(const struct weight_diff *w, size_t side)
{
    return side == 0 ? w->ref : w->cand;
}

static size_t round_up(size_t bytes)
{
    return (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
}

/* ---- pairing ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct weight_diff *)a)->name, ((const struct weight_diff *)b)->name);
}

/* An expert of the first side under its number on the second. */
static const char *name_there(struct diff *d, const struct weight *w)
{
    const uint32_t *was = w->id.expert >= 0 ? expert_numbers_of(&d->numbers, (uint64_t)w->id.layer) : NULL;

    for (uint32_t i = 0; was && i < d->numbers.experts; i++)
        if (was[i] == w->id.expert)
            return arch_expert_name(&d->out->arena, w->name, i);
    return w->name;
}

/* By name and not by place: two layouts of one model then report alike. */
static void pair_weights(struct diff *d)
{
    const struct weights *ref = &d->side[0]->weights, *cand = &d->side[1]->weights;
    struct weight_diff *items = arena_array(&d->out->arena, ref->count + cand->count + 1, sizeof *items);
    size_t n = 0;

    for (size_t i = 0; i < ref->count; i++, n++)
        items[n] = (struct weight_diff){.name = ref->items[i].name,
                                        .ref = &ref->items[i],
                                        .cand = weights_find(cand, name_there(d, &ref->items[i]))};
    qsort(items, n, sizeof *items, compare_names);
    size_t extra = n;
    for (size_t i = 0; i < cand->count; i++)
        if (!weights_find(ref, cand->items[i].name))
            items[n++] = (struct weight_diff){.name = cand->items[i].name, .cand = &cand->items[i]};
    qsort(items + extra, n - extra, sizeof *items, compare_names);
    d->out->items = items;
    d->out->count = n;
}

/* Numbers against numbers, or bytes of one dtype against bytes of the same. */
static bool comparable(const struct weight_diff *w)
{
    if (!w->ref || !w->cand || !weights_same_shape(w->ref, w->cand) || weight_is_raw(w->ref) != weight_is_raw(w->cand))
        return false;
    return !weight_is_raw(w->ref) || w->ref->stored.dtype == w->cand->stored.dtype;
}

/* ---- cutting ---- */

static void add_chunk(struct diff *d, size_t weight, uint64_t row, uint64_t count)
{
    if (d->chunk_count == d->chunk_room) {
        d->chunk_room = d->chunk_room ? 2 * d->chunk_room : 4096;
        d->chunks = mem_grow(d->chunks, d->chunk_room, sizeof *d->chunks);
    }
    d->chunks[d->chunk_count++] = (struct chunk){.weight = (uint32_t)weight, .row = row, .count = count};
}

static void grow_to(size_t *most, size_t bytes)
{
    if (bytes > *most)
        *most = bytes;
}

static bool cut_numbers(struct diff *d, size_t index, struct err *e)
{
    const struct weight_diff *w = &d->out->items[index];
    uint64_t cols = w->ref->cols, rows = w->ref->rows;
    uint64_t multiple = weight_slices_multiple(&w->ref->stored, &w->cand->stored);
    uint64_t step = weight_slices_rows(rows, cols, multiple, CHUNK_ELEMS);

    if (rows == 0 || cols == 0)
        return true;
    if (cols > ROW_ELEMS_MAX || step * cols > ROW_ELEMS_MAX)
        return err_set(e, ERR_LIMIT, "'%s': %" PRIu64 " rows of %" PRIu64 " columns at a time are past the limit of %u",
                       w->name, step, cols, ROW_ELEMS_MAX);
    for (uint64_t row = 0; row < rows; row += step) {
        uint64_t count = rows - row < step ? rows - row : step;
        add_chunk(d, index, row, count);
        grow_to(&d->x_elems, count * cols);
        for (size_t s = 0; s < 2; s++)
            grow_to(&d->in_bytes[s], weight_slices_bytes(&side_of(w, s)->stored, rows, cols, row, count));
    }
    for (size_t s = 0; s < 2; s++)
        grow_to(&d->decode_bytes, decode_scratch_bytes(&side_of(w, s)->stored, cols));
    return true;
}

static void cut_bytes(struct diff *d, size_t index)
{
    uint64_t bytes = d->out->items[index].ref->parts[PART_CODES]->bytes, step = CHUNK_ELEMS;

    for (uint64_t at = 0; at < bytes; at += step) {
        uint64_t count = bytes - at < step ? bytes - at : step;
        add_chunk(d, index, at, count);
        for (size_t s = 0; s < 2; s++)
            grow_to(&d->in_bytes[s], count);
    }
}

/* In the order that REF lies on disk, which is CAND's too for what this program wrote. */
struct place {
    size_t index;
    const struct tensor *codes;
};

static int compare_places(const void *a, const void *b)
{
    const struct tensor *s = ((const struct place *)a)->codes, *t = ((const struct place *)b)->codes;

    if (s->shard != t->shard)
        return s->shard < t->shard ? -1 : 1;
    return s->offset < t->offset ? -1 : s->offset > t->offset;
}

/* Its rows are the same ones, to the bit, or there would be no other numbers. */
static bool is_renumbered_router(const struct diff *d, const struct weight *w)
{
    return (w->id.role == ROLE_ROUTER || w->id.role == ROLE_ROUTER_BIAS) && w->id.layer >= 0 &&
           expert_numbers_of(&d->numbers, (uint64_t)w->id.layer);
}

static bool cut_all(struct diff *d, struct err *e)
{
    struct place *order = mem_alloc((d->out->count + 1) * sizeof *order);
    size_t n = 0;
    bool ok = true;

    for (size_t i = 0; i < d->out->count; i++)
        if (comparable(&d->out->items[i]) && d->exact_only && !role_get(d->out->items[i].ref->id.role)->exact) {
            d->out->items[i].skipped = true;
        } else if (comparable(&d->out->items[i])) {
            d->out->items[i].compared = d->out->items[i].identical = true;
            if (is_renumbered_router(d, d->out->items[i].ref))
                continue;
            order[n++] = (struct place){i, d->out->items[i].ref->parts[PART_CODES]};
        }
    qsort(order, n, sizeof *order, compare_places);
    for (size_t i = 0; ok && i < n; i++) {
        if (weight_is_raw(d->out->items[order[i].index].ref))
            cut_bytes(d, order[i].index);
        else
            ok = cut_numbers(d, order[i].index, e);
    }
    mem_free(order);
    return ok;
}

/* ---- comparing ---- */

static bool read_slices(const struct diff *d, size_t side, const struct chunk *c, uint8_t *to, struct slices *slices,
                        uint64_t *read_bytes, struct err *e)
{
    const struct weight *w = side_of(&d->out->items[c->weight], side);

    return weight_slices_read(&d->side[side]->checkpoint, w, c->row, c->count, to, slices, read_bytes, e);
}

static bool decode(const struct diff *d, size_t side, const struct chunk *c, const struct slices *in, float *x,
                   void *scratch, struct err *e)
{
    const struct weight *w = side_of(&d->out->items[c->weight], side);

    return decode_rows(d->kernel, &w->stored, c->row, c->count, w->rows, w->cols, in, x, scratch, e);
}

/* Eight running sums by column, added up in order: the same for any chunking of work, and no long chain of
 * dependent additions. */
static void compare_values(struct chunk *c, const float *a, const float *b, size_t n)
{
    double error[LANES] = {0}, energy[LANES] = {0}, worst[LANES] = {0};
    uint64_t differing = 0;
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++) {
            double x = (double)a[i + k], delta = x - (double)b[i + k], size = fabs(delta);
            error[k] += delta * delta;
            energy[k] += x * x;
            worst[k] = size > worst[k] ? size : worst[k];
        }
    for (; i < n; i++) {
        double x = (double)a[i], delta = x - (double)b[i], size = fabs(delta);
        error[0] += delta * delta;
        energy[0] += x * x;
        worst[0] = size > worst[0] ? size : worst[0];
    }
    for (size_t k = 0; k < LANES; k++) {
        c->error2 += error[k];
        c->energy2 += energy[k];
        c->max_abs = worst[k] > c->max_abs ? worst[k] : c->max_abs;
    }
    if (memcmp(a, b, n * sizeof *a) == 0)
        return;
    for (i = 0; i < n; i++)
        differing += memcmp(&a[i], &b[i], sizeof a[i]) != 0;
    c->differing = differing;
}

static bool compare_bytes(struct diff *d, struct chunk *c, const struct scratch *s, uint64_t *read_bytes, struct err *e)
{
    const struct weight_diff *w = &d->out->items[c->weight];

    for (size_t side = 0; side < 2; side++)
        if (!checkpoint_read(&d->side[side]->checkpoint, side_of(w, side)->parts[PART_CODES], c->row, s->in[side],
                             c->count, e))
            return false;
    *read_bytes += 2 * c->count;
    for (uint64_t i = 0; i < c->count; i++)
        c->differing += s->in[0][i] != s->in[1][i];
    return true;
}

/* The same bytes under the same scheme need one decoding. */
static bool same_slices(const struct diff *d, const struct chunk *c, const struct slices in[2])
{
    const struct weight_diff *w = &d->out->items[c->weight];

    if (!scheme_same_storage(&w->ref->stored, &w->cand->stored))
        return false;
    for (size_t p = 0; p < PART_COUNT; p++) {
        uint64_t offset = 0, bytes = 0;
        if (!in[0].part[p] != !in[1].part[p])
            return false;
        if (!in[0].part[p])
            continue;
        scheme_slice(&w->ref->stored, (enum part)p, w->ref->rows, w->ref->cols, c->row, c->count, &offset, &bytes);
        if (memcmp(in[0].part[p], in[1].part[p], bytes) != 0)
            return false;
    }
    return true;
}

static bool compare_numbers(struct diff *d, struct chunk *c, const struct scratch *s, uint64_t *read_bytes,
                            struct err *e)
{
    struct slices in[2];
    struct err bad = {0};

    for (size_t side = 0; side < 2; side++)
        if (!read_slices(d, side, c, s->in[side], &in[side], read_bytes, e))
            return false;
    bool same = same_slices(d, c, in);
    for (size_t side = 0; side < 2; side++)
        c->failed[side] =
            same && side == 1 ? c->failed[0] : !decode(d, side, c, &in[side], s->x[side], s->decode, &bad);
    if (!c->failed[0] && !c->failed[1])
        compare_values(c, s->x[0], s->x[same ? 0 : 1], c->count * d->out->items[c->weight].ref->cols);
    return true;
}

static bool run_chunk(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct diff *d = ctx;
    struct chunk *c = &d->chunks[job];
    const struct weight_diff *w = &d->out->items[c->weight];
    uint64_t read_bytes = 0;

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "stopped by a signal");
    if (!(weight_is_raw(w->ref) ? compare_bytes : compare_numbers)(d, c, &d->scratch[worker], &read_bytes, e))
        return err_in(e, "comparing '%s'", w->name);
    progress_add(d->progress, read_bytes);
    return true;
}

/* ---- folding ---- */

/* The words for a chunk that would not decode: done again, by itself, since workers keep no text. */
static const char *explain_failure(struct diff *d, const struct chunk *c, size_t side, struct err *e)
{
    struct slices in;
    struct err bad = {0};
    uint64_t read_bytes = 0;

    if (!read_slices(d, side, c, d->scratch[0].in[side], &in, &read_bytes, e))
        return NULL;
    if (decode(d, side, c, &in, d->scratch[0].x[side], d->scratch[0].decode, &bad))
        return "it decoded the second time: the file changed";
    return arena_printf(&d->out->arena, "%s: %s", side == 0 ? "REF" : "CAND", bad.text);
}

static bool fold(struct diff *d, struct err *e)
{
    for (size_t i = 0; i < d->chunk_count; i++) {
        const struct chunk *c = &d->chunks[i];
        struct weight_diff *w = &d->out->items[c->weight];
        w->differing += c->differing;
        w->error2 += c->error2;
        w->energy2 += c->energy2;
        w->max_abs = c->max_abs > w->max_abs ? c->max_abs : w->max_abs;
        w->identical &= c->differing == 0;
        if (!c->failed[0] && !c->failed[1])
            continue;
        w->compared = w->identical = false;
        /* A fault that both have is REF's. */
        if (!w->unexpected && !(w->unexpected = explain_failure(d, c, c->failed[0] ? 0 : 1, e)))
            return err_in(e, "comparing '%s'", w->name);
    }
    return true;
}

/* ---- all of it ---- */

static uint64_t bytes_to_read(const struct diff *d)
{
    uint64_t total = 0;

    for (size_t i = 0; i < d->out->count; i++)
        for (size_t s = 0; d->out->items[i].compared && s < 2; s++)
            for (size_t p = 0; p < PART_COUNT; p++) {
                const struct weight *w = side_of(&d->out->items[i], s);
                if (w->parts[p] && p != PART_SHAPE)
                    total += w->parts[p]->bytes;
            }
    return total;
}

static uint8_t *scratch_new(struct diff *d, unsigned threads)
{
    size_t x_bytes = round_up(d->x_elems * sizeof(float)), in[2] = {round_up(d->in_bytes[0]), round_up(d->in_bytes[1])};
    size_t one = in[0] + in[1] + 2 * x_bytes + round_up(d->decode_bytes);
    uint8_t *slab = mem_aligned(one * threads + MEM_ALIGN);

    d->scratch = mem_alloc(threads * sizeof *d->scratch);
    for (unsigned i = 0; i < threads; i++) {
        uint8_t *at = slab + i * one;
        d->scratch[i] = (struct scratch){.in = {at, at + in[0]}, .decode = at + in[0] + in[1] + 2 * x_bytes};
        d->scratch[i].x[0] = (float *)(void *)(at + in[0] + in[1]);
        d->scratch[i].x[1] = (float *)(void *)(at + in[0] + in[1] + x_bytes);
    }
    return slab;
}

bool weights_diff_run(struct weights_diff *out, const struct source *ref, const struct source *cand,
                      const struct weights_diff_job *job, struct err *e)
{
    struct diff d = {.out = out, .side = {ref, cand}, .kernel = kernel_get(), .exact_only = job->exact_only};
    unsigned threads = job->threads ? job->threads : pool_cpu_count();
    uint8_t *slab = NULL;
    bool ok = false;

    *out = (struct weights_diff){0};
    if (!expert_numbers_find(&d.numbers, &out->arena, ref, cand, e))
        goto done;
    out->renumbered_layers = expert_numbers_layers(&d.numbers);
    pair_weights(&d);
    if (!cut_all(&d, e))
        goto done;
    if (threads > d.chunk_count)
        threads = d.chunk_count ? (unsigned)d.chunk_count : 1;
    slab = scratch_new(&d, threads);
    out->read_bytes = bytes_to_read(&d);
    d.progress = progress_new("diff", out->read_bytes, job->quiet);
    ok = pool_run(threads, d.chunk_count, run_chunk, &d, e);
    progress_end(d.progress, ok);
    ok = ok && fold(&d, e) && weights_judge(out, d.side, job->exact_only, e);
done:
    mem_free(slab);
    mem_free(d.scratch);
    mem_free(d.chunks);
    if (!ok)
        weights_diff_release(out);
    return ok;
}

void weights_diff_release(struct weights_diff *d)
{
    arena_release(&d->arena);
    *d = (struct weights_diff){0};
}

double weight_diff_relative(const struct weight_diff *w)
{
    if (w->error2 == 0)
        return 0;
    return sqrt(w->error2 / w->energy2);
}

double weight_diff_snr_db(double error2, double energy2)
{
    return error2 == 0 ? INFINITY : 10 * log10(energy2 / error2);
}
