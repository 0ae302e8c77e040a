#include "verify/expert_map.h"

#include <stdlib.h>
#include <string.h>

void expert_map_init(struct expert_map *m, uint64_t layers, uint64_t experts)
{
    *m = (struct expert_map){.layers = layers, .experts = experts};
    m->runs = mem_alloc((size_t)(layers * experts + 1) * sizeof *m->runs);
}

static struct expert_runs *runs_of(const struct expert_map *m, uint64_t layer, uint64_t expert)
{
    return &m->runs[layer * m->experts + expert];
}

const struct expert_runs *expert_map_get(const struct expert_map *m, uint64_t layer, uint64_t expert)
{
    return runs_of(m, layer, expert);
}

void expert_map_add(struct expert_map *m, uint64_t layer, uint64_t expert, uint32_t file, uint64_t offset,
                    uint64_t bytes)
{
    struct expert_runs *r = runs_of(m, layer, expert);

    if (bytes == 0)
        return;
    if (r->count == r->room) {
        r->room = r->room > 0 ? r->room * 2 : 6; /* three matrices with their scales */
        r->items = mem_grow(r->items, r->room, sizeof *r->items);
    }
    r->items[r->count++] = (struct expert_run){.file = file, .offset = offset, .bytes = bytes, .first_bytes = bytes};
}

static int compare_runs(const void *left, const void *right)
{
    const struct expert_run *a = left, *b = right;

    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Sorts and joins, in place. */
static size_t join(struct expert_run *runs, size_t count)
{
    size_t kept = 0;

    if (count == 0)
        return 0;
    qsort(runs, count, sizeof *runs, compare_runs);
    for (size_t i = 1; i < count; i++) {
        struct expert_run *last = &runs[kept];
        if (runs[i].file == last->file && runs[i].offset == last->offset + last->bytes) {
            last->bytes += runs[i].bytes;
        } else {
            runs[++kept] = runs[i];
        }
    }
    return kept + 1;
}

void expert_map_finish(struct expert_map *m)
{
    for (size_t i = 0; i < m->layers * m->experts; i++)
        m->runs[i].count = join(m->runs[i].items, m->runs[i].count);
}

void expert_map_open(struct expert_map *m, const struct source *s)
{
    expert_map_init(m, arch_layers_stored(&s->arch), s->arch.experts);
    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        if (w->id.expert < 0 || w->id.layer < 0)
            continue;
        for (enum part part = 0; part < PART_SHAPE; part++) {
            const struct tensor *t = w->parts[part];
            if (t)
                expert_map_add(m, (uint64_t)w->id.layer, (uint64_t)w->id.expert, t->shard, t->offset, t->bytes);
        }
    }
    expert_map_finish(m);
}

void expert_map_release(struct expert_map *m)
{
    for (size_t i = 0; m->runs && i < m->layers * m->experts; i++)
        mem_free(m->runs[i].items);
    mem_free(m->runs);
    *m = (struct expert_map){0};
}

/* ---- what a token costs ---- */

size_t expert_map_runs_max(const struct expert_map *m, size_t experts_per_token)
{
    size_t most = 0;

    for (size_t i = 0; i < m->layers * m->experts; i++)
        most = m->runs[i].count > most ? m->runs[i].count : most;
    return most * experts_per_token;
}

size_t expert_map_gather(const struct expert_map *m, uint64_t layer, const int32_t *ids, size_t count,
                         struct expert_run *out)
{
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        const struct expert_runs *r = runs_of(m, layer, (uint64_t)ids[i]);
        if (r->count > 0)
            memcpy(out + n, r->items, r->count * sizeof *out);
        n += r->count;
    }
    return join(out, n);
}

struct sums {
    double reads, bytes, begun, windows; /* begun: bytes of first tensors */
};

/* runs in file order: a window that two of them touch counts once. */
static void add_windows(const struct expert_run *runs, size_t count, uint64_t window_bytes, struct sums *s)
{
    uint64_t next = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t first = runs[i].offset / window_bytes;
        uint64_t past = (runs[i].offset + runs[i].bytes - 1) / window_bytes + 1;
        if (i == 0 || runs[i].file != runs[i - 1].file)
            next = 0;
        first = first < next ? next : first;
        s->windows += past > first ? (double)(past - first) : 0;
        next = past > next ? past : next;
    }
}

static void add_token(const struct expert_run *runs, size_t count, uint64_t window_bytes, struct sums *s)
{
    for (size_t i = 0; i < count; i++) {
        s->reads++;
        s->bytes += (double)runs[i].bytes;
        s->begun += (double)runs[i].first_bytes;
    }
    add_windows(runs, count, window_bytes, s);
}

static void count_experts(const struct expert_map *m, struct expert_cost *c)
{
    uint64_t experts = 0, reads = 0, bytes = 0;

    for (size_t i = 0; i < m->layers * m->experts; i++) {
        experts += m->runs[i].count > 0;
        reads += m->runs[i].count;
        for (size_t k = 0; k < m->runs[i].count; k++)
            bytes += m->runs[i].items[k].bytes;
    }
    c->reads_per_expert = experts > 0 ? (double)reads / (double)experts : 0;
    c->bytes_per_expert = experts > 0 ? (double)bytes / (double)experts : 0;
}

void expert_map_cost(const struct expert_map *m, const struct routing_stats *trace, uint64_t window_bytes,
                     struct expert_cost *cost)
{
    size_t k = (size_t)trace->experts_per_token;
    struct expert_run *runs = mem_alloc((expert_map_runs_max(m, k) + 1) * sizeof *runs);
    struct sums s = {0};

    *cost = (struct expert_cost){.tokens = trace->tokens};
    count_experts(m, cost);
    for (size_t i = 0; i < trace->count; i++) {
        const struct routing_layer *l = &trace->items[i];
        for (size_t t = 0; t < l->tokens && l->trace; t++) {
            add_token(runs, expert_map_gather(m, l->layer, l->trace + t * k, k, runs), window_bytes, &s);
            cost->experts += (double)k;
        }
    }
    double tokens = trace->tokens > 0 ? (double)trace->tokens : 1;
    cost->experts /= tokens;
    cost->reads = s.reads / tokens;
    cost->bytes = s.bytes / tokens;
    cost->windows = s.windows / tokens;
    cost->sequential = s.bytes > 0 ? 1 - s.begun / s.bytes : 0;
    mem_free(runs);
}
