/* What is wrong with a checkpoint, as far as headers and config.json tell. Most
 * of it loads without a word in some engine and answers nonsense afterwards.
 * `quern inspect` and `quern verify` both ask here. */
#ifndef VERIFY_LINT_H
#define VERIFY_LINT_H

#include "formats/weight.h"
#include "verify/finding.h"
#include "verify/quant_claim.h"

struct lint {
    const struct source *source;
    const struct quant_claim *claim; /* NULL: it could not be read, which is said elsewhere */
    struct findings *findings;
};

/* All that follows. */
void lint_headers(const struct lint *l);

/* Weights that config.json promises, MTP layers, names without a place. */
void lint_promises(const struct lint *l);
/* quantization_config against what is stored: method, groups, format, ignore list. */
void lint_claims(const struct lint *l);
/* Static activation scales against quantization_config. (lint_static.c) */
void lint_static_claims(const struct lint *l);
/* What must stay wide: routers, their bias, norms. */
void lint_floors(const struct lint *l);
/* Tokenizer, generation config and other files beside the weights: there, readable, and of this vocabulary. Fails for
 * what the system refuses only. */
bool lint_side_files(const struct lint *l, struct err *e) CHECKED;

#endif
