#include "verify/expert_place.h"

#include <assert.h>

#define RANGES_MAX (MLP_PARTS * PART_COUNT)
/* Tensors that are no further apart are read together with what lies between. */
#define GAP_BYTES ((uint64_t)64 << 10)
/* Below, a read costs its time and not its bytes, and the page cache may have it from the one before. */
#define DIRECT_BYTES_MIN ((uint64_t)256 << 10)

struct part_place {
    enum mlp_part matrix;
    enum part part;
    const struct tensor *tensor;
    size_t at; /* in the room */
};

struct range {
    size_t shard;
    uint64_t offset, bytes;
    size_t at;  /* of the room of its pages */
    bool loose; /* what is not aligned in its file is aligned here */
};

struct layout {
    struct part_place parts[RANGES_MAX];
    struct range ranges[RANGES_MAX];
    size_t part_count, range_count, room_bytes;
};

/* ---- where everything goes ---- */

static bool before(const struct tensor *a, const struct tensor *b)
{
    return a->shard != b->shard ? a->shard < b->shard : a->offset < b->offset;
}

/* As they lie in the checkpoint. */
static void list_parts(struct layout *l, const struct weight *const mlp[MLP_PARTS])
{
    for (enum mlp_part m = 0; m < MLP_PARTS; m++)
        for (enum part p = 0; p < PART_COUNT; p++) {
            const struct tensor *t = mlp[m]->parts[p];
            size_t i = l->part_count;
            if (!t || p == PART_SHAPE)
                continue;
            for (; i > 0 && before(t, l->parts[i - 1].tensor); i--)
                l->parts[i] = l->parts[i - 1];
            l->parts[i] = (struct part_place){m, p, t, 0};
            l->part_count++;
        }
}

static bool is_loose(const struct tensor *t)
{
    return t->offset % dtype_get(t->dtype)->block_bytes != 0;
}

static bool joins(const struct range *r, const struct tensor *t)
{
    uint64_t end = r->offset + r->bytes;

    return !r->loose && !is_loose(t) && r->shard == t->shard && t->offset >= end && t->offset - end <= GAP_BYTES;
}

static size_t range_room(const struct range *r)
{
    return (size_t)direct_room_bytes(r->loose ? 0 : r->offset, r->bytes);
}

static size_t range_lead(const struct range *r)
{
    return r->loose ? 0 : (size_t)(r->offset % EXPERT_ROOM_ALIGN);
}

static void lay_out(struct layout *l, const struct weight *const mlp[MLP_PARTS])
{
    l->part_count = l->range_count = l->room_bytes = 0;
    list_parts(l, mlp);
    for (size_t i = 0; i < l->part_count; i++) {
        struct part_place *p = &l->parts[i];
        const struct tensor *t = p->tensor;
        struct range *r = &l->ranges[l->range_count];
        if (l->range_count > 0 && joins(r - 1, t)) {
            r--;
            l->room_bytes -= range_room(r);
            r->bytes = t->offset + t->bytes - r->offset;
        } else {
            *r = (struct range){t->shard, t->offset, t->bytes, l->room_bytes, is_loose(t)};
            l->range_count++;
        }
        p->at = r->at + range_lead(r) + (size_t)(t->offset - r->offset);
        l->room_bytes += range_room(r);
    }
}

size_t expert_room_bytes(const struct weight *const mlp[MLP_PARTS])
{
    struct layout l;

    lay_out(&l, mlp);
    return l.room_bytes;
}

/* ---- reading ---- */

void expert_shards_release(struct expert_shards *s)
{
    for (size_t i = 0; i < EXPERT_SHARDS; i++)
        if (s->items[i].shard_plus_1)
            direct_close(&s->items[i].file);
    *s = (struct expert_shards){0};
}

static const struct direct *open_shard(struct expert_shards *s, size_t shard)
{
    for (size_t i = 0; i < EXPERT_SHARDS; i++)
        if (s->items[i].shard_plus_1 == shard + 1)
            return &s->items[i].file;
    size_t i = s->next++ % EXPERT_SHARDS;
    if (s->items[i].shard_plus_1)
        direct_close(&s->items[i].file);
    direct_open(&s->items[i].file, &s->source->checkpoint.shards[shard].file);
    s->items[i].shard_plus_1 = shard + 1;
    return &s->items[i].file;
}

static bool read_range(struct expert_shards *s, const struct range *r, uint8_t *room, struct err *e)
{
    const struct shard *shard = &s->source->checkpoint.shards[r->shard];

    if (shard->removed)
        return err_set(e, ERR_FORMAT, "shard '%s' was removed", shard->name);
    if (s->direct && !r->loose && r->bytes >= DIRECT_BYTES_MIN)
        return direct_read(open_shard(s, r->shard), r->offset, r->bytes, room + r->at, e);
    file_expect(&shard->file, r->offset, r->bytes);
    return file_read(&shard->file, r->offset, room + r->at + range_lead(r), (size_t)r->bytes, e);
}

static bool read_ranges(struct expert_shards *s, const struct layout *l, uint8_t *room)
{
    struct err unused = {0};

    for (size_t i = 0; i < l->range_count; i++)
        if (!read_range(s, &l->ranges[i], room, &unused))
            return false;
    return true;
}

/* Tensor by tensor in the order of weight_load, to find its words. */
static bool read_parts(const struct source *s, const struct weight *const mlp[MLP_PARTS],
                       const struct coded out[MLP_PARTS], struct err *e)
{
    for (enum mlp_part m = 0; m < MLP_PARTS; m++)
        for (enum part p = 0; p < PART_COUNT; p++)
            if (out[m].parts.part[p] && !checkpoint_read(&s->checkpoint, mlp[m]->parts[p], 0, out[m].parts.part[p],
                                                         (size_t)mlp[m]->parts[p]->bytes, e))
                return false;
    return true;
}

bool expert_read(struct expert_shards *s, const struct weight *const mlp[MLP_PARTS], uint8_t *room,
                 struct coded out[MLP_PARTS], struct err *e)
{
    struct layout l;

    assert((uintptr_t)room % EXPERT_ROOM_ALIGN == 0);
    lay_out(&l, mlp);
    for (enum mlp_part m = 0; m < MLP_PARTS; m++)
        out[m] = (struct coded){.scheme = mlp[m]->stored, .rows = mlp[m]->rows, .cols = mlp[m]->cols};
    for (size_t i = 0; i < l.part_count; i++)
        out[l.parts[i].matrix].parts.part[l.parts[i].part] = room + l.parts[i].at;
    return read_ranges(s, &l, room) || read_parts(s->source, mlp, out, e);
}
