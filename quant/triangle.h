/* A lower triangular matrix in rows: rows come in strips of TILE_COLS, and those
 * of a strip have the same length, up to the end of the strip's own square, so
 * that tiles of quant/tile.h fit. 4 bytes x cols^2 / 2: 103 MB for 7168. What
 * stands above the diagonal in a strip's square has no meaning. */
#ifndef QUANT_TRIANGLE_H
#define QUANT_TRIANGLE_H

#include <stddef.h>

#include "quant/tile.h"

static inline size_t triangle_bytes(size_t cols)
{
    size_t strips = tile_padded(cols) / TILE_COLS;

    return TILE_COLS * TILE_COLS / 2 * strips * (strips + 1) * sizeof(float);
}

static inline size_t triangle_stride(size_t row)
{
    return (row / TILE_COLS + 1) * TILE_COLS;
}

static inline float *triangle_row(float *t, size_t row)
{
    size_t strip = row / TILE_COLS;

    return t + TILE_COLS * TILE_COLS / 2 * strip * (strip + 1) + row % TILE_COLS * triangle_stride(row);
}

#endif
