/* An expert in one piece of memory: its matrices as they are stored, read in as
 * few ranges as its tensors lie in. */
#ifndef VERIFY_EXPERT_PLACE_H
#define VERIFY_EXPERT_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/direct.h"
#include "verify/layer_weights.h"

/* Of any room: what is read past the page cache begins on one. */
#define EXPERT_ROOM_ALIGN DIRECT_PAGE_BYTES

/* Shards opened past the page cache: the last few that were read. Zero holds nothing. Of one thread. */
#define EXPERT_SHARDS 4u
struct expert_shards {
    const struct source *source;
    bool direct; /* false: everything goes through the page cache */
    struct {
        size_t shard_plus_1; /* 0: none */
        struct direct file;
    } items[EXPERT_SHARDS];
    size_t next;
};
void expert_shards_release(struct expert_shards *s);

/* The room that an expert takes, a multiple of EXPERT_ROOM_ALIGN. */
size_t expert_room_bytes(const struct weight *const mlp[MLP_PARTS]);
/* Reads it, and out's parts point into the room. Codes are aligned as their dtype, no further. Errors are
 * weight_load's. */
bool expert_read(struct expert_shards *s, const struct weight *const mlp[MLP_PARTS], uint8_t *room,
                 struct coded out[MLP_PARTS], struct err *e) CHECKED;

#endif
