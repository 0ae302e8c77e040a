/* Weights that look like a trained model's to a quantizer, made from a seed at
 * memory speed. Matrices are normal; FP8 codes are what a normal weight becomes
 * under a scale of amax / 448 per block, and every block has its amax. Each byte
 * depends on seed, tensor name and place alone: any number of threads may fill
 * any pieces in any order. */
#ifndef GENERATE_SYNTHETIC_WEIGHTS_H
#define GENERATE_SYNTHETIC_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "formats/tensor.h"

#define SYNTHETIC_QUANTILES 65536u

struct synthetic_weights {
    uint64_t seed;
    uint8_t fp8[SYNTHETIC_QUANTILES];   /* codes by the inverse of the normal distribution */
    uint16_t bf16[SYNTHETIC_QUANTILES]; /* values of standard deviation 1/64 */
};

void synthetic_weights_init(struct synthetic_weights *w, uint64_t seed);
/* struct v3_layout's fill_piece, with a struct synthetic_weights behind ctx. */
void synthetic_weights_fill(void *ctx, const struct tensor *t, uint64_t offset, void *data, size_t bytes);

#endif
