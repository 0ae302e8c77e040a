/* Strips (gemm_strips_avx2.c), and for few tokens codes (gemm_coded_avx2.c),
 * whose sums are folded here. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/gemm_kernel.h"
#include "quant/gemm_strips.h"
#include "quant/unroll.h"

#define TILE_ROWS  GEMM_TILE_ROWS
#define TOKEN_SUMS (GEMM_ROWS * GEMM_LANES)

/* The first n of eight lanes. */
ALWAYS_INLINE __m256i first8(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 8 ? n : 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Pieces of four lanes: the folds of four rows, in their order. */
ALWAYS_INLINE __m128 fold_four(const float *sums)
{
    __m128 f[4];

    UNROLL
    for (size_t i = 0; i < 4; i++) {
        const float *s = sums + i * GEMM_LANES;
        __m256 eight = _mm256_add_ps(_mm256_load_ps(s), _mm256_load_ps(s + 8));
        f[i] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    }
    __m128 ab = _mm_add_ps(_mm_movelh_ps(f[0], f[1]), _mm_movehl_ps(f[1], f[0]));
    __m128 cd = _mm_add_ps(_mm_movelh_ps(f[2], f[3]), _mm_movehl_ps(f[3], f[2]));
    return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xDD));
}

static void fold(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r += TILE_ROWS) {
            float *to = y + t * y_stride + r;
            __m128 product = fold_four(sums + t * TOKEN_SUMS + r * GEMM_LANES);
            if (rows - r >= TILE_ROWS) { /* as in gemm_strips_avx2.c: a masked store is slow */
                _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), product) : product);
                continue;
            }
            __m128i lanes = _mm256_castsi256_si128(first8(rows - r));
            if (add)
                product = _mm_add_ps(_mm_maskload_ps(to, lanes), product);
            _mm_maskstore_ps(to, lanes, product);
        }
}

const struct gemm_kernel gemm_avx2 = {
    .few_tokens = 5, .sum_coded = gemm_sum_coded_avx2, .fold = fold, .strips = &gemm_strips_avx2};
#endif
