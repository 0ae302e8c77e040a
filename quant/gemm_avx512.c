/* A tile of 4 rows and 6 tokens has its 24 sums, each a whole vector of lanes,
 * in registers: 10 loads feed 24 fused multiply-adds, and nothing is ever
 * transposed but the sums, once, when they are folded. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/gemm_kernel.h"
#include "quant/lanes_avx512.h"
#include "quant/unroll.h"

#define TILE_ROWS   GEMM_TILE_ROWS
#define TILE_TOKENS GEMM_TILE_TOKENS
#define TOKEN_SUMS  (GEMM_ROWS * GEMM_LANES)

/* The i-th vector of sums of the tile below. */
ALWAYS_INLINE const float *next_sums(const float *sums, size_t i)
{
    return sums + i / TILE_ROWS * TOKEN_SUMS + (TILE_ROWS + i % TILE_ROWS) * GEMM_LANES;
}

/* ahead: a row of x that will be wanted soon, as long as this one. */
ALWAYS_INLINE void tile(float *sums, const float *w, const float *x, size_t x_stride, const size_t tokens, size_t cols,
                        bool first, const float *ahead)
{
    __m512 sum[TILE_TOKENS][TILE_ROWS];
    size_t c = 0;

    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            sum[t][r] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + t * TOKEN_SUMS + r * GEMM_LANES);
    }
    for (; c + GEMM_LANES <= cols; c += GEMM_LANES) {
        __m512 a[TILE_ROWS];
        _mm_prefetch((const char *)(ahead + c), _MM_HINT_T1);
        if (c < TILE_TOKENS * TILE_ROWS * GEMM_LANES)
            _mm_prefetch((const char *)next_sums(sums, c / GEMM_LANES), _MM_HINT_T0);
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            a[r] = _mm512_load_ps(w + r * GEMM_STRIDE + c);
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            __m512 b = _mm512_loadu_ps(x + t * x_stride + c);
            UNROLL
            for (size_t r = 0; r < TILE_ROWS; r++)
                sum[t][r] = _mm512_fmadd_ps(a[r], b, sum[t][r]);
        }
    }
    if (c < cols) {
        __mmask16 lanes = lanes16(cols - c);
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            __m512 b = _mm512_maskz_loadu_ps(lanes, x + t * x_stride + c);
            UNROLL
            for (size_t r = 0; r < TILE_ROWS; r++)
                sum[t][r] =
                    _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(lanes, w + r * GEMM_STRIDE + c), b, sum[t][r], lanes);
        }
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            _mm512_store_ps(sums + t * TOKEN_SUMS + r * GEMM_LANES, sum[t][r]);
    }
}

/* All rows of some tokens, whose x stays in L1. While the first tiles are worked, the next tokens' x comes from L3 to
 * L2, a token a tile: the hardware does not foresee the jump from token to token. */
#define ALL_ROWS(tokens)                                                                                               \
    for (size_t r = 0; r < rows; r += TILE_ROWS) {                                                                     \
        size_t next = r / TILE_ROWS < ahead ? (tokens) + r / TILE_ROWS : 0;                                            \
        tile(sums + r * GEMM_LANES, w + r * GEMM_STRIDE, x, x_stride, (tokens), cols, first, x + next * x_stride);     \
    }

/* ahead: how many more tokens there are, at most a tile's. */
static void sum_tokens(float *sums, const float *w, size_t rows, const float *x, size_t x_stride, size_t tokens,
                       size_t cols, bool first, size_t ahead)
{
    switch (tokens) {
    case 1:
        ALL_ROWS(1);
        break;
    case 2:
        ALL_ROWS(2);
        break;
    case 3:
        ALL_ROWS(3);
        break;
    case 4:
        ALL_ROWS(4);
        break;
    case 5:
        ALL_ROWS(5);
        break;
    default:
        ALL_ROWS(6);
        break;
    }
}

static size_t at_most(size_t n, size_t limit)
{
    return n < limit ? n : limit;
}

static void sum(float *sums, const float *w, size_t rows, const float *x, size_t x_stride, size_t tokens, size_t cols,
                bool first)
{
    for (size_t t = 0; t < tokens; t += TILE_TOKENS) {
        size_t count = at_most(tokens - t, TILE_TOKENS), ahead = at_most(tokens - t - count, TILE_TOKENS);
        sum_tokens(sums + t * TOKEN_SUMS, w, rows, x + t * x_stride, x_stride, count, cols, first, ahead);
    }
}

/* a's lanes and b's, halved: pairs (l, l + 8) added, a's eight below b's. */
ALWAYS_INLINE __m512 fold8(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}

/* From eight lanes of each of two to four of each of four: 128-bit pieces a0 a1 b0 b1, c0 c1 d0 d1. */
ALWAYS_INLINE __m512 fold4(__m512 ab, __m512 cd)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
}

/* Pieces of four lanes: a b c d, and e f g h; then pairs of two lanes. */
ALWAYS_INLINE __m512 fold2(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}

ALWAYS_INLINE __m512 fold1(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}

/* The folds of sixteen vectors, in their order: f[i] holds row i's sums. What comes out has piece p, place q for row
 * ROW(4 p + q), which the order of the loads undoes. */
ALWAYS_INLINE __m512 fold16(const float *sums, size_t rows)
{
    __m512 f[16];

    UNROLL
    for (size_t i = 0; i < 16; i++) {
        /* Place i of the tree: pieces first, then places within a piece. */
        size_t row = i % 4 * 4 + i / 4;
        f[i] = row < rows ? _mm512_load_ps(sums + row * GEMM_LANES) : _mm512_setzero_ps();
    }
    UNROLL
    for (size_t i = 0; i < 8; i++)
        f[i] = fold8(f[2 * i], f[2 * i + 1]);
    UNROLL
    for (size_t i = 0; i < 4; i++)
        f[i] = fold4(f[2 * i], f[2 * i + 1]);
    return fold1(fold2(f[0], f[1]), fold2(f[2], f[3]));
}

static void fold(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r += 16) {
            __mmask16 lanes = lanes16(rows - r);
            float *to = y + t * y_stride + r;
            __m512 product = fold16(sums + t * TOKEN_SUMS + r * GEMM_LANES, rows - r);
            if (add)
                product = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), product);
            _mm512_mask_storeu_ps(to, lanes, product);
        }
}

const struct gemm_kernel gemm_avx512 = {.sum = sum, .fold = fold};
#endif
