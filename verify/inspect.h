/* What is in a checkpoint, from its headers alone: sizes, what one token costs,
 * and what is wrong with it.
 *
 * Active parameters are the weights that one token's forward pass reads: all of
 * the main layers but the experts not chosen, the head, the final norm, and one
 * row of the embedding. For DeepSeek-V3 that is 36.6 B, published as 37 B; the
 * whole embedding table, from which a token takes one row, would make it
 * 37.6 B. The MTP layer is not part of it. */
#ifndef VERIFY_INSPECT_H
#define VERIFY_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/mem.h"
#include "formats/scheme.h"
#include "formats/weight.h"
#include "verify/lint.h"

struct inspect_sum {
    uint64_t weights;    /* logical: codes and scales are one */
    uint64_t parameters; /* without scales */
    uint64_t bytes;      /* of all parts */
};

/* One role group, stored one way, in the main layers or in the MTP ones. */
struct inspect_row {
    const char *group;
    bool mtp;
    enum role role; /* the first of the group in role order: rows are sorted by it */
    struct scheme scheme;
    char stored[SCHEME_TEXT];
    struct inspect_sum sum;
};

struct inspection {
    struct arena arena;
    const struct source *source;
    struct inspect_row *rows;
    size_t row_count;
    struct inspect_sum main, mtp, other; /* other: of unknown role, in neither of the first two */
    uint64_t active_parameters;
    uint64_t active_bytes;                    /* as stored, with scales: what decoding one token at batch 1 reads */
    uint64_t kv_latent_bytes, kv_heads_bytes; /* per token, BF16: MLA's latent; all heads' keys and values */
    uint64_t dense_layers, moe_layers;
    uint64_t mtp_layers_stored; /* with at least one weight */
    uint64_t file_bytes;
    struct quant_claim claim;
    const char *claimed; /* config.json's quantization in words */
    const char *stored;  /* the quantized schemes found, by role group, in words */
    struct findings findings;
};

void inspect_run(struct inspection *in, const struct source *source);
void inspect_release(struct inspection *in);

/* Reports, into a buffer. */
struct inspect_show {
    bool tensors;       /* list every tensor */
    bool findings_only; /* text: the findings and nothing else; nothing at all when there are none */
};
void inspect_print_text(const struct inspection *in, const struct inspect_show *show, struct buf *out);
void inspect_print_json(const struct inspection *in, const struct inspect_show *show, struct buf *out);

#endif
