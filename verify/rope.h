/* Rotary embeddings: adjacent pairs (2i, 2i + 1), in place, with YaRN whenever
 * the config has it, whatever the length of the context. */
#ifndef VERIFY_ROPE_H
#define VERIFY_ROPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/arch.h"
#include "formats/base/mem.h"

/* math_cos_sin is good up to here, and no model of the family goes further. */
#define ROPE_POSITIONS_MAX (1u << 20)

struct rope {
    size_t pairs;        /* qk_rope_dim / 2 */
    float *inverse;      /* [pairs], in the arena: the angle of position 1 */
    float cos_scale;     /* what cosines and sines are multiplied by */
    float softmax_scale; /* of attention scores: (nope + rope)^-0.5, and YaRN's mscale squared */
};

/* float64 until the result: base^(-2i/d), blended as YaRN says. */
void rope_init(struct rope *r, struct arena *a, const struct arch *arch);
/* Cosines [pairs], then sines [pairs] of a position: the angle is the float32 product of position and inverse. */
void rope_turns(const struct rope *r, uint64_t position, float *turns);
/* a' = a cos - b sin, b' = a sin + b cos, each product and sum rounded to float32; with bf16 each to bfloat16, as
 * are the turns before. */
void rope_turn(const struct rope *r, const float *turns, float *v, bool bf16);

#endif
