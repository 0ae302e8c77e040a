/* Scales are read chunk by chunk on the pool, each chunk counting into its own slot; the slots are folded in order, so
 * that the report does not depend on who read what when. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/pool.h"
#include "formats/base/progress.h"
#include "quant/bits.h"
#include "verify/lint_values.h"

#define CHUNK_BYTES (1u << 20)
/* The largest weight that a matrix can hold. One drawn from a normal distribution of 0.006, as DeepSeek-V3's were
 * before training, holds 0.02 somewhere; a scale that was divided twice by 448 takes 0.4 to less than 2^-10. */
#define LARGEST_MIN 0x1p-10f
#define LARGEST_MAX 0x1p12f

enum fault { FAULT_ZERO, FAULT_NAN, FAULT_INF, FAULT_NEGATIVE, FAULT_DENORMAL, FAULT_NOT_POW2, FAULT_COUNT };

struct fault_info {
    enum rule_id rule;
    const char *is;
};

static const struct fault_info fault_infos[FAULT_COUNT] = {
    [FAULT_ZERO] = {RULE_SCALE_ZERO, "zero"},
    [FAULT_NAN] = {RULE_SCALE_NAN, "NaN"},
    [FAULT_INF] = {RULE_SCALE_INF, "infinite"},
    [FAULT_NEGATIVE] = {RULE_SCALE_NEGATIVE, "negative"},
    [FAULT_DENORMAL] = {RULE_SCALE_DENORMAL, "denormal"},
    [FAULT_NOT_POW2] = {RULE_SCALE_NOT_POW2, "no power of two, which scale_fmt \"ue8m0\" promises"},
};

/* Counts and first places of each fault. */
struct tally {
    uint64_t count[FAULT_COUNT], first[FAULT_COUNT];
    float most; /* largest finite magnitude */
};

struct chunk {
    uint32_t weight;
    uint64_t first, count; /* elements of the scale tensor */
    struct tally tally;
};

struct scan {
    const struct lint *l;
    struct chunk *chunks;
    size_t chunk_count, chunk_room;
    uint8_t **blocks; /* one a worker */
    struct progress *progress;
};

/* ---- one scale ---- */

static float f16_value(uint16_t bits)
{
    float sign = bits & 0x8000u ? -1.0f : 1.0f;
    uint32_t exponent = bits >> 10 & 31u, fraction = bits & 0x3FFu;

    if (exponent == 31)
        return fraction ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * (float)fraction * 0x1p-24f;
    return sign * bits_float((exponent + 112) << 23 | fraction << 13);
}

static float scale_value(enum scale_kind kind, const uint8_t *data, uint64_t i, bool *denormal)
{
    uint16_t bits16 = 0;
    uint32_t bits32 = 0;

    *denormal = false;
    switch (kind) {
    case SCALE_F32:
    case SCALE_F32_POW2:
        memcpy(&bits32, data + i * 4, 4);
        break;
    case SCALE_BF16:
        memcpy(&bits16, data + i * 2, 2);
        bits32 = (uint32_t)bits16 << 16;
        break;
    case SCALE_F16:
        memcpy(&bits16, data + i * 2, 2);
        *denormal = (bits16 & 0x7C00u) == 0 && (bits16 & 0x3FFu) != 0;
        return f16_value(bits16);
    case SCALE_E8M0: /* 2^-127, its least, is a denormal float and legal */
        return data[i] == 255 ? NAN : ldexpf(1, data[i] - 127);
    case SCALE_NONE:
        break;
    }
    *denormal = (bits32 & 0x7F800000u) == 0 && (bits32 & 0x7FFFFFu) != 0;
    return bits_float(bits32);
}

static void note(struct tally *t, enum fault fault, uint64_t at)
{
    if (t->count[fault]++ == 0)
        t->first[fault] = at;
}

static void look_at(struct tally *t, const struct scheme *s, float x, bool denormal, uint64_t at)
{
    float size = fabsf(x);

    if (isnan(x))
        note(t, FAULT_NAN, at);
    else if (isinf(x))
        note(t, FAULT_INF, at);
    else if (x == 0)
        note(t, FAULT_ZERO, at);
    else if (x < 0 && s->kind != SCHEME_INT4) /* whose search may choose a negative one */
        note(t, FAULT_NEGATIVE, at);
    else if (denormal && s->scale != SCALE_F32_POW2)
        note(t, FAULT_DENORMAL, at);
    else if (s->scale == SCALE_F32_POW2 && (float_bits(x) & 0x7FFFFFu) != 0 && float_bits(x) != 0x00400000u)
        note(t, FAULT_NOT_POW2, at);
    if (isfinite(size) && size > t->most)
        t->most = size;
}

/* ---- all of them ---- */

static const struct weight *weight_of(const struct scan *k, const struct chunk *c)
{
    return &k->l->source->weights.items[c->weight];
}

