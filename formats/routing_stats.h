/* Which experts fired: per layer the count of tokens, the sum of routing weights
 * and the pairs of experts that fired for the same token; and, when wanted, the
 * choices themselves (a trace). Collected by a forward pass, token by token;
 * used to order, renumber and place experts.
 *
 * On disk it is one safetensors file. __metadata__: format "quern-routing",
 * version "1", config_sha256 (of config.json), function_sha256 (of what it says
 * that the model computes; older files lack it), routers_sha256 (of all router
 * matrices, which no renumbering keeps), experts, experts_per_token, layers
 * (without MTP), tokens. Tensors per layer L that was run, MTP's as well:
 *
 *     counts.L         I64 [experts]
 *     weight_sums.L    F64 [experts]
 *     coactivation.L   I64 [experts, experts], symmetric; the diagonal is counts
 *     trace.L          I32 [tokens, k], ascending in a row      (optional)
 *     trace_weights.L  F32 [tokens, k]                          (with a trace)
 *     sequences        I64 [s, 2], first token and count: the contexts in `tokens`
 *
 * An MTP layer may have seen fewer tokens than the others. Tensors of other names
 * are someone else's and ignored. */
#ifndef FORMATS_ROUTING_STATS_H
#define FORMATS_ROUTING_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/hash.h"
#include "formats/tensor_file.h"
#include "formats/weight.h"

#define ROUTING_EXPERTS_MAX (1u << 14) /* as config.json may say at most */
#define ROUTING_LAYERS_MAX  1100u      /* MTP's included */

struct routing_layer {
    uint64_t layer, tokens;
    int64_t *counts;       /* [experts] */
    double *weight_sums;   /* [experts]; added up in token order */
    int64_t *coactivation; /* [experts][experts] */
    int32_t *trace;        /* [tokens][experts_per_token]; NULL: none */
    float *trace_weights;  /* the same shape */
    size_t trace_room;     /* tokens */
};

struct routing_sequence {
    int64_t first, tokens;
};

struct routing_stats {
    uint64_t experts, experts_per_token, layers, tokens; /* tokens: of all sequences */
    char config_sha256[HASH_HEX_BYTES];
    char function_sha256[HASH_HEX_BYTES]; /* arch_function_sha256; "" when not known, as is the next */
    char routers_sha256[HASH_HEX_BYTES];
    bool with_trace;
    struct routing_layer *items; /* those that were run, ascending by layer */
    size_t count;
    struct routing_sequence *sequences;
    size_t sequence_count;
};

/* Empty statistics of a model; reads its routers, for their hash. ERR_UNSUPPORTED for one without routed experts. */
bool routing_stats_open(struct routing_stats *s, const struct source *source, bool with_trace, struct err *e) CHECKED;
/* The same from numbers: for made-up traces. */
void routing_stats_init(struct routing_stats *s, uint64_t experts, uint64_t experts_per_token, uint64_t layers,
                        const char *config_sha256, bool with_trace);
void routing_stats_release(struct routing_stats *s); /* idempotent */

/* The choices of `tokens` tokens in a layer, in token order: ids ascending per token, weights beside them, both
 * [tokens][experts_per_token]. Layers come in any order. Not for two threads at once. */
void routing_stats_add(struct routing_stats *s, uint64_t layer, const uint32_t *ids, const float *weights,
                       size_t tokens);
/* One more context of so many tokens. */
void routing_stats_add_sequence(struct routing_stats *s, uint64_t tokens);
/* from's tokens behind s's. Refuses statistics of another model. A trace survives when both have one. */
bool routing_stats_merge(struct routing_stats *s, const struct routing_stats *from, struct err *e) CHECKED;

/* NULL: the layer was not run. */
const struct routing_layer *routing_stats_layer(const struct routing_stats *s, uint64_t layer);

/* Whether the statistics are of this model, however its weights are stored: the function that config.json tells and the
 * routers are the same, and all layers but MTP's are covered. Of files that lack function_sha256, config.json must be
 * this one's, or the one that quern.json says it was made from. ERR_FORMAT naming both values. */
bool routing_stats_check(const struct routing_stats *s, const struct source *source, struct err *e) CHECKED;
/* SHA-256 over the router matrices in layer order. */
bool routing_routers_sha256(const struct source *source, char hex[HASH_HEX_BYTES], struct err *e) CHECKED;

/* ---- the file (routing_stats_file.c) ---- */

/* What the file holds, for whoever writes it with tensors of one's own beside; names in the arena. */
struct routing_file {
    struct safetensors_meta *metadata;
    size_t metadata_count;
    struct tensor_item *items; /* the widest types first */
    size_t count;
};
void routing_stats_list(const struct routing_stats *s, struct arena *a, struct routing_file *f);
bool routing_stats_write(const struct routing_stats *s, const char *path, struct err *e) CHECKED;
/* What does not add up is refused: pairs that are not symmetric, counts that no whole number of tokens gives, a trace
 * that its counts do not follow from. */
bool routing_stats_read(struct routing_stats *s, const char *path, struct err *e) CHECKED;
/* The same from the file's bytes. */
bool routing_stats_parse(struct routing_stats *s, const uint8_t *data, size_t bytes, struct err *e) CHECKED;

#endif
