/* The register tile under moments, factor and solve: products P^T Q whose sums
 * run in order, one fused multiply-add a step.
 *
 *   tile_fma       c[r][v] = fma(a[r * a_row + t * a_step], b[t][v], c[r][v])   t = 0 .. steps-1 in turn
 *                  r < TILE_ROWS, v < TILE_COLS; rows of c are c_stride apart, of b TILE_COLS
 *   tile_row_fma   the same for one row, a_step 1: c[v] = fma(a[t], b[t][v], c[v])
 *
 * A fused multiply-add rounds once wherever it runs, and what was summed before lies in c as float32, so cutting the
 * steps into calls changes nothing: every variant, tile size and thread count gives the same bits. c and b are
 * MEM_ALIGN aligned, and c's stride a multiple of 16; a may lie anywhere. No allocation, no state. */
#ifndef QUANT_TILE_H
#define QUANT_TILE_H

#include <stddef.h>

#define TILE_ROWS 8u
#define TILE_COLS 32u
/* Steps that keep a panel of b in the first-level cache: 32 KB. */
#define TILE_STEPS 256u

/* n rounded up to whole panels. */
static inline size_t tile_padded(size_t n)
{
    return (n + TILE_COLS - 1) / TILE_COLS * TILE_COLS;
}

void tile_fma_ref(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b, size_t steps);
void tile_fma_avx2(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b,
                   size_t steps);
void tile_fma_avx512(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b,
                     size_t steps);

void tile_row_fma_ref(float *c, const float *a, const float *b, size_t steps);
void tile_row_fma_avx2(float *c, const float *a, const float *b, size_t steps);
void tile_row_fma_avx512(float *c, const float *a, const float *b, size_t steps);

#endif
