/* The numbers that the routed experts of one model have in another one that is
 * the same but for them: renumbered by `quern repack`. A router's row goes with
 * its expert, so the rows tell. */
#ifndef VERIFY_EXPERT_NUMBERS_H
#define VERIFY_EXPERT_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/weight.h"

struct expert_numbers {
    uint64_t layers, experts;   /* layers: with MTP's */
    const uint32_t *const *was; /* [layers]: [experts] each, the number an expert had; NULL: they keep theirs */
};

/* Layers whose router has ref's rows in another order, each with its correction bias. Memory from the arena; ERR_IO and
 * the like alone. Nothing is found where a row is not the same to the bit. */
bool expert_numbers_find(struct expert_numbers *n, struct arena *a, const struct source *ref, const struct source *cand,
                         struct err *e) CHECKED;
size_t expert_numbers_layers(const struct expert_numbers *n); /* that are renumbered */
/* NULL: experts of this layer keep their numbers. */
const uint32_t *expert_numbers_of(const struct expert_numbers *n, uint64_t layer);
/* The choices of tokens, [tokens][top_k], in the numbers that were; ascending in a row. */
void expert_numbers_translate(const struct expert_numbers *n, uint64_t layer, uint32_t *ids, size_t tokens,
                              size_t top_k);

#endif
