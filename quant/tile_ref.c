/* The register tile: the specification. */
#include <math.h>

#include "quant/tile.h"

void tile_fma_ref(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b, size_t steps)
{
    for (size_t t = 0; t < steps; t++)
        for (size_t r = 0; r < TILE_ROWS; r++)
            for (size_t v = 0; v < TILE_COLS; v++)
                c[r * c_stride + v] = fmaf(a[r * a_row + t * a_step], b[t * TILE_COLS + v], c[r * c_stride + v]);
}

void tile_row_fma_ref(float *c, const float *a, const float *b, size_t steps)
{
    for (size_t t = 0; t < steps; t++)
        for (size_t v = 0; v < TILE_COLS; v++)
            c[v] = fmaf(a[t], b[t * TILE_COLS + v], c[v]);
}
