/* Where every tensor of an output will stand.
 *
 * A shard holds three zones. First the constants (weight_shape, 16 bytes each), which are known now and are
 * written with the header. Then the weights in the source's order, the parts of each side by side, so that jobs
 * write forward; every size here is a multiple of 8, so every start is aligned. Last the few weights with a size
 * that is not: ordered by alignment, widest first, which is what keeps them aligned without holes.
 *
 * What is laid out for reading experts begins with these, and the constants go to the end. An expert's parts stay
 * together when each begins where its type likes it to (a multiple of four is enough for FP8 with F32 scales); should
 * such experts not add up to a multiple of 8, they go behind the other weights. */
#include <stdlib.h>
#include <string.h>

#include "convert/plan.h"
#include "formats/safetensors.h"

/* A tensor's place in the order of its shard. */
enum zone {
    ZONE_FIRST_CONSTANTS,
    ZONE_EXPERTS,
    ZONE_WEIGHTS,
    ZONE_LAST_EXPERTS, /* those whose sizes would misalign the weights */
    ZONE_EXPERT_SCALES,
    ZONE_ODD,
    ZONE_LAST_CONSTANTS,
};

struct place {
    struct tensor *tensor;
    const struct weight *weight;
    enum zone zone;
    uint32_t align;  /* odd sizes are sorted by it, descending */
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
    if (a->zone == ZONE_ODD && a->align != b->align)
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

static bool is_expert(const struct plan_row *row)
{
    return row->weight->id.expert >= 0;
}

/* One part behind the other, each starts where its type likes it to, whatever stands before at a multiple of 4. */
static bool stays_together(const struct plan_row *row)
{
    for (enum part part = 0; part < PART_SHAPE; part++) {
        const struct tensor *t = &row->parts[part];
        if (t->dtype != DTYPE_NONE && (t->bytes % 4 != 0 || dtype_get(t->dtype)->align > 4))
            return false;
    }
    return true;
}

static enum zone zone_of(const struct plan_output *o, const struct plan_row *row, enum part part)
{
    bool odd = has_odd_size(row);

    if (part == PART_SHAPE)
        return o->zones == ZONES_CONVERT ? ZONE_FIRST_CONSTANTS : ZONE_LAST_CONSTANTS;
    if (o->zones == ZONES_CONVERT || !is_expert(row))
        return odd ? ZONE_ODD : ZONE_WEIGHTS;
    if (!stays_together(row))
        return ZONE_ODD;
    bool small = part == PART_SCALE || row->weight->id.part == NAME_INPUT_SCALE;
    uint64_t align = o->data_align > 0 ? o->data_align : SAFETENSORS_DATA_ALIGN;
    if (o->zones == ZONES_EXPERTS_ALIGNED && small && row->parts[part].bytes % align != 0)
        return ZONE_EXPERT_SCALES;
    return ZONE_EXPERTS;
}

static struct place *list_places(struct plan_output *o, size_t weight_count, size_t *count)
{
    struct place *places = mem_alloc((weight_count * PART_COUNT + 1) * sizeof *places);
    size_t n = 0;

