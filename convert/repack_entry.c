#include "convert/repack_entry.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- whole weights ---- */

typedef char *renamer(const struct entry_list *l, const char *name);

static void set_names(const struct entry_list *l, struct entry *entry, renamer *rename)
{
    entry->weight->name = rename(l, entry->weight->name);
    entry->weight->module = rename(l, entry->weight->module);
    for (enum part part = 0; part < PART_COUNT; part++)
        if (entry->row.parts[part].dtype != DTYPE_NONE)
            entry->row.parts[part].name = rename(l, entry->row.parts[part].name);
}

struct entry *entry_add(struct entry_list *l, const struct weight *w)
{
    struct entry *entry = NULL;

    if (l->count == l->room) {
        l->room = l->room > 0 ? l->room * 2 : 256;
        l->items = mem_grow(l->items, l->room, sizeof *l->items);
    }
    entry = &l->items[l->count++];
    *entry = (struct entry){.weight = arena_alloc(l->arena, sizeof *w), .why = "kept", .sequence = l->sequence};
    *entry->weight = *w;
    entry->weight->input_scale = NULL;
    entry->row.scheme = w->stored;
    entry->row.scheme.method = METHOD_COPY;
    for (enum part part = 0; part < PART_COUNT; part++)
        if (w->parts[part])
            entry->row.parts[part] = *w->parts[part];
    return entry;
}

void entry_rename_expert(struct entry_list *l, struct entry *entry, uint64_t expert)
{
    entry->weight->name = arch_expert_name(l->arena, entry->weight->name, expert);
    entry->weight->module = arch_expert_name(l->arena, entry->weight->module, expert);
    entry->weight->id.module_bytes = (uint32_t)strlen(entry->weight->module);
    entry->weight->id.expert = (int64_t)expert;
    for (enum part part = 0; part < PART_COUNT; part++)
        if (entry->row.parts[part].dtype != DTYPE_NONE)
            entry->row.parts[part].name = arch_expert_name(l->arena, entry->row.parts[part].name, expert);
}

/* ---- model-parallel ranks ---- */

static char *mp_name(const struct entry_list *l, const char *name)
{
    return repack_mp_name(l->arena, name);
}

static void add_to_rank(struct entry_list *l, const struct weight *w, uint64_t rank)
{
    struct entry *entry = entry_add(l, w);

    entry->set = entry_set_of_rank(rank, false);
    set_names(l, entry, mp_name);
}

static bool check_split(const struct weight *w, uint64_t ranks, int dimension, struct err *e)
{
    uint64_t size = dimension == 0 ? w->rows : w->cols;
    uint32_t multiple = dimension == 0 ? scheme_row_multiple(&w->stored) : scheme_col_multiple(&w->stored);
    const char *what = dimension == 0 ? "rows" : "columns";

    if (w->parts[PART_CODES]->rank != 2)
        return err_set(e, ERR_UNSUPPORTED, "tensor '%s' is no matrix, and cannot be split over ranks", w->name);
    if (size % ranks != 0)
        return err_set(e, ERR_UNSUPPORTED, "tensor '%s' has %" PRIu64 " %s, which %" PRIu64 " ranks do not divide",
                       w->name, size, what, ranks);
    return size / ranks % multiple == 0 ||
           err_set(e, ERR_UNSUPPORTED,
                   "tensor '%s': a rank's %" PRIu64 " of %" PRIu64 " %s would cut a block of %" PRIu32, w->name,
                   size / ranks, size, what, multiple);
}

/* The shapes that a share of the weight has; a scale of one dimension stays so. */
static bool shape_parts(struct entry *entry, struct err *e)
{
    const struct weight *w = entry->weight;
    struct part_layout layout[PART_COUNT] = {0};

    if (!scheme_layout(&w->stored, w->rows, w->cols, layout, e))
        return err_in(e, "'%s'", w->name);
    for (enum part part = 0; part < PART_SHAPE; part++) {
        struct tensor *t = &entry->row.parts[part];
        if (t->dtype == DTYPE_NONE)
            continue;
        for (uint32_t i = 0; i < t->rank; i++)
            t->dims[i] = layout[part].dims[i];
        t->bytes = layout[part].bytes;
    }
    return true;
}

static bool add_share(struct entry_list *l, const struct weight *w, uint64_t rank, int dimension, struct err *e)
{
    uint64_t ranks = l->target->mp;
    struct entry *entry = entry_add(l, w);
    struct weight *own = entry->weight;

    entry->set = entry_set_of_rank(rank, false);
    entry->why =
        arena_printf(l->arena, "%s of rank %" PRIu64 " of %" PRIu64, dimension == 0 ? "rows" : "columns", rank, ranks);
    entry->piece = arena_alloc(l->arena, sizeof *entry->piece);
    *entry->piece = (struct plan_piece){.rows = w->rows, .cols = w->cols};
    if (dimension == 0) {
        own->rows /= ranks;
        entry->piece->row = rank * own->rows;
    } else {
        own->cols /= ranks;
        entry->piece->col = rank * own->cols;
    }
    set_names(l, entry, mp_name);
    return shape_parts(entry, e);
}

