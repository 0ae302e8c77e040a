/* Matrix products on coded weights: y = x W^T, with W as it is stored. Codes are
 * exact in the multiplier's type and scales go to the accumulator, so that the
 * weights are never rounded; activations are float32, or their BF16 parts.
 *
 * Near class: variants agree within a stated tolerance (relative 5e-6 of the
 * row's |x||w| for two-term activations). Within one variant a result depends
 * on its own row of W and its own token alone: not on how many tokens or rows
 * are in the call, nor on threads. Every sum has a written order. */
#ifndef QUANT_GEMM_H
#define QUANT_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/scheme.h"
#include "quant/transform.h"

/* Rows of a matrix as stored. Zero for plain vectors is not a weight. */
struct gemm_weight {
    struct scheme scheme;
    uint64_t rows, cols;
    struct slices parts; /* whole matrix, as scheme_slice cuts it; borrowed */
};

/* How activations enter the product. */
enum gemm_terms {
    GEMM_F32,   /* float32 as it is: the reference, and the forward pass's default */
    GEMM_BF16X2, /* two BF16 terms, high and remainder: about 16 bits */
    GEMM_BF16,  /* one: rounded once to BF16 */
};

struct gemm_kernel {
    const char *name; /* "ref", "avx2", "avx512", "amx" */
    bool (*usable)(void);
    size_t (*scratch_bytes)(const struct gemm_weight *w, size_t tokens);
    /* y[t * y_stride + r] = sum over c of x[t * x_stride + c] * w[r][c], for rows [row, row + count). Scales and
     * codes were found finite before (gemm_check). */
    void (*run)(const struct gemm_weight *w, uint64_t row, uint64_t count, const float *x, size_t x_stride,
                size_t tokens, enum gemm_terms terms, float *y, size_t y_stride, void *scratch);
};

size_t gemm_kernel_count(void);
const struct gemm_kernel *gemm_kernel_at(size_t i); /* 0 is the reference */
const struct gemm_kernel *gemm_get(void);           /* goes with kernel_pick's choice */

/* All codes and scales are finite; names row and column where not. Once per weight, before any product. */
bool gemm_check(const struct gemm_weight *w, void *scratch, struct err *e) CHECKED;

#endif
