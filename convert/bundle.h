/* What stands in a bundle beside its shards: index, config.json, side files
 * copied byte for byte, quern.json, and the README.md model card. */
#ifndef CONVERT_BUNDLE_H
#define CONVERT_BUNDLE_H

#include <stdbool.h>

#include "convert/plan.h"
#include "convert/proof.h"
#include "convert/run.h"
#include "convert/stage.h"
#include "formats/base/err.h"

struct bundle_options {
    const char *base_model; /* for the card's front matter, or NULL */
    struct proof *proofs;   /* one for each output; NULL: no fingerprint, and no word about it */
    struct fingerprint_options fingerprint;
};

/* config.json of one output, checked before the first byte is converted: what cannot be said there is refused early. */
bool bundle_config(const struct plan *p, const struct plan_output *o, struct buf *config, struct err *e) CHECKED;
/* Files of the source folder that travel along, sorted: all but weights, index, config.json, and what Quern writes
 * itself. */
bool bundle_side_files(const struct plan *p, struct arena *a, char ***names, size_t *count, struct err *e) CHECKED;
/* Whether all of them can be read, before the first weight is: not after hours. Notes what is left behind. */
bool bundle_check_side_files(const struct plan *p, struct err *e) CHECKED;
/* Everything but the shards, into the stage. */
bool bundle_write(struct plan *p, size_t output, const struct run_result *result, const struct bundle_options *options,
                  struct stage *stage, struct err *e) CHECKED;

/* The README.md text of one output. (card.c) */
void card_write(struct buf *out, const struct plan *p, size_t output, const struct run_result *result,
                const struct bundle_options *options);

#endif