static void drop(struct entry_list *l, const struct weight *w, const char *why)
{
    l->drops[l->drop_count++] = (struct plan_drop){.name = w->parts[PART_CODES]->name, .why = why};
}

bool entry_add_split(struct entry_list *l, const struct weight *w, const struct arch *arch, struct err *e)
{
    uint64_t ranks = l->target->mp;
    bool splits = w->id.part == NAME_WEIGHT || w->id.part == NAME_PACKED || w->id.part == NAME_BIAS;
    int dimension = splits ? repack_mp_dimension(w->id.role) : -1;

    if (w->id.layer >= (int64_t)arch->layers)
        drop(l, w, "DeepSeek's inference code has no MTP layer");
    else if (w->id.role == ROLE_ROPE_CACHE)
        drop(l, w, "a stale rotary cache that no engine reads");
    else if (w->id.expert >= 0)
        add_to_rank(l, w, (uint64_t)w->id.expert / (arch->experts / ranks));
    else if (dimension >= 0 && ranks > 1 && !check_split(w, ranks, dimension, e))
        return false;
    else
        for (uint64_t rank = 0; rank < ranks; rank++) {
            if (dimension < 0 || ranks == 1)
                add_to_rank(l, w, rank);
            else if (!add_share(l, w, rank, dimension, e))
                return false;
        }
    return true;
}

/* ---- sets of shards ---- */

uint32_t entry_set_of_rank(uint64_t rank, bool replicas)
{
    return (uint32_t)(1 + 2 * rank + replicas);
}

char *entry_shard_name(struct arena *a, const struct repack_target *t, uint32_t set, size_t number, size_t count)
{
    unsigned rank = (set - 1) / 2;

    if (t->mp > 0)
        return arena_printf(a, "model%u-mp%" PRIu64 ".safetensors", rank, t->mp);
    if (t->by_rank && set == 0)
        return arena_printf(a, "model-shared-%05zu-of-%05zu.safetensors", number, count);
    if (t->by_rank)
        return arena_printf(a, "%s-rank-%03u-%05zu-of-%05zu.safetensors", set % 2 ? "model" : "replicas", rank, number,
                            count);
    if (count == 1)
        return arena_strdup(a, "model.safetensors");
    return arena_printf(a, "model-%05zu-of-%05zu.safetensors", number, count);
}

bool entry_same_unit(const struct entry *a, const struct entry *b)
{
    return a == b || (a->expert && b->expert && a->set == b->set && a->weight->id.layer == b->weight->id.layer &&
                      a->place == b->place);
}

/* ---- order ---- */

/* What stands before the first layer, and behind the last. */
static int64_t layer_key(const struct entry *entry)
{
    if (entry->weight->id.layer >= 0)
        return entry->weight->id.layer;
    return entry->weight->id.role == ROLE_EMBED ? -1 : INT64_MAX;
}

static int compare_u64(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int compare_in_layer(const struct entry *a, const struct entry *b)
{
    if (a->expert != b->expert)
        return a->expert ? -1 : 1;
    if (a->expert && a->place != b->place)
        return compare_u64(a->place, b->place);
    if (a->expert && a->weight->id.role != b->weight->id.role)
        return a->weight->id.role < b->weight->id.role ? -1 : 1; /* gate, up, down */
    return compare_u64(a->sequence, b->sequence);
}

static int compare_entries(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    int64_t layer_a = layer_key(a), layer_b = layer_key(b);

    if (a->set != b->set)
        return compare_u64(a->set, b->set);
    if (layer_a != layer_b)
        return layer_a < layer_b ? -1 : 1;
    return compare_in_layer(a, b);
}

static int compare_by_shard(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;

    if (a->shard != b->shard)
        return compare_u64(a->shard, b->shard);
    if (a->expert != b->expert)
        return a->expert ? -1 : 1;
    return compare_u64(a->order, b->order);
}

static int compare_by_source(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;

    if (a->sequence != b->sequence)
        return compare_u64(a->sequence, b->sequence);
    return compare_u64(a->set, b->set);
}

static void sort(struct entry_list *l, int (*compare)(const void *, const void *))
{
    if (l->count > 0)
        qsort(l->items, l->count, sizeof *l->items, compare);
    for (size_t i = 0; i < l->count; i++)
        l->items[i].order = i;
}

void entry_sort(struct entry_list *l)
{
    sort(l, compare_entries);
}

void entry_sort_by_shard(struct entry_list *l)
{
    sort(l, compare_by_shard);
}

void entry_sort_by_source(struct entry_list *l)
{
    sort(l, compare_by_source);
}

void entry_list_release(struct entry_list *l)
{
    mem_free(l->items);
    l->items = NULL;
    l->count = l->room = 0;
}
