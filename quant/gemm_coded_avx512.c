/* Weights decoded in registers, right before they are used: for few tokens
 * nothing is stored but the sums, and for the first tokens of many the work of
 * decoding fits between fused multiply-adds. Codes that are not finite are
 * looked for in a pass of its own, which also brings them into the cache. */
#if defined(__x86_64__)
#include <assert.h>
#include <immintrin.h>

#include "quant/gemm_kernel.h"
#include "quant/unroll.h"

#define TILE_ROWS  GEMM_TILE_ROWS
#define TOKEN_SUMS (GEMM_ROWS * GEMM_LANES)

/* ---- what is not finite ---- */

ALWAYS_INLINE size_t coded_bytes(enum gemm_coding coding, size_t cols)
{
    return coding == GEMM_F32 ? cols * 4 : coding == GEMM_BF16 ? cols * 2 : cols;
}

ALWAYS_INLINE __mmask64 not_finite(enum gemm_coding coding, __m512i v)
{
    if (coding == GEMM_E4M3)
        return _mm512_cmpeq_epi8_mask(_mm512_or_si512(v, _mm512_set1_epi8((char)0x80)), _mm512_set1_epi8(-1));
    __m512i exponent = coding == GEMM_BF16 ? _mm512_set1_epi16(0x7F80) : _mm512_set1_epi32(0x7F800000);
    __m512i is = _mm512_and_si512(v, exponent);
    return coding == GEMM_BF16 ? _mm512_cmpeq_epi16_mask(is, exponent) : _mm512_cmpeq_epi32_mask(is, exponent);
}

ALWAYS_INLINE bool all_finite(enum gemm_coding coding, const uint8_t *codes, size_t row_bytes, size_t cols)
{
    __mmask64 bad = 0;

    if (coding == GEMM_INT4)
        return true;
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const uint8_t *row = codes + r * row_bytes;
        size_t bytes = coded_bytes(coding, cols), i = 0;
        for (; i + 64 <= bytes; i += 64)
            bad |= not_finite(coding, _mm512_loadu_si512(row + i));
        if (i < bytes) /* half a vector of E4M3 */
            bad |= not_finite(coding, _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(row + i))));
    }
    return bad == 0;
}

/* ---- sixteen weights ---- */

/* What sixteen columns of a group need: 256 times the scale (quant/e4m3_avx512.c says why), or the sixteen products
 * of an int4 code and the scale. */
ALWAYS_INLINE __m512 prepare(enum gemm_coding coding, const float *scale)
{
    const __m512 nibbles = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);

    if (coding == GEMM_E4M3)
        return _mm512_mul_ps(_mm512_set1_ps(*scale), _mm512_set1_ps(256.0f));
    return coding == GEMM_INT4 ? _mm512_mul_ps(nibbles, _mm512_set1_ps(*scale)) : _mm512_setzero_ps();
}

ALWAYS_INLINE __m512 weights16(enum gemm_coding coding, const uint8_t *row, size_t c, __m512 prepared)
{
    if (coding == GEMM_F32)
        return _mm512_loadu_ps(row + 4 * c);
    if (coding == GEMM_BF16) {
        __m256i halves = _mm256_loadu_si256((const __m256i *)(row + 2 * c));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    if (coding == GEMM_E4M3) {
        __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(row + c)));
        words = _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16((short)0xBF80));
        return _mm512_mul_ps(_mm512_cvtph_ps(words), prepared);
    }
    __m512i two = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)(row + c / 2)));
    __m512i lanes = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), two);
    __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(lanes, shift), prepared);
}

/* ---- tiles ---- */

/* The codes of the next four rows, a line now and then: their rows are too short for the hardware to run ahead in.
 * Those of BF16 and float32 are not. */
ALWAYS_INLINE void fetch_ahead(enum gemm_coding coding, const uint8_t *codes, size_t row_bytes, size_t c)
{
    size_t row = TILE_ROWS + c / GEMM_LANES % TILE_ROWS;

    if (coding == GEMM_E4M3 || coding == GEMM_INT4)
        _mm_prefetch((const char *)(codes + row * row_bytes + (coding == GEMM_INT4 ? c / 2 : c)), _MM_HINT_T0);
}

