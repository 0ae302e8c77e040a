/* Where every tensor of an output will stand.
 *
 * A shard holds three zones. First the constants (weight_shape, 16 bytes each), which are known now and are
 * written with the header. Then the weights in the source's order, the parts of each side by side, so that jobs
 * write forward; every size here is a multiple of 8, so every start is aligned. Last the few weights with a size
 * that is not: ordered by alignment, widest first, which is what keeps them aligned without holes. */
#include <stdlib.h>
#include <string.h>

#include "convert/plan.h"
#include "formats/safetensors.h"

/* A tensor's place in the order of its shard. */
struct place {
    struct tensor *tensor;
    const struct weight *weight;
    unsigned zone;   /* 0 constants, 1 weights, 2 odd sizes */
    uint32_t align;  /* zone 2 sorts by it, descending */
    size_t sequence; /* then by this */
    bool shape_i64;
};

static int compare_places(const void *left, const void *right)
{
    const struct place *a = left, *b = right;

    if (a->tensor->shard != b->tensor->shard)
        return a->tensor->shard < b->tensor->shard ? -1 : 1;
    if (a->zone != b->zone)
        return a->zone < b->zone ? -1 : 1;
    if (a->zone == 2 && a->align != b->align)
        return a->align > b->align ? -1 : 1;
    return a->sequence < b->sequence ? -1 : 1;
}

static bool has_odd_size(const struct plan_row *row)
{
    for (enum part part = 0; part < PART_COUNT; part++)
        if (row->parts[part].bytes % 8 != 0)
            return true;
    return false;
}

static struct place *list_places(struct plan_output *o, size_t weight_count, size_t *count)
{
    struct place *places = mem_alloc((weight_count * PART_COUNT + 1) * sizeof *places);
    size_t n = 0;

    for (size_t i = 0; i < weight_count; i++) {
        struct plan_row *row = &o->rows[i];
        bool odd = has_odd_size(row);
        for (enum part part = 0; part < PART_COUNT; part++) {
            struct tensor *t = &row->parts[part];
            if (t->dtype == DTYPE_NONE)
                continue;
            places[n] = (struct place){
                .tensor = t,
                .weight = row->weight,
                .zone = part == PART_SHAPE ? 0
                        : odd              ? 2
                                           : 1,
                .align = dtype_get(t->dtype)->align,
                .sequence = n,
                .shape_i64 = row->scheme.shape_i64,
            };
            n++;
        }
    }
    *count = n;
    return places;
}

static uint64_t row_bytes(const struct plan_row *row)
{
    uint64_t bytes = 0;

    for (enum part part = 0; part < PART_COUNT; part++)
        if (row->parts[part].dtype != DTYPE_NONE)
            bytes += row->parts[part].bytes + safetensors_header_bytes(&row->parts[part]);
    return bytes;
}

static size_t row_header_bytes(const struct plan_row *row)
{
    size_t bytes = 0;

    for (enum part part = 0; part < PART_COUNT; part++)
        if (row->parts[part].dtype != DTYPE_NONE)
            bytes += safetensors_header_bytes(&row->parts[part]);
    return bytes;
}

static void set_shard(struct plan_row *row, uint32_t shard)
{
    for (enum part part = 0; part < PART_COUNT; part++)
        row->parts[part].shard = shard;
}

/* What a shard takes beside its tensors: length, metadata and braces, and the padding of the header at its largest. */
#define SHARD_BYTES_EMPTY (SAFETENSORS_DATA_ALIGN + 64u)

/* A weight is never split over shards; one larger than the limit has a shard of its own. A row that is left out
 * takes no bytes, and must not open a shard. */
static size_t assign_by_size(struct plan_output *o, size_t weight_count, uint64_t shard_bytes)
{
    uint64_t used = SHARD_BYTES_EMPTY;
    size_t header = 0, shard = 0;

    for (size_t i = 0; i < weight_count; i++) {
        uint64_t bytes = row_bytes(&o->rows[i]);
        size_t header_bytes = row_header_bytes(&o->rows[i]);
        bool full = used + bytes > shard_bytes || header + header_bytes > SAFETENSORS_HEADER_BYTES_HUB / 2;
        if (full && header > 0 && bytes > 0) {
            shard++;
            used = SHARD_BYTES_EMPTY;
            header = 0;
        }
        set_shard(&o->rows[i], (uint32_t)shard);
        used += bytes;
        header += header_bytes;
    }
    return shard + 1;
}

