#include <math.h>
#include <string.h>

#include "quant/gemm_kernel.h"

static void sum_row(float *sums, const float *w, const float *x, size_t cols)
{
    for (size_t c = 0; c < cols; c++)
        sums[c % GEMM_LANES] = fmaf(x[c], w[c], sums[c % GEMM_LANES]);
}

static void sum(float *sums, const float *w, size_t rows, const float *x, size_t x_stride, size_t tokens, size_t cols,
                bool first, const struct gemm_later *later)
{
    (void)later;
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r++) {
            float *lanes = sums + (t * GEMM_ROWS + r) * GEMM_LANES;
            if (first)
                memset(lanes, 0, GEMM_LANES * sizeof *lanes);
            sum_row(lanes, w + r * GEMM_STRIDE, x + t * x_stride, cols);
        }
}

static float fold_lanes(const float *sums)
{
    float lanes[GEMM_LANES];

    memcpy(lanes, sums, sizeof lanes);
    for (size_t half = GEMM_LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

static void fold(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r++) {
            float product = fold_lanes(sums + (t * GEMM_ROWS + r) * GEMM_LANES);
            y[t * y_stride + r] = add ? y[t * y_stride + r] + product : product;
        }
}

const struct gemm_kernel gemm_ref = {.sum = sum, .fold = fold};
