/* What a bundle's forward pass says to a short prompt, recorded when it was
 * made: whoever has the bundle can ask again and hold the answers together. It
 * finds what hashes cannot, a bundle that was wrong from the start or was
 * changed and hashed anew, and it is proof that the bundle runs.
 *
 * One sequence of FINGERPRINT_TOKENS tokens from position 0. At each, the
 * FINGERPRINT_TOP most probable next tokens with natural log-probabilities, in
 * five digits behind the point; the same of the first MTP layer, where there is
 * one that runs, at each token but the last; in each MoE layer, the experts
 * that were chosen. The forward pass gives the same bits on any CPU and with any
 * number of threads, and log-probabilities are made without the C library
 * (quant's exp and log), so the text of a fingerprint is the same everywhere
 * too: with kernels of one class, which it names. */
#ifndef VERIFY_FINGERPRINT_H
#define VERIFY_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/manifest.h"
#include "formats/weight.h"
#include "verify/finding.h"

#define FINGERPRINT_TOKENS    32u
#define FINGERPRINT_TOP       16u
#define FINGERPRINT_DELTA_MAX 1e-3 /* of a log-probability */

struct fingerprint_options {
    unsigned threads;      /* 0: one per CPU; changes the time only */
    uint64_t memory_bytes; /* budget; 0: what the forward pass takes by itself */
    bool quiet;
};

/* What making or checking one takes: everything the pass reads, where experts count by how many of them so many tokens
 * are expected to choose, and the least memory. */
struct fingerprint_cost {
    uint64_t read_bytes, memory_bytes;
};
/* From headers alone, for so many threads (0: one per CPU). An error is why there can be none. */
bool fingerprint_cost(struct fingerprint_cost *cost, const struct source *s, unsigned threads, struct err *e) CHECKED;

/* The built-in text by the checkpoint's own tokenizer; seeded ids where it has none that is known. */
bool fingerprint_prompt(uint32_t ids[FINGERPRINT_TOKENS], const struct source *s, struct err *e) CHECKED;
/* What a pass over so many tokens reads of a weight: routed experts count by how many are expected to be chosen. */
uint64_t fingerprint_weight_bytes(const struct source *s, const struct weight *w, size_t tokens);
/* And of every layer: bytes[layers] is what stands outside of layers, bytes[layers + 1] the MTP layer where it is asked
 * (`mtp`), *total the sum. mem_free it. */
uint64_t *fingerprint_read_bytes(const struct source *s, size_t tokens, bool mtp, uint64_t *total);

/* Asks the prompt above. In the arena.
 * Numbers that are not finite are ERR_FORMAT: such a bundle does not run. */
bool fingerprint_make(struct manifest_fingerprint **out, struct arena *a, const struct source *s,
                      const struct fingerprint_options *o, struct err *e) CHECKED;

struct fingerprint_sum {
    size_t positions, mtp_positions, logprobs; /* held together */
    double delta_max;
    uint64_t choices, flips; /* of experts; not made again */
};
/* Asks again and holds the answers together. What differs, and that the pass does not run, are findings; errors are
 * what the system refuses, a budget that is too small, and a signal. */
bool fingerprint_check(const struct manifest_fingerprint *want, const struct source *s,
                       const struct fingerprint_options *o, struct fingerprint_sum *sum, struct findings *findings,
                       struct err *e) CHECKED;

#endif
