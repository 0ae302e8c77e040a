/* The tensors of a DeepSeek-V3 checkpoint: names, dtypes, shapes and shards as
 * published, written as sparse files or filled. Sparse, a 689 GB checkpoint
 * takes 12 MB of disk, and everything that reads headers only can be tried at
 * real size. The names stand here a second time on purpose: what checks the reader's table
 * must not come from it. */
#ifndef GENERATE_V3_LAYOUT_H
#define GENERATE_V3_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/tensor.h"

#define V3_PIECE_BYTES ((size_t)1 << 20) /* of data, filled and written at once */

enum v3_store {
    V3_BF16,
    V3_FP8,  /* blocks of 128x128: what DeepSeek publishes */
    V3_INT4, /* routed experts in groups of 32, the rest BF16: what Kimi-K2-Thinking publishes */
};

struct v3_layout {
    uint64_t vocab, hidden, layers, dense_layers, mtp_layers;
    uint64_t heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim;
    uint64_t intermediate, moe_intermediate, experts, experts_per_token, groups, topk_groups;
    uint64_t shards;
    enum v3_store store;

    /* Called for each tensor before places are given: may change name (the string must live until the
     * layout is written), dtype and shape; false leaves the tensor out. NULL: as published. */
    bool (*edit)(void *ctx, struct tensor *t);
    /* The tensor's bytes; with neither of the two: holes, which read as zero. */
    void (*fill)(void *ctx, const struct tensor *t, void *data);
    /* Bytes [offset, offset + bytes) of it, offset a multiple of V3_PIECE_BYTES; called by several threads. */
    void (*fill_piece)(void *ctx, const struct tensor *t, uint64_t offset, void *data, size_t bytes);
    uint64_t threads; /* for fill_piece; 0: one per CPU */
    void *ctx;
    const char *config; /* config.json's text; NULL: made from the fields above */
};

/* The published numbers: 61 layers and one for MTP, 256 experts, 163 shards, 91,991 tensors. */
void v3_layout_published(struct v3_layout *l);
/* A small one of the same shape: 3 layers (1 dense) and MTP, hidden 256, 8 experts, 2 shards. */
void v3_layout_small(struct v3_layout *l);

/* Bytes of all tensors. */
bool v3_layout_bytes(const struct v3_layout *l, uint64_t *bytes, struct err *e) CHECKED;

/* config.json's text as v3_layout_write would make it; in the arena. */
const char *v3_layout_config(const struct v3_layout *l, struct arena *a);

/* Writes config.json, index and shards into dir, which is made if need be. */
bool v3_layout_write(const struct v3_layout *l, const char *dir, struct err *e) CHECKED;

#endif
