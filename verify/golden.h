/* Golden files: what the reference said about a text, small enough for a repository. A candidate is held against it
 * without the reference being there.
 *
 * One safetensors file. __metadata__: format "quern-golden", version "1", sizes and settings (verify/model_match.h),
 * model, vocab, text, emulate, config_sha256 (of the reference's config.json), tokenizer_sha256 (of what the
 * built-in texts are under its tokenizer, "" when it has none), the noise floors, mtp_acceptance, kinds ("dmmm": dense
 * or MoE, by layer), and sha256: over all other metadata and tensors. Tensors, for n tokens in s contexts:
 *
 *     tokens         I32 [n]
 *     context_tokens I32 [s]
 *     top_ids        I32 [n, k], or U16 when the vocabulary allows; k is 64, or the vocabulary when it is smaller
 *     top_logprobs   F32 [n, k], falling
 *     rest_logprob   F32 [n]       ln of the probability of all other ids
 *     nll            F32 [n]       of the next token; 0 for the last of a context
 *     projections    F32 [layers, s, 32]
 *
 * Projections: of a layer's output over a context, each token's state divided by its length. Element c of token t goes
 * to one of 32 sums, with a sign; which, and the sign, come from a hash of (t, c). The mean over tokens of the squared
 * difference of two states is estimated, without bias and to 25% of it for one context, by the sum of squared
 * differences of the 32, over the tokens. Sums are linear and the same in every layer: what a layer adds to the
 * difference is estimated by the difference of differences. */
#ifndef VERIFY_GOLDEN_H
#define VERIFY_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "verify/diff_report.h"
#include "verify/metrics.h"

#define GOLDEN_PROJECTIONS 32u
#define GOLDEN_BYTES_MAX   (1u << 30)

struct golden {
    struct arena arena; /* all that is pointed to */
    const char *model, *sizes, *settings, *kinds, *text, *emulate, *config_sha256, *tokenizer_sha256;
    uint64_t vocab, layers;
    size_t tokens, contexts;
    uint32_t *ids;             /* [tokens] */
    size_t *starts;            /* [contexts + 1] */
    struct top_logprobs *rows; /* [tokens] */
    float *nll;                /* [tokens] */
    float *projections;        /* [layers][contexts][GOLDEN_PROJECTIONS] */
    double mtp_acceptance;     /* NaN: none */
    struct diff_floor bf16;
};

/* Adds a token's state to its context's sums [GOLDEN_PROJECTIONS]. token: within the context. */
void golden_project(double *sums, size_t token, const float *state, size_t cols);
/* Root of the mean over all tokens of |u - v|^2 of unit states, from the sums [contexts][GOLDEN_PROJECTIONS] of both;
 * with the sums of the layer below, of |(u - v) - (u' - v')|^2. NULL: none. */
double golden_state_error(const float *ref, const float *cand, const float *ref_below, const float *cand_below,
                          const size_t *starts, size_t contexts);

bool golden_write(const struct golden *g, const char *path, struct err *e) CHECKED;
/* Refuses what is damaged or someone else's: by its digest, and in words wherever they are known. */
bool golden_read(struct golden *g, const char *path, struct err *e) CHECKED;
/* The same from the file's bytes. */
bool golden_parse(struct golden *g, const uint8_t *data, size_t bytes, struct err *e) CHECKED;
void golden_release(struct golden *g); /* idempotent */

#endif
