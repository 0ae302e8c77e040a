#include "convert/eplb.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

#include "formats/base/mem.h"
#include "formats/base/units.h"

bool eplb_check(const struct eplb_shape *s, struct err *e)
{
    if (s->groups == 0 || s->experts % s->groups != 0)
        return err_set(e, ERR_FORMAT, "%" PRIu64 " experts do not divide into %" PRIu64 " groups", s->experts,
                       s->groups);
    if (s->nodes == 0 || s->ranks == 0 || s->ranks % s->nodes != 0)
        return err_set(e, ERR_USAGE, "%" PRIu64 " rank%s not divide over %" PRIu64 " node%s", s->ranks,
                       s->ranks == 1 ? " does" : "s do", s->nodes, plural(s->nodes));
    if (s->replicas < s->experts)
        return err_set(e, ERR_USAGE, "%" PRIu64 " slot%s %s fewer than %" PRIu64 " experts", s->replicas,
                       plural(s->replicas), is_are(s->replicas), s->experts);
    return s->replicas % s->ranks == 0 ||
           err_set(e, ERR_USAGE,
                   "%" PRIu64 " experts and %" PRIu64 " redundant one%s do not divide over %" PRIu64 " ranks",
                   s->experts, s->replicas - s->experts, plural(s->replicas - s->experts), s->ranks);
}

bool eplb_is_hierarchical(const struct eplb_shape *s)
{
    return s->groups % s->nodes == 0;
}

struct item {
    float load;
    uint32_t index;
};

