/* (left, right) -> rank and id, the table behind the merges. Private to bpe*.c. */
#ifndef FORMATS_BPE_PAIRS_H
#define FORMATS_BPE_PAIRS_H

#include "formats/bpe.h"

struct bpe_pair {
    uint32_t left, right; /* left BPE_NONE: free */
    uint32_t rank, id;
};

/* A pair that is there already gets the new rank. */
void bpe_pair_put(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
/* rank BPE_NONE: they do not merge. */
struct bpe_pair bpe_pair_get(const struct bpe *b, uint32_t left, uint32_t right);

#endif
