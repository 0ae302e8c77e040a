/* Second moments of a linear's input: H = sum over tokens of x x^T, and what the
 * shrinkage of quant/shrink.h wants to know about its noise.
 *
 * Inputs are rounded once to BF16, and only that enters. The order of every sum:
 *
 *   H[i][j] = fma(x_t[i], x_t[j], H[i][j])      tokens t ascending, as they were given
 *   spread  = sum over t, in float64, of (U U - F), where with z^2[j] = (x_t[j] x_t[j]) (n / H[j][j])
 *             U = sum z^2[j], F = sum z^2[j] z^2[j]     sixteen float32 lanes, lane = j % 16, folded 8, 4, 2, 1
 *             (columns with H[j][j] = 0 left out)
 *
 * so neither the number of threads nor how tokens are cut into calls changes a bit. H is float32: with the 114,688
 * tokens that an input of 7168 columns is capped at, its diagonal is good to about 7e-5 of itself,
 * which is less than the 1e-4 that quant/shrink.h adds.
 *
 *   moments_init, moments_add for all tokens in order, moments_close, moments_spread for the same tokens
 *
 * The memory is the caller's; nothing is allocated. */
#ifndef QUANT_MOMENTS_H
#define QUANT_MOMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/kernel.h"

struct moments {
    const struct kernel *kernel;
    size_t cols, stride; /* stride: tile_padded(cols); what is past cols is 0 */
    uint64_t tokens;     /* added */
    uint64_t spread_tokens;
    double spread;
    float *sum; /* H, [stride][stride]; its upper triangle until moments_close, then all of it */
};

size_t moments_bytes(size_t cols); /* of sum: 4 x stride^2, 205 MB for 7168 columns */
/* What moments_add and moments_spread need for one call: 1 KB for each column. */
size_t moments_scratch_bytes(size_t cols);

/* sum: moments_bytes, MEM_ALIGN aligned; becomes zero. */
void moments_init(struct moments *m, const struct kernel *k, size_t cols, float *sum);
/* x: [tokens][x_stride] float32. scratch: MEM_ALIGN aligned. threads: as in pool_run; 1 starts none. */
void moments_add(struct moments *m, const float *x, size_t x_stride, size_t tokens, unsigned threads, void *scratch);
/* Fills the lower triangle. False when a sum is not finite: an input was not, or overflowed. */
bool moments_close(struct moments *m) CHECKED;
void moments_spread(struct moments *m, const float *x, size_t x_stride, size_t tokens, void *scratch);

/* Whether token `index` of `count` is among the `cap` that a hot expert is measured by: evenly spread, exactly
 * min(count, cap) of them. cap 0 is no cap. */
bool moments_takes(uint64_t index, uint64_t count, uint64_t cap);
/* Past 4 tokens a column more gain less than 5 % in a layer's error. */
#define MOMENTS_CAP_PER_COL 16u

/* The diagonal, mean x[j]^2; 0 without tokens. */
float moments_variance(const struct moments *m, size_t col);

#endif
