/* What config.json's quantization_config says about a weight, to be held
 * against how the weight is stored: engines believe the former. */
#ifndef VERIFY_QUANT_CLAIM_H
#define VERIFY_QUANT_CLAIM_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/scheme.h"
#include "formats/weight.h"

struct quant_claim {
    struct arena arena;
    enum arch_quant quant;
    struct claim_group *groups;
    size_t group_count;
    struct claim_name *ignore;
    size_t ignore_count;
};

/* config: config.json's bytes. A quantization_config that makes no sense is an error; none at all is not. */
bool quant_claim_open(struct quant_claim *q, const struct arch *arch, const char *config, size_t bytes,
                      struct err *e) CHECKED;
void quant_claim_close(struct quant_claim *q);

/* true: the engine will look for this weight in *claimed, of which kind, block, group, asymmetric and static_input are
 * set (SCHEME_RAW: quantized in a way not known here). false: it will look for plain numbers. */
bool quant_claim_find(const struct quant_claim *q, const struct weight *w, struct scheme *claimed);
/* Whether a stored scheme is what a claim says. */
bool quant_claim_fits(const struct scheme *claimed, const struct scheme *stored);

/* Whether the format that config.json names for a claimed weight is the one its scheme is written in; *format: which
 * that is, or NULL. True for what is not claimed. */
bool quant_claim_format_fits(const struct quant_claim *q, const struct weight *w, const char **format);
/* Names of the ignore list that are no module and no pattern of one. */
void quant_claim_unmatched(const struct quant_claim *q, const struct weights *weights,
                           void (*say)(void *ctx, const char *name), void *ctx);

/* "fp8 128x128", "compressed-tensors pack-quantized: int4 g128", "none"; in the arena. */
const char *quant_claim_text(struct quant_claim *q, const struct arch *arch);

#endif
