/* One token at a time behind a context, with the latents of what came before:
 * attention in its absorbed form. */
#ifndef VERIFY_STEP_H
#define VERIFY_STEP_H

#include "verify/forward.h"

/* Latents of one context. Zero holds nothing. */
struct cache {
    uint64_t start_pos;
    size_t tokens, room;
    size_t layers, width; /* width: kv_lora_rank, after its norm, + qk_rope_dim, turned */
    float *rows;          /* [layers][room][width] */
};
/* Room for a context of up to `room` tokens that starts at position start_pos. */
void cache_open(struct cache *c, const struct forward *f, uint64_t start_pos, size_t room);
void cache_release(struct cache *c);
void cache_put(struct cache *c, uint64_t layer, size_t first, size_t count, const float *latents);

/* An empty cache takes in a whole context at once, with plain attention; logits [vocab] of its last token. The
 * pass's batch is this context afterwards. */
bool forward_prefill(struct forward *f, struct cache *c, const uint32_t *ids, size_t count, float *logits,
                     struct err *e) CHECKED;
/* One more token: logits [vocab] of what comes behind it. */
bool forward_step(struct forward *f, struct cache *c, uint32_t id, float *logits, struct err *e) CHECKED;

#endif
