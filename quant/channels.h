/* How strong each channel of a linear's input is: the sum of x[j] x[j] over
 * tokens, and the largest |x[j]| of all. x is rounded to BF16 as for quant/moments.h,
 * so a square is exact in float32; sums are float64, tokens ascending. Neither
 * threads nor how tokens are cut into calls change a bit. */
#ifndef QUANT_CHANNELS_H
#define QUANT_CHANNELS_H

#include <stddef.h>
#include <stdint.h>

#include "quant/kernel.h"

struct channels {
    const struct kernel *kernel;
    size_t cols;
    uint64_t tokens;
    double *sum2; /* [cols] */
    float peak;
};

void channels_init(struct channels *c, const struct kernel *k, size_t cols, double *sum2); /* sum2 becomes zero */
/* x: [tokens][x_stride], finite. threads: as in pool_run; 1 starts none. */
void channels_add(struct channels *c, const float *x, size_t x_stride, size_t tokens, unsigned threads);

#endif