static int compare_items(const void *left, const void *right)
{
    const struct item *a = left, *b = right;

    if (a->load != b->load)
        return a->load > b->load ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static size_t least_loaded(const float *sums, const uint32_t *used, size_t bin_count, size_t capacity)
{
    size_t best = bin_count;

    for (size_t b = 0; b < bin_count; b++)
        if (used[b] < capacity && (best == bin_count || sums[b] < sums[best]))
            best = b;
    return best;
}

/* Items by descending load, each to the least loaded bin that is not full; position is the order of arrival. */
static void pack(const float *loads, size_t item_count, size_t bin_count, uint32_t *bin, uint32_t *position)
{
    size_t capacity = item_count / bin_count;
    struct item *items = mem_alloc(item_count * sizeof *items);
    float *sums = mem_alloc(bin_count * sizeof *sums);
    uint32_t *used = mem_alloc(bin_count * sizeof *used);

    for (size_t i = 0; i < item_count; i++)
        items[i] = (struct item){.load = loads[i], .index = (uint32_t)i};
    if (capacity > 1)
        qsort(items, item_count, sizeof *items, compare_items);
    for (size_t i = 0; i < item_count; i++) {
        size_t b = capacity > 1 ? least_loaded(sums, used, bin_count, capacity) : i;
        bin[items[i].index] = (uint32_t)b;
        position[items[i].index] = used[b]++;
        sums[b] += items[i].load;
    }
    mem_free(items);
    mem_free(sums);
    mem_free(used);
}

/* The experts in the order of the nodes that their groups went to: order[new] = expert. */
static void order_by_node(const struct eplb_shape *s, const float *loads, uint32_t *order)
{
    size_t group_count = (size_t)s->groups, width = (size_t)(s->experts / s->groups);
    size_t groups_per_node = (size_t)(s->groups / s->nodes);
    float *sums = mem_alloc(group_count * sizeof *sums);
    uint32_t *node = mem_alloc(group_count * sizeof *node), *position = mem_alloc(group_count * sizeof *position);

    for (size_t g = 0; g < group_count; g++)
        for (size_t i = 0; i < width; i++)
            sums[g] += loads[g * width + i];
    pack(sums, group_count, (size_t)s->nodes, node, position);
    for (size_t g = 0; g < group_count; g++)
        for (size_t i = 0; i < width; i++)
            order[(node[g] * groups_per_node + position[g]) * width + i] = (uint32_t)(g * width + i);
    mem_free(sums);
    mem_free(node);
    mem_free(position);
}

/* A node's experts and their copies: first one each, then again and again of the one with most load for a replica. */
struct node {
    size_t expert_count, slot_count;
    const uint32_t *experts; /* [expert_count] */
    uint32_t *slot_expert, *slot_replica;
    float *slot_load;
};

static void replicate(const struct node *n, const float *loads, uint32_t *counts)
{
    for (size_t i = 0; i < n->expert_count; i++) {
        n->slot_expert[i] = n->experts[i];
        n->slot_replica[i] = 0;
        counts[n->experts[i]] = 1;
    }
    for (size_t slot = n->expert_count; slot < n->slot_count; slot++) {
        uint32_t best = n->experts[0];
        for (size_t i = 1; i < n->expert_count; i++) {
            uint32_t x = n->experts[i];
            if (loads[x] / (float)counts[x] > loads[best] / (float)counts[best])
                best = x;
        }
        n->slot_expert[slot] = best;
        n->slot_replica[slot] = counts[best]++;
    }
    for (size_t slot = 0; slot < n->slot_count; slot++)
        n->slot_load[slot] = loads[n->slot_expert[slot]] / (float)counts[n->slot_expert[slot]];
}

void eplb_place(const struct eplb_shape *shape, const float *loads, uint32_t *slot_expert, uint32_t *slot_replica,
                uint32_t *counts)
{
    struct eplb_shape s = *shape;

    if (!eplb_is_hierarchical(&s))
        s.groups = s.nodes = 1;
    size_t per_node = (size_t)(s.replicas / s.nodes), ranks = (size_t)(s.ranks / s.nodes);
    uint32_t *order = mem_alloc(s.experts * sizeof *order);
    uint32_t *rank = mem_alloc(per_node * sizeof *rank), *position = mem_alloc(per_node * sizeof *position);
    struct node n = {
        .expert_count = (size_t)(s.experts / s.nodes),
        .slot_count = per_node,
        .slot_expert = mem_alloc(per_node * sizeof(uint32_t)),
        .slot_replica = mem_alloc(per_node * sizeof(uint32_t)),
        .slot_load = mem_alloc(per_node * sizeof(float)),
    };

    order_by_node(&s, loads, order);
    for (size_t k = 0; k < s.nodes; k++) {
        n.experts = order + k * n.expert_count;
        replicate(&n, loads, counts);
        pack(n.slot_load, per_node, ranks, rank, position);
        for (size_t i = 0; i < per_node; i++) {
            size_t slot = k * per_node + rank[i] * (per_node / ranks) + position[i];
            slot_expert[slot] = n.slot_expert[i];
            slot_replica[slot] = n.slot_replica[i];
        }
    }
    mem_free(order);
    mem_free(rank);
    mem_free(position);
    mem_free(n.slot_expert);
    mem_free(n.slot_replica);
    mem_free(n.slot_load);
}

void eplb_trivial(const struct eplb_shape *s, uint32_t *slot_expert, uint32_t *slot_replica, uint32_t *counts)
{
    for (size_t i = 0; i < s->experts; i++)
        counts[i] = 0;
    for (size_t i = 0; i < s->replicas; i++) {
        slot_expert[i] = (uint32_t)(i % s->experts);
        slot_replica[i] = counts[slot_expert[i]]++;
    }
}

double eplb_imbalance(const struct eplb_shape *s, const float *loads, const uint32_t *slot_expert,
                      const uint32_t *counts)
{
    size_t slots = (size_t)(s->replicas / s->ranks);
    double all = 0, most = 0;

    for (size_t r = 0; r < s->ranks; r++) {
        double sum = 0;
        for (size_t i = r * slots; i < (r + 1) * slots; i++)
            sum += (double)loads[slot_expert[i]] / counts[slot_expert[i]];
        all += sum;
        most = sum > most ? sum : most;
    }
    return all > 0 ? most * (double)s->ranks / all : 1;
}
