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

/* Bytes that will be wanted soon: step of them for every sixteen columns worked. */
struct ahead {
    const uint8_t *bytes;
    size_t step;
};

ALWAYS_INLINE void tile(float *sums, const float *w, const float *x, size_t x_stride, const size_t tokens, size_t cols,
                        bool first, struct ahead ahead)
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
        _mm_prefetch((const char *)ahead.bytes, _MM_HINT_T1);
        ahead.bytes += ahead.step;
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

/* What all tiles of some tokens share. */
struct job {
    float *sums;
    const float *w, *x;
    size_t rows, x_stride, cols;
    bool first;
    size_t x_ahead;          /* how many more tokens there are, at most a tile's */
    struct gemm_later later; /* what is left of it */
};

/* While the first tiles of rows are worked, the next tokens' x comes from L3 to L2, a token a tile: the hardware does
 * not foresee the jump from row to row. The other tiles fetch the codes that are next, a row of them a tile. */
ALWAYS_INLINE struct ahead look_ahead(struct job *j, size_t row_tile, size_t tokens)
{
    struct gemm_later *l = &j->later;

    if (row_tile < j->x_ahead)
        return (struct ahead){(const uint8_t *)(j->x + (tokens + row_tile) * j->x_stride), GEMM_LANES * sizeof *j->x};
    if (row_tile < TILE_TOKENS || l->rows == 0)
        return (struct ahead){(const uint8_t *)j->x, 0};
    struct ahead codes = {l->codes, l->bytes * GEMM_LANES / j->cols};
    l->codes += l->row_bytes;
    l->rows--;
    return codes;
}

ALWAYS_INLINE void all_rows(struct job *j, const size_t tokens)
{
    for (size_t r = 0; r < j->rows; r += TILE_ROWS)
        tile(j->sums + r * GEMM_LANES, j->w + r * GEMM_STRIDE, j->x, j->x_stride, tokens, j->cols, j->first,
             look_ahead(j, r / TILE_ROWS, tokens));
}

static void some_tokens(struct job *j, size_t tokens)
{
    switch (tokens) {
    case 1:
        all_rows(j, 1);
        break;
    case 2:
        all_rows(j, 2);
        break;
    case 3:
        all_rows(j, 3);
        break;
    case 4:
        all_rows(j, 4);
        break;
    case 5:
        all_rows(j, 5);
        break;
    default:
        all_rows(j, 6);
        break;
    }
}

static size_t at_most(size_t n, size_t limit)
{
    return n < limit ? n : limit;
}

static void sum(float *sums, const float *w, size_t rows, const float *x, size_t x_stride, size_t tokens, size_t cols,
                bool first, const struct gemm_later *later)
{
    struct job j = {.sums = sums,
                    .w = w,
                    .x = x,
                    .rows = rows,
                    .x_stride = x_stride,
                    .cols = cols,
                    .first = first,
                    .later = *later};

    for (size_t t = 0; t < tokens; t += TILE_TOKENS) {
        size_t count = at_most(tokens - t, TILE_TOKENS);
        j.x_ahead = at_most(tokens - t - count, TILE_TOKENS);
        some_tokens(&j, count);
        j.sums += TILE_TOKENS * TOKEN_SUMS;
        j.x += TILE_TOKENS * x_stride;
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

const struct gemm_kernel gemm_avx512 = {.few_tokens = 24, .sum = sum, .sum_coded = gemm_sum_coded_avx512, .fold = fold};
#endif