static bool run_chunk(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct scan *k = ctx;
    struct chunk *c = &k->chunks[job];
    const struct weight *w = weight_of(k, c);
    const struct tensor *t = w->parts[PART_SCALE];
    uint64_t elem_bytes = t->bytes / tensor_elems(t);
    bool denormal = false;

    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    if (!checkpoint_read(&k->l->source->checkpoint, t, c->first * elem_bytes, k->blocks[worker],
                         (size_t)(c->count * elem_bytes), e))
        return false;
    for (uint64_t i = 0; i < c->count; i++) {
        float x = scale_value(w->stored.scale, k->blocks[worker], i, &denormal);
        look_at(&c->tally, &w->stored, x, denormal, c->first + i);
    }
    progress_add(k->progress, c->count * elem_bytes);
    return true;
}

static bool has_scales(const struct weight *w)
{
    return !w->broken && w->stored.scale != SCALE_NONE && w->parts[PART_SCALE] && w->parts[PART_SCALE]->bytes > 0;
}

static void add_chunk(struct scan *k, size_t weight, uint64_t first, uint64_t count)
{
    if (k->chunk_count == k->chunk_room) {
        k->chunk_room = k->chunk_room ? 2 * k->chunk_room : 1024;
        k->chunks = mem_grow(k->chunks, k->chunk_room, sizeof *k->chunks);
    }
    k->chunks[k->chunk_count++] = (struct chunk){.weight = (uint32_t)weight, .first = first, .count = count};
}

static void cut(struct scan *k, struct values_sum *sum)
{
    const struct weights *weights = &k->l->source->weights;

    for (size_t i = 0; i < weights->count; i++) {
        if (!has_scales(&weights->items[i]))
            continue;
        const struct tensor *t = weights->items[i].parts[PART_SCALE];
        uint64_t elems = tensor_elems(t), step = CHUNK_BYTES / (t->bytes / elems);
        for (uint64_t at = 0; at < elems; at += step)
            add_chunk(k, i, at, elems - at < step ? elems - at : step);
        sum->scales += elems;
        sum->read_bytes += t->bytes;
    }
}

/* ---- the report ---- */

/* "[3, 17]" */
static const char *place_text(const struct tensor *t, uint64_t at, char text[TENSOR_SHAPE_TEXT])
{
    uint64_t place[TENSOR_RANK_MAX] = {0};

    for (uint32_t d = t->rank; d > 0; d--) {
        place[d - 1] = at % t->dims[d - 1];
        at /= t->dims[d - 1];
    }
    return tensor_shape_text(t->rank, place, text);
}

static void judge(const struct lint *l, const struct weight *w, const struct tally *t)
{
    const struct tensor *scale = w->parts[PART_SCALE];
    float largest = t->most * (w->stored.kind == SCHEME_INT4 ? 8.0f : 448.0f);
    char place[TENSOR_SHAPE_TEXT];

    for (enum fault f = 0; f < FAULT_COUNT; f++)
        if (t->count[f] > 0)
            findings_add(l->findings, fault_infos[f].rule,
                         "tensor '%s': %" PRIu64 " of %" PRIu64 " scales %s %s, first %s", scale->name, t->count[f],
                         tensor_elems(scale), t->count[f] == 1 ? "is" : "are", fault_infos[f].is,
                         place_text(scale, t->first[f], place));
    if (t->most > 0 && (largest < LARGEST_MIN || largest > LARGEST_MAX))
        findings_add(l->findings, RULE_SCALE_ABSURD,
                     "tensor '%s': the largest scale is %g, and so no weight passes %g: nothing trained is like that",
                     scale->name, (double)t->most, (double)largest);
}

static void fold(struct tally *sum, const struct tally *more)
{
    for (enum fault f = 0; f < FAULT_COUNT; f++) {
        if (sum->count[f] == 0)
            sum->first[f] = more->first[f];
        sum->count[f] += more->count[f];
    }
    sum->most = more->most > sum->most ? more->most : sum->most;
}

static void report(const struct scan *k)
{
    for (size_t i = 0, next = 0; i < k->chunk_count; i = next) {
        struct tally sum = {0};
        for (next = i; next < k->chunk_count && k->chunks[next].weight == k->chunks[i].weight; next++)
            fold(&sum, &k->chunks[next].tally);
        judge(k->l, weight_of(k, &k->chunks[i]), &sum);
    }
}

bool lint_scales(const struct lint *l, const struct values_job *job, struct values_sum *sum, struct err *e)
{
    unsigned threads = job->threads ? job->threads : pool_cpu_count();
    struct scan k = {.l = l, .blocks = mem_alloc(threads * sizeof *k.blocks)};

    cut(&k, sum);
    for (unsigned i = 0; i < threads; i++)
        k.blocks[i] = mem_aligned(CHUNK_BYTES);
    k.progress = progress_new("scales", sum->read_bytes, job->quiet);
    bool ok = pool_run(threads, k.chunk_count, run_chunk, &k, e);
    progress_end(k.progress, ok);
    if (ok)
        report(&k);
    for (unsigned i = 0; i < threads; i++)
        mem_free(k.blocks[i]);
    mem_free(k.blocks);
    mem_free(k.chunks);
    return ok;
}
