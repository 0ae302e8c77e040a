/* One routed expert, rounded: gate and up against their input, then down against
 * the input that the rounded gate and up give it.
 *
 *   x    the tokens' input, float32; BF16 only where moments are summed
 *   a    silu(x G^T) (x U^T) with the rounded G and U, by quant/gemm.h and quant/vecmath.h, as a forward pass has it
 *
 * What an expert gives is multiplied by the token's routing weight w before it is added up, and so is an error in it.
 * So of n tokens that count, and an input of d columns, one counts as
 *
 *   omega = even + (1 - even) w^2 / mean(w^2),   even = min(1, 2 d / n)
 *
 * by w^2 where tokens are many, all alike where they are few and a mean of less even ones would be noisier than it is
 * truer. The input is multiplied by sqrt(omega), in float32, before it is rounded and summed. Not for gptq, the
 * textbook. Error of an expert's output on other text, relative to all alike, geometric mean over twelve experts of the
 * sample (gate and up have 256 columns, down 128):
 *
 *   n / d          1        2     4        8     16       32
 *                  gate,up  down  gate,up  down  gate,up  down
 *   even = 1/2     1.02     1.00  0.88     0.94  0.88     0.91
 *   even = 0       1.05     1.09  0.89     0.96  0.85     0.89
 *
 * A hot expert is measured by `cap` of its tokens, evenly spaced (moments_takes). The spread of a is that of up to
 * EXPERT_SPREAD_TOKENS of them. Where fewer than EXPERT_STARVED tokens come, down has a prior too: the layer's sample
 * through this expert, scaled to the trace of what its own tokens gave.
 *
 * A target that is not calibrated (copy, round, absmax, search) is done as asked, beside the others. */
#ifndef QUANT_EXPERT_H
#define QUANT_EXPERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/calibrated.h"
#include "quant/gemm.h"

#define EXPERT_SPREAD_TOKENS 1024u
#define EXPERT_STARVED       256u
#define EXPERT_CHUNK         TILE_STEPS /* tokens at a time */

enum expert_part { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN, EXPERT_PARTS };

/* What all experts of a layer share. Borrowed. */
struct expert_layer {
    const struct moments *prior; /* of all tokens' input, closed, with spread; NULL: none */
    const float *sample;         /* [sample_tokens][hidden] inputs of some tokens, for starved experts; NULL: none */
    size_t sample_tokens;
};

/* One expert. Borrowed. */
struct expert_job {
    const struct kernel *kernel;
    const struct expert_layer *layer;
    const struct coded *mlp;           /* [EXPERT_PARTS] as stored: gate and up [inner][hidden], down [hidden][inner] */
    struct scheme to[EXPERT_PARTS];    /* with the method of each */
    struct calibrated_options options; /* method aside */
    uint64_t tokens, cap;              /* cap 0: none */
    const float *weights;              /* [tokens] routing weights; NULL: all alike */
    /* Inputs of tokens [first, first + count), [count][hidden]. */
    bool (*inputs)(void *ctx, size_t first, size_t count, float *x, struct err *e);
    void *ctx;
};

/* What one input of the expert came to. */
struct expert_input {
    uint64_t tokens; /* measured */
    size_t dead;     /* columns */
    double to_prior, to_diagonal;
    unsigned retries;
    char text[CALIBRATED_TEXT];
};

struct expert_result {
    struct rounded parts[EXPERT_PARTS];
    struct expert_input inputs[2]; /* of gate and up; of down */
};

/* One worker's memory for such a job, MEM_ALIGN aligned: 420 MB for DeepSeek-V3's. */
size_t expert_memory_bytes(const struct expert_job *job);
/* Bytes of what it writes, and out placed in them; out NULL only measures. */
size_t expert_place_output(const struct expert_job *job, struct coded out[EXPERT_PARTS], void *memory);
/* Fails for inputs that cannot be read, and for weights that are not finite (naming row and column); never for what the
 * inputs are. Workers share nothing but what is borrowed. */
bool expert_round(const struct expert_job *job, const struct coded out[EXPERT_PARTS], void *memory,
                  struct expert_result *result, struct err *e) CHECKED;

#endif
