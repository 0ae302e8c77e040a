/* The rows of a repacked checkpoint. First a list of entries, one for each weight that comes out, sorted into the order
 * in which a reader wants them; then shards; then the plan's own arrays. */
#include "convert/repack_plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "convert/repack_entry.h"
#include "formats/base/log.h"

/* ---- what comes out ---- */

static bool refuse_unknown(const struct source *s, const struct repack_target *t, struct err *e)
{
    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        if (w->id.role != ROLE_UNKNOWN)
            continue;
        if (!t->keep_unknown)
            return err_set(e, ERR_UNSUPPORTED,
                           "tensor '%s' has no place in this architecture; --keep-unknown copies such tensors",
                           w->name);
        if (t->renumber && strstr(w->name, ".mlp."))
            return err_set(e, ERR_UNSUPPORTED,
                           "tensor '%s' has no place in this architecture: whether it counts experts is not known, so "
                           "they cannot be renumbered",
                           w->name);
    }
    return true;
}

static bool is_router(const struct weight *w)
{
    return w->id.role == ROLE_ROUTER || w->id.role == ROLE_ROUTER_BIAS;
}

/* Router rows and correction bias in the order of the new numbers. */
static bool add_router(struct entry_list *l, const struct weight *w, struct err *e)
{
    const struct repack_target *t = l->target;
    const struct expert_order *order = expert_orders_find(t->orders, (uint64_t)w->id.layer);
    struct entry *entry = NULL;
    bool vector = w->rows == 1 && w->cols == t->orders->experts;

    if (w->stored.kind != SCHEME_RAW && w->stored.kind != SCHEME_PLAIN)
        return err_set(e, ERR_UNSUPPORTED, "tensor '%s' is quantized: its rows cannot be renumbered", w->name);
    if (!order || (!vector && w->rows != t->orders->experts))
        return err_set(e, ERR_FORMAT, "tensor '%s' has %" PRIu64 " rows for %" PRIu64 " experts", w->name, w->rows,
                       t->orders->experts);
    entry = entry_add(l, w);
    entry->piece = arena_alloc(l->arena, sizeof *entry->piece);
    if (vector) {
        entry->weight->rows = w->cols;
        entry->weight->cols = 1;
    }
    *entry->piece =
        (struct plan_piece){.rows = entry->weight->rows, .cols = entry->weight->cols, .row_order = order->experts};
    entry->why = "rows in the order of the experts' new numbers";
    return true;
}

static void place_expert(struct entry_list *l, struct entry *entry, const struct expert_order *order, uint32_t place)
{
    uint32_t old = order->experts[place];

    entry->place = place;
    entry->expert = true;
    if (!l->target->renumber) {
        entry->why = arena_printf(l->arena, "at place %" PRIu32 " of its layer", place);
        return;
    }
    entry_rename_expert(l, entry, place);
    entry->why = arena_printf(l->arena, "expert %" PRIu32 " until now", old);
}

/* An expert in the set of its rank; its replicas in those of others, which only they open. */
static void add_expert(struct entry_list *l, const struct weight *w)
{
    const struct repack_target *t = l->target;
    const struct expert_order *order = expert_orders_find(t->orders, (uint64_t)w->id.layer);
    uint32_t place = order->place[w->id.expert], number = t->renumber ? place : (uint32_t)w->id.expert;
    struct entry *entry = entry_add(l, w);

    place_expert(l, entry, order, place);
    if (!t->by_rank)
        return;
    const struct placement_layer *layer = placement_find(t->by_rank, (uint64_t)w->id.layer);
    uint64_t per_rank = t->by_rank->shape.replicas / t->by_rank->shape.ranks;
    uint64_t home = placement_rank(t->by_rank, layer, number), last = home;
    entry->set = entry_set_of_rank(home, false);
    for (uint64_t slot = 0; slot < t->by_rank->shape.replicas; slot++) {
        uint64_t rank = slot / per_rank;
        if (layer->slot_expert[slot] != number || rank == home || rank == last)
            continue; /* two replicas on one rank are one file's */
        last = rank;
        entry = entry_add(l, w);
        place_expert(l, entry, order, place);
        entry->set = entry_set_of_rank(rank, true);
        entry->unlisted = true;
    }
}

static bool add_weight(struct entry_list *l, const struct weight *w, struct err *e)
{
    if (l->target->renumber && is_router(w))
        return add_router(l, w, e);
    if (w->id.expert >= 0 && w->id.layer >= 0 && expert_orders_find(l->target->orders, (uint64_t)w->id.layer))
        add_expert(l, w);
    else
        entry_add(l, w);
    return true;
}

static bool add_any(struct entry_list *l, const struct source *s, const struct weight *w, struct err *e)
{
    l->sequence++;
    return l->target->mp > 0 ? entry_add_split(l, w, &s->arch, e) : add_weight(l, w, e);
}

