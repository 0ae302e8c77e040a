/* Whether the outputs of two checkpoints can be held against each other, and what about their configs is worth saying.
 *
 * Sizes must agree: layers, widths, heads, experts. The vocabulary may differ by padding at its end, of up to
 * VOCAB_PADDING_MAX ids, of which the smaller number is compared. What changes the arithmetic but no size (rope, eps,
 * scoring, scaling) is what a comparison is there to show: a note. */
#ifndef VERIFY_MODEL_MATCH_H
#define VERIFY_MODEL_MATCH_H

#include "formats/arch.h"
#include "formats/base/mem.h"

#define VOCAB_PADDING_MAX 1024u

/* A model's sizes, and its other settings, as lines of "name value": what a golden file keeps. */
void model_describe(const struct arch *arch, struct buf *sizes, struct buf *settings);
/* Refuses, naming the first size that differs and both values. whose: "REF", "the golden file". */
bool model_match_sizes(const char *ref_sizes, const char *cand_sizes, const char *whose, struct err *e) CHECKED;
/* Appends "rope_theta is 10000 in REF and 5000 in CAND" for each setting, "; " between them; whether there are any. */
bool model_match_settings(const char *ref_settings, const char *cand_settings, const char *whose, struct buf *out);
/* How many ids both have; 0, with the error: they are too many apart. */
uint64_t model_match_vocab(uint64_t ref, uint64_t cand, const char *whose, struct err *e);
/* "deepseek_v3, 4 layers, hidden 256, vocabulary 4,096" */
void model_line(const struct arch *arch, struct buf *out);

#endif
