#include "formats/bpe_pairs.h"

#include <stdlib.h>

#define PAIR_ROOM_MIN 1024u

/* Fibonacci hashing of both ids: the high bits are the well mixed ones. */
static size_t pair_hash(uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;

    key = (key ^ key >> 29) * 0x9e3779b97f4a7c15u;
    return (size_t)(key >> 32);
}

/* Open addressing, at most half full: most pairs of a text are looked up in vain. */
static struct bpe_pair *pair_slot(const struct bpe *b, uint32_t left, uint32_t right)
{
    size_t mask = b->pair_room - 1;

    for (size_t i = pair_hash(left, right) & mask;; i = (i + 1) & mask) {
        struct bpe_pair *p = &b->pairs[i];
        if (p->left == BPE_NONE || (p->left == left && p->right == right))
            return p;
    }
}

static void grow_pairs(struct bpe *b)
{
    struct bpe_pair *old = b->pairs;
    size_t old_room = b->pair_room;

    b->pair_room = old_room ? old_room * 2 : PAIR_ROOM_MIN;
    b->pairs = mem_alloc(b->pair_room * sizeof *b->pairs);
    for (size_t i = 0; i < b->pair_room; i++)
        b->pairs[i].left = BPE_NONE;
    for (size_t i = 0; i < old_room; i++)
        if (old[i].left != BPE_NONE)
            *pair_slot(b, old[i].left, old[i].right) = old[i];
    mem_free(old);
}

void bpe_pair_put(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    if (b->pair_count >= b->pair_room / 2)
        grow_pairs(b);
    struct bpe_pair *p = pair_slot(b, left, right);
    b->pair_count += p->left == BPE_NONE;
    *p = (struct bpe_pair){.left = left, .right = right, .rank = rank, .id = id};
}

struct bpe_pair bpe_pair_get(const struct bpe *b, uint32_t left, uint32_t right)
{
    const struct bpe_pair none = {.left = left, .right = right, .rank = BPE_NONE, .id = BPE_NONE};

    if (!b->pair_room)
        return none;
    const struct bpe_pair *p = pair_slot(b, left, right);
    return p->left == BPE_NONE ? none : *p;
}
