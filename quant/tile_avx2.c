#if defined(__x86_64__)
#include "quant/tile.h"

#include <immintrin.h>

#include "quant/fma_avx2.h"
#include "quant/unroll.h"

#define WIDE 8

/* Rows by vectors of a tile: twelve sums and what is loaded for them are the sixteen registers, and eight sums are what
 * two units of latency four need. Every loop over them is unrolled: with one that is not, gcc keeps them in memory and
 * stores them at each step. */
struct part {
    size_t rows, vecs;
};

ALWAYS_INLINE void step(__m256 sum[TILE_ROWS][TILE_COLS / WIDE], const struct part p, const float *a, size_t a_row,
                        const float *b)
{
    __m256 w[TILE_COLS / WIDE];

    UNROLL
    for (size_t v = 0; v < p.vecs; v++)
        w[v] = _mm256_load_ps(b + v * WIDE);
    UNROLL
    for (size_t r = 0; r < p.rows; r++) {
        __m256 x = _mm256_broadcast_ss(a + r * a_row);
        UNROLL
        for (size_t v = 0; v < p.vecs; v++)
            fma_add(&sum[r][v], x, w[v]);
    }
}

/* Four steps at a time: a taken branch for one would hold it up. */
ALWAYS_INLINE void add_part(const struct part p, float *c, size_t c_stride, const float *a, size_t a_row,
                            const size_t a_step, const float *b, size_t steps)
{
    __m256 sum[TILE_ROWS][TILE_COLS / WIDE];

    UNROLL
    for (size_t r = 0; r < p.rows; r++) {
        UNROLL
        for (size_t v = 0; v < p.vecs; v++)
            sum[r][v] = _mm256_load_ps(c + r * c_stride + v * WIDE);
    }
    for (; steps >= 4; steps -= 4, a += 4 * a_step, b += (size_t)4 * TILE_COLS) {
        UNROLL
        for (size_t i = 0; i < 4; i++)
            step(sum, p, a + i * a_step, a_row, b + i * TILE_COLS);
    }
    for (; steps > 0; steps--, a += a_step, b += TILE_COLS)
        step(sum, p, a, a_row, b);
    UNROLL
    for (size_t r = 0; r < p.rows; r++) {
        UNROLL
        for (size_t v = 0; v < p.vecs; v++)
            _mm256_store_ps(c + r * c_stride + v * WIDE, sum[r][v]);
    }
}

/* The sums that come next, mostly those of the rows below: they are in memory, a page apart, and no stream. */
ALWAYS_INLINE void fetch_below(const float *c, size_t c_stride)
{
    for (size_t r = TILE_ROWS; r < 2 * (size_t)TILE_ROWS; r++) {
        _mm_prefetch((const char *)(c + r * c_stride), _MM_HINT_T0);
        _mm_prefetch((const char *)(c + r * c_stride + TILE_COLS / 2), _MM_HINT_T0);
    }
}

/* Factors in rows of their own: few loads of them matter most. */
ALWAYS_INLINE void add_tall(float *c, size_t c_stride, const float *a, size_t a_row, const size_t a_step,
                            const float *b, size_t steps)
{
    for (size_t v = 0; v < TILE_COLS; v += 2 * WIDE)
        add_part((struct part){6, 2}, c + v, c_stride, a, a_row, a_step, b + v, steps);
    add_part((struct part){2, 4}, c + 6 * c_stride, c_stride, a + 6 * a_row, a_row, a_step, b, steps);
}

/* Factors side by side. */
ALWAYS_INLINE void add_wide(float *c, size_t c_stride, const float *a, const size_t a_row, const size_t a_step,
                            const float *b, size_t steps)
{
    for (size_t r = 0; r < TILE_ROWS; r += 4)
        add_part((struct part){4, 3}, c + r * c_stride, c_stride, a + r * a_row, a_row, a_step, b, steps);
    add_part((struct part){8, 1}, c + 3 * WIDE, c_stride, a, a_row, a_step, b + 3 * WIDE, steps);
}

/* The two ways in which a is stored are code of their own, as their addresses are. */
void tile_fma_avx2(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b, size_t steps)
{
    fetch_below(c, c_stride);
    if (a_step == 1)
        add_tall(c, c_stride, a, a_row, 1, b, steps);
    else if (a_row == 1 && a_step == TILE_COLS)
        add_wide(c, c_stride, a, 1, TILE_COLS, b, steps);
    else
        add_tall(c, c_stride, a, a_row, a_step, b, steps);
}

void tile_row_fma_avx2(float *c, const float *a, const float *b, size_t steps)
{
    __m256 s0 = _mm256_load_ps(c), s1 = _mm256_load_ps(c + 8), s2 = _mm256_load_ps(c + 16), s3 = _mm256_load_ps(c + 24);

    for (size_t t = 0; t < steps; t++, b += TILE_COLS) {
        __m256 x = _mm256_broadcast_ss(a + t);
        s0 = _mm256_fmadd_ps(x, _mm256_load_ps(b), s0);
        s1 = _mm256_fmadd_ps(x, _mm256_load_ps(b + 8), s1);
        s2 = _mm256_fmadd_ps(x, _mm256_load_ps(b + 16), s2);
        s3 = _mm256_fmadd_ps(x, _mm256_load_ps(b + 24), s3);
    }
    _mm256_store_ps(c, s0);
    _mm256_store_ps(c + 8, s1);
    _mm256_store_ps(c + 16, s2);
    _mm256_store_ps(c + 24, s3);
}
#endif