ALWAYS_INLINE void tile(enum gemm_coding coding, const size_t tokens, float *sums, float *panel, const uint8_t *codes,
                        const struct gemm_codes *w, const float *scales, const float *x, size_t x_stride, size_t cols,
                        bool first)
{
    __m512 sum[GEMM_TILE_TOKENS][TILE_ROWS];
    bool scaled = coding == GEMM_E4M3 || coding == GEMM_INT4;

    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            sum[t][r] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + t * TOKEN_SUMS + r * GEMM_LANES);
    }
    for (size_t begin = 0, group = 0; begin < cols; begin += w->group_cols, group++) {
        size_t end = cols - begin < w->group_cols ? cols : begin + w->group_cols;
        __m512 prepared[TILE_ROWS];
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            prepared[r] = prepare(coding, scaled ? scales + r * w->scales_stride + group : NULL);
        for (size_t c = begin; c < end; c += GEMM_LANES) {
            __m512 a[TILE_ROWS];
            fetch_ahead(coding, codes, w->row_bytes, c);
            UNROLL
            for (size_t r = 0; r < TILE_ROWS; r++) {
                a[r] = weights16(coding, codes + r * w->row_bytes, c, prepared[r]);
                if (panel)
                    _mm512_store_ps(panel + r * GEMM_STRIDE + c, a[r]);
            }
            UNROLL
            for (size_t t = 0; t < tokens; t++) {
                __m512 b = _mm512_loadu_ps(x + t * x_stride + c);
                UNROLL
                for (size_t r = 0; r < TILE_ROWS; r++)
                    sum[t][r] = _mm512_fmadd_ps(a[r], b, sum[t][r]);
            }
        }
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < TILE_ROWS; r++)
            _mm512_store_ps(sums + t * TOKEN_SUMS + r * GEMM_LANES, sum[t][r]);
    }
}

ALWAYS_INLINE bool all_rows(enum gemm_coding coding, const size_t tokens, bool keep, float *sums, float *panel,
                            const struct gemm_codes *w, size_t rows, const float *x, size_t x_stride, size_t cols,
                            bool first)
{
    for (size_t r = 0; r < rows; r += TILE_ROWS) {
        const uint8_t *codes = w->codes + r * w->row_bytes;
        if (!all_finite(coding, codes, w->row_bytes, cols))
            return false;
        tile(coding, tokens, sums + r * GEMM_LANES, keep ? panel + r * GEMM_STRIDE : NULL, codes, w,
             w->scales + r * w->scales_stride, x, x_stride, cols, first);
    }
    return true;
}

typedef bool sum_fn(float *sums, float *panel, const struct gemm_codes *w, size_t rows, const float *x, size_t x_stride,
                    size_t cols, bool first);

#define VARIANT(name, coding, tokens, keep)                                                                            \
    static bool name(float *sums, float *panel, const struct gemm_codes *w, size_t rows, const float *x,               \
                     size_t x_stride, size_t cols, bool first)                                                         \
    {                                                                                                                  \
        return all_rows(coding, tokens, keep, sums, panel, w, rows, x, x_stride, cols, first);                         \
    }
#define VARIANTS(name, coding)                                                                                         \
    VARIANT(name##_keep, coding, GEMM_TILE_TOKENS, true)                                                               \
    VARIANT(name##_1, coding, 1, false)                                                                                \
    VARIANT(name##_2, coding, 2, false)                                                                                \
    VARIANT(name##_3, coding, 3, false)                                                                                \
    VARIANT(name##_4, coding, 4, false)                                                                                \
    VARIANT(name##_5, coding, 5, false)                                                                                \
    VARIANT(name##_6, coding, 6, false)

VARIANTS(sum_f32, GEMM_F32)
VARIANTS(sum_bf16, GEMM_BF16)
VARIANTS(sum_e4m3, GEMM_E4M3)
VARIANTS(sum_int4, GEMM_INT4)

/* By tokens; the first one keeps the floats. */
#define ROW(name)                                                                                                      \
    {                                                                                                                  \
        name##_keep, name##_1, name##_2, name##_3, name##_4, name##_5, name##_6                                        \
    }
static sum_fn *const variants[GEMM_CODING_COUNT][GEMM_TILE_TOKENS + 1] = {
    [GEMM_F32] = ROW(sum_f32),
    [GEMM_BF16] = ROW(sum_bf16),
    [GEMM_E4M3] = ROW(sum_e4m3),
    [GEMM_INT4] = ROW(sum_int4),
};

bool gemm_sum_coded_avx512(float *sums, float *panel, const struct gemm_codes *w, size_t rows, const float *x,
                           size_t x_stride, size_t tokens, size_t cols, bool first)
{
    assert(!panel || tokens == GEMM_TILE_TOKENS);
    return variants[w->coding][panel ? 0 : tokens](sums, panel, w, rows, x, x_stride, cols, first);
}
#endif