static bool list_entries(struct entry_list *l, const struct source *s, struct err *e)
{
    l->drops = arena_array(l->arena, s->weights.count * 2 + 1, sizeof *l->drops);
    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        if (!add_any(l, s, w, e) || (w->input_scale && !add_any(l, s, plan_input_scale(l->arena, w), e)))
            return false;
    }
    return true;
}

/* ---- shards ---- */

/* Entries of a unit stay together; a set begins a shard, and one of ranks that read a single file has no other. */
static size_t assign_shards(struct entry_list *l, const struct repack_target *t)
{
    uint64_t used = PLAN_SHARD_BYTES_EMPTY;
    size_t header = 0, shard = 0;

    for (size_t begin = 0, end = 0; begin < l->count; begin = end) {
        uint64_t bytes = 0;
        size_t header_bytes = 0;
        for (end = begin; end < l->count && entry_same_unit(&l->items[begin], &l->items[end]); end++) {
            uint64_t b = 0;
            size_t h = 0;
            plan_row_size(&l->items[end].row, &b, &h);
            bytes += b;
            header_bytes += h;
        }
        bool full =
            t->mp == 0 && header > 0 && (used + bytes > t->shard_bytes || header + header_bytes > PLAN_HEADER_BYTES);
        if (begin > 0 && (l->items[begin].set != l->items[begin - 1].set || full)) {
            shard++;
            used = PLAN_SHARD_BYTES_EMPTY;
            header = 0;
        }
        for (size_t i = begin; i < end; i++)
            l->items[i].shard = (uint32_t)shard;
        used += bytes;
        header += header_bytes;
    }
    return l->count > 0 ? shard + 1 : 0;
}

static void name_shards(struct plan *p, struct plan_output *o, const struct entry_list *l)
{
    for (size_t i = 0; i < l->count;) {
        size_t end = i, first = l->items[i].shard;
        while (end < l->count && l->items[end].set == l->items[i].set)
            end++;
        size_t count = l->items[end - 1].shard - first + 1;
        for (size_t k = 0; k < count; k++)
            o->shards[first + k].name = entry_shard_name(&p->arena, l->target, l->items[i].set, k + 1, count);
        i = end;
    }
}

/* ---- the plan ---- */

static void fill_rows(struct plan *p, struct plan_output *o, struct entry_list *l)
{
    p->weights = arena_array(&p->arena, l->count, sizeof(*p->weights));
    p->pieces = arena_array(&p->arena, l->count, sizeof(*p->pieces));
    o->rows = arena_array(&p->arena, l->count, sizeof *o->rows);
    p->weight_count = l->count;
    for (size_t i = 0; i < l->count; i++) {
        struct entry *entry = &l->items[i];
        p->weights[i] = entry->weight;
        p->pieces[i] = entry->piece;
        o->rows[i] = entry->row;
        o->rows[i].weight = entry->weight;
        o->rows[i].why = entry->why;
        o->rows[i].unlisted = entry->unlisted;
        for (enum part part = 0; part < PART_COUNT; part++)
            o->rows[i].parts[part].shard = entry->shard;
    }
}

static bool open_output(struct plan *p, struct entry_list *l, const struct repack_target *t, struct err *e)
{
    struct plan_output *o = arena_alloc(&p->arena, sizeof *o);

    *o = (struct plan_output){
        .dir = t->dir,
        .recipe = t->recipe,
        .zones = t->mp > 0 ? ZONES_CONVERT : t->zones,
        .data_align = t->align,
        .no_index = t->mp > 0,
    };
    p->outputs = o;
    entry_sort(l);
    o->shard_count = assign_shards(l, t);
    o->shards = arena_array(&p->arena, o->shard_count, sizeof *o->shards);
    p->output_count = 1;
    name_shards(p, o, l);
    if (t->mp == 0)
        entry_sort_by_shard(l);
    else
        entry_sort_by_source(l);
    fill_rows(p, o, l);
    return plan_lay_out(p, o, e);
}

/* Lists of modules in config.json may speak of experts by number: such a one is made anew, from the new names. */
static bool numbers_experts(const struct checkpoint *c)
{
    static const char mark[] = ".experts.";

    for (const char *at = strstr(c->config, mark); at; at = strstr(at + 1, mark))
        if (at[strlen(mark)] >= '0' && at[strlen(mark)] <= '9')
            return true;
    return false;
}

bool repack_plan_open(struct plan *p, const struct source *s, const struct repack_target *t, struct err *e)
{
    struct entry_list l = {.target = t};
    bool ok = false;

    *p = (struct plan){.source = s};
    p->copies_unseen = true; /* the same numbers elsewhere, whatever they are: verify --deep judges them */
    p->same_config = !(t->renumber && numbers_experts(&s->checkpoint));
    l.arena = &p->arena;
    if (!refuse_unknown(s, t, e) || !list_entries(&l, s, e) || !open_output(p, &l, t, e))
        goto done;
    p->outputs[0].drops = l.drops;
    p->outputs[0].drop_count = l.drop_count;
    plan_cut_jobs(p);
    ok = true;
done:
    entry_list_release(&l);
    if (!ok)
        plan_close(p);
    return ok;
}
