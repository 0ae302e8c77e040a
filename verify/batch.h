/* Tokens to run together: contexts one behind the other, which do not see each
 * other. Everything is borrowed. */
#ifndef VERIFY_BATCH_H
#define VERIFY_BATCH_H

#include <stddef.h>
#include <stdint.h>

struct sequence {
    size_t first, tokens; /* first: index into the batch's ids */
    uint64_t start_pos;   /* position of its first token, 0 unless something comes before it */
};

struct batch {
    const uint32_t *ids;
    size_t tokens;
    const struct sequence *sequences; /* in order and without gaps: each starts where the last one ended */
    size_t sequence_count;
};

static inline size_t batch_longest(const struct batch *b)
{
    size_t longest = 0;

    for (size_t i = 0; i < b->sequence_count; i++)
        if (b->sequences[i].tokens > longest)
            longest = b->sequences[i].tokens;
    return longest;
}

#endif
