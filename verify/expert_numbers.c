#include "verify/expert_numbers.h"

#include <stdlib.h>
#include <string.h>

/* A router's matrix or bias on both sides, as stored. */
struct both {
    const struct tensor *t[2];
    uint8_t *bytes[2];
    size_t row_bytes;
};

static const struct tensor *find_router(const struct source *s, uint64_t layer, enum role role)
{
    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        if (w->id.role == role && w->id.layer == (int64_t)layer && w->id.part == NAME_WEIGHT)
            return w->parts[PART_CODES];
    }
    return NULL;
}

/* False: they are not such as could be held together, or a side has none. */
static bool both_find(struct both *b, const struct source *ref, const struct source *cand, uint64_t layer,
                      enum role role)
{
    uint64_t experts = ref->arch.experts;

    *b = (struct both){.t = {find_router(ref, layer, role), find_router(cand, layer, role)}};
    if (!b->t[0] || !b->t[1] || b->t[0]->dtype != b->t[1]->dtype || b->t[0]->bytes != b->t[1]->bytes ||
        b->t[0]->rank == 0 || b->t[0]->dims[0] != experts || b->t[1]->dims[0] != experts)
        return false;
    b->row_bytes = (size_t)(b->t[0]->bytes / experts);
    return true;
}

static bool both_read(struct both *b, const struct source *ref, const struct source *cand, struct err *e)
{
    const struct source *side[] = {ref, cand};

    for (size_t s = 0; s < 2; s++) {
        b->bytes[s] = mem_alloc((size_t)b->t[s]->bytes + 1);
        if (!checkpoint_read(&side[s]->checkpoint, b->t[s], 0, b->bytes[s], (size_t)b->t[s]->bytes, e))
            return err_in(e, "'%s'", side[s]->checkpoint.path);
    }
    return true;
}

static void both_release(struct both *b)
{
    mem_free(b->bytes[0]);
    mem_free(b->bytes[1]);
}

static bool same_row(const struct both *b, size_t ref, size_t cand)
{
    return b->row_bytes == 0 ||
           memcmp(b->bytes[0] + ref * b->row_bytes, b->bytes[1] + cand * b->row_bytes, b->row_bytes) == 0;
}

/* Each row of cand is one of ref's that no row before it is. Returns whether that is so, and *moved whether any has
 * another place. */
static bool match_rows(const struct both *weight, const struct both *bias, uint32_t *was, size_t experts, bool *moved)
{
    bool *taken = mem_alloc(experts + 1), ok = true;

    *moved = false;
    for (size_t i = 0; i < experts && ok; i++) {
        size_t from = 0;
        while (from < experts && (taken[from] || !same_row(weight, from, i) || !same_row(bias, from, i)))
            from++;
        ok = from < experts;
        if (!ok)
            break;
        taken[from] = true;
        was[i] = (uint32_t)from;
        *moved |= from != i;
    }
    mem_free(taken);
    return ok;
}

static bool find_layer(const uint32_t **was, struct arena *a, const struct source *ref, const struct source *cand,
                       uint64_t layer, struct err *e)
{
    struct both weight = {0}, bias = {0};
    size_t experts = (size_t)ref->arch.experts;
    uint32_t *order = NULL;
    bool moved = false, ok = true;

    if (!both_find(&weight, ref, cand, layer, ROLE_ROUTER))
        return true;
    bool has_bias = both_find(&bias, ref, cand, layer, ROLE_ROUTER_BIAS);
    if (!has_bias && (bias.t[0] || bias.t[1]))
        return true;
    ok = both_read(&weight, ref, cand, e) && (!has_bias || both_read(&bias, ref, cand, e));
    if (ok) {
        order = arena_array(a, experts, sizeof *order);
        if (match_rows(&weight, &bias, order, experts, &moved) && moved)
            *was = order;
    }
    both_release(&weight);
    both_release(&bias);
    return ok;
}

bool expert_numbers_find(struct expert_numbers *n, struct arena *a, const struct source *ref, const struct source *cand,
                         struct err *e)
{
    uint64_t layers = arch_layers_stored(&ref->arch);
    const uint32_t **was = arena_array(a, (size_t)layers + 1, sizeof *was);

    *n = (struct expert_numbers){.layers = layers, .experts = ref->arch.experts, .was = was};
    if (ref->arch.experts == 0 || ref->arch.experts != cand->arch.experts)
        return true;
    for (uint64_t layer = 0; layer < layers; layer++)
        if (!find_layer(&was[layer], a, ref, cand, layer, e))
            return false;
    return true;
}

size_t expert_numbers_layers(const struct expert_numbers *n)
{
    size_t count = 0;

    for (uint64_t layer = 0; layer < n->layers; layer++)
        count += n->was[layer] != NULL;
    return count;
}

const uint32_t *expert_numbers_of(const struct expert_numbers *n, uint64_t layer)
{
    return layer < n->layers ? n->was[layer] : NULL;
}

static int compare_ids(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

void expert_numbers_translate(const struct expert_numbers *n, uint64_t layer, uint32_t *ids, size_t tokens,
                              size_t top_k)
{
    const uint32_t *was = expert_numbers_of(n, layer);

    for (size_t t = 0; was && t < tokens; t++) {
        for (size_t i = 0; i < top_k; i++)
            ids[t * top_k + i] = was[ids[t * top_k + i]];
        qsort(ids + t * top_k, top_k, sizeof *ids, compare_ids);
    }
}