    for (size_t i = 0; i < weight_count; i++) {
        struct plan_row *row = &o->rows[i];
        for (enum part part = 0; part < PART_COUNT; part++) {
            struct tensor *t = &row->parts[part];
            if (t->dtype == DTYPE_NONE)
                continue;
            places[n] = (struct place){
                .tensor = t,
                .weight = row->weight,
                .zone = zone_of(o, row, part),
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

/* Multiples of 4 that are none of 8 together would shift what comes behind. */
static void move_odd_experts(struct plan_output *o, struct place *places, size_t count)
{
    uint64_t *bytes = mem_alloc((o->shard_count + 1) * sizeof *bytes);

    for (size_t i = 0; i < count; i++)
        if (places[i].zone == ZONE_EXPERTS)
            bytes[places[i].tensor->shard] += places[i].tensor->bytes;
    for (size_t i = 0; i < count; i++)
        if (places[i].zone == ZONE_EXPERTS && bytes[places[i].tensor->shard] % 8 != 0)
            places[i].zone = ZONE_LAST_EXPERTS;
    mem_free(bytes);
}

void plan_row_size(const struct plan_row *row, uint64_t *bytes, size_t *header_bytes)
{
    *bytes = 0;
    *header_bytes = 0;
    for (enum part part = 0; part < PART_COUNT; part++)
        if (row->parts[part].dtype != DTYPE_NONE) {
            *header_bytes += safetensors_header_bytes(&row->parts[part]);
            *bytes += row->parts[part].bytes;
        }
    *bytes += *header_bytes;
}

static void set_shard(struct plan_row *row, uint32_t shard)
{
    for (enum part part = 0; part < PART_COUNT; part++)
        row->parts[part].shard = shard;
}

/* A weight is never split over shards; one larger than the limit has a shard of its own. A row that is left out
 * takes no bytes, and must not open a shard. */
static size_t assign_by_size(struct plan_output *o, size_t weight_count, uint64_t shard_bytes)
{
    uint64_t used = PLAN_SHARD_BYTES_EMPTY;
    size_t header = 0, shard = 0;

    for (size_t i = 0; i < weight_count; i++) {
        uint64_t bytes = 0;
        size_t header_bytes = 0;
        plan_row_size(&o->rows[i], &bytes, &header_bytes);
        bool full = used + bytes > shard_bytes || header + header_bytes > PLAN_HEADER_BYTES;
        if (full && header > 0 && bytes > 0) {
            shard++;
            used = PLAN_SHARD_BYTES_EMPTY;
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

static void add_constant(struct buf *out, const struct place *place)
{
    const uint64_t dims[2] = {place->weight->rows, place->weight->cols};

    for (size_t i = 0; i < 2; i++) {
        uint8_t bytes[8];
        for (size_t k = 0; k < 8; k++)
            bytes[k] = (uint8_t)(dims[i] >> (8 * k));
        buf_add(out, bytes, place->shape_i64 ? 8 : 4);
    }
}

static bool lay_shard(const struct plan_output *o, struct plan_shard *s, struct place *places, size_t count,
                      struct err *e)
{
    struct tensor **tensors = mem_alloc((count + 1) * sizeof(*tensors));
    size_t align = o->data_align > 0 ? (size_t)o->data_align : SAFETENSORS_DATA_ALIGN;
    bool ok = false;

    for (size_t i = 0; i < count; i++)
        tensors[i] = places[i].tensor;
    if (!safetensors_layout_meta(&s->prefix, &safetensors_checkpoint_meta, 1, align, tensors, count, &s->bytes, e))
        goto done;
    for (size_t i = 0; i < count; i++)
        if (places[i].zone == ZONE_FIRST_CONSTANTS || places[i].zone == ZONE_LAST_CONSTANTS)
            add_constant(places[i].zone == ZONE_FIRST_CONSTANTS ? &s->prefix : &s->suffix, &places[i]);
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
        if (!lay_shard(o, &o->shards[shard], places + begin, end - begin, e))
            return false;
        o->file_bytes += o->shards[shard].bytes;
        begin = end;
    }
    return true;
}

bool plan_lay_out(struct plan *p, struct plan_output *o, struct err *e)
{
    size_t count = 0;
    struct place *places = list_places(o, p->weight_count, &count);

    move_odd_experts(o, places, count);
    bool ok = lay_shards(o, places, count, e);
    mem_free(places);
    return ok;
}

bool plan_layout(struct plan *p, struct plan_output *o, const struct plan_options *options, struct err *e)
{
    if (p->weight_count == 0)
        return err_set(e, ERR_FORMAT, "the checkpoint holds no weights");
    o->shard_count =
        options->keep_shards ? assign_like_source(p, o) : assign_by_size(o, p->weight_count, options->shard_bytes);
    o->shards = arena_array(&p->arena, o->shard_count, sizeof *o->shards);
    name_shards(p, o, options->keep_shards);
    return plan_lay_out(p, o, e);
}