/* The source's layout: the shard that held the codes. Rows come in that order, so numbers only grow. */
static size_t assign_like_source(struct plan *p, struct plan_output *o)
{
    uint32_t from = 0;
    size_t shard = 0;

    for (size_t i = 0; i < p->weight_count; i++) {
        uint32_t shard_now = p->weights[i]->parts[PART_CODES]->shard;
        bool follows = p->weights[i]->id.part == NAME_INPUT_SCALE; /* its linear, wherever it stood */
        if (i > 0 && !follows && shard_now != from)
            shard++;
        if (!follows)
            from = shard_now;
        set_shard(&o->rows[i], (uint32_t)shard);
    }
    return shard + 1;
}

static const char *source_shard_name(const struct plan *p, const struct plan_output *o, size_t shard)
{
    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].parts[PART_CODES].shard == shard)
            return p->source->checkpoint.shards[p->weights[i]->parts[PART_CODES]->shard].name;
    return "model.safetensors";
}

static void name_shards(struct plan *p, struct plan_output *o, bool keep)
{
    for (size_t i = 0; i < o->shard_count; i++) {
        struct plan_shard *s = &o->shards[i];
        if (keep)
            s->name = arena_strdup(&p->arena, source_shard_name(p, o, i));
        else if (o->shard_count == 1)
            s->name = "model.safetensors";
        else
            s->name = arena_printf(&p->arena, "model-%05zu-of-%05zu.safetensors", i + 1, o->shard_count);
    }
}

static void add_constant(struct buf *prefix, const struct place *place)
{
    const uint64_t dims[2] = {place->weight->rows, place->weight->cols};

    for (size_t i = 0; i < 2; i++) {
        uint8_t bytes[8];
        for (size_t k = 0; k < 8; k++)
            bytes[k] = (uint8_t)(dims[i] >> (8 * k));
        buf_add(prefix, bytes, place->shape_i64 ? 8 : 4);
    }
}

static bool lay_shard(struct plan_shard *s, struct place *places, size_t count, struct err *e)
{
    struct tensor **tensors = mem_alloc((count + 1) * sizeof(*tensors));
    bool ok = false;

    for (size_t i = 0; i < count; i++)
        tensors[i] = places[i].tensor;
    if (!safetensors_layout(&s->prefix, tensors, count, &s->bytes, e))
        goto done;
    for (size_t i = 0; i < count && places[i].zone == 0; i++)
        add_constant(&s->prefix, &places[i]);
    ok = true;
done:
    mem_free(tensors);
    return ok || err_in(e, "shard '%s'", s->name);
}

static bool lay_shards(struct plan_output *o, struct place *places, size_t count, struct err *e)
{
    size_t begin = 0;

    qsort(places, count, sizeof *places, compare_places);
    while (begin < count) {
        uint32_t shard = places[begin].tensor->shard;
        size_t end = begin;
        while (end < count && places[end].tensor->shard == shard)
            o->tensor_bytes += places[end++].tensor->bytes;
        if (!lay_shard(&o->shards[shard], places + begin, end - begin, e))
            return false;
        o->file_bytes += o->shards[shard].bytes;
        begin = end;
    }
    return true;
}

bool plan_layout(struct plan *p, struct plan_output *o, const struct plan_options *options, struct err *e)
{
    size_t count = 0;

    if (p->weight_count == 0)
        return err_set(e, ERR_FORMAT, "the checkpoint holds no weights");
    o->shard_count =
        options->keep_shards ? assign_like_source(p, o) : assign_by_size(o, p->weight_count, options->shard_bytes);
    o->shards = arena_array(&p->arena, o->shard_count, sizeof *o->shards);
    name_shards(p, o, options->keep_shards);

    struct place *places = list_places(o, p->weight_count, &count);
    bool ok = lay_shards(o, places, count, e);
    mem_free(places);
    return ok;
}
