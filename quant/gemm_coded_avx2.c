/* Few tokens: weights decoded in registers, right before they are used, and
 * nothing stored but the sums. As gemm_coded_avx512.c, with two vectors for
 * sixteen lanes, and fewer rows the more tokens there are. */
#if defined(__x86_64__)
#include <assert.h>
#include <immintrin.h>

#include "quant/gemm_kernel.h"
#include "quant/unroll.h"

#define TOKEN_SUMS (GEMM_ROWS * GEMM_LANES)

/* ---- what is not finite ---- */

ALWAYS_INLINE __m256i not_finite(enum gemm_coding coding, __m256i v)
{
    if (coding == GEMM_E4M3)
        return _mm256_cmpeq_epi8(_mm256_or_si256(v, _mm256_set1_epi8((char)0x80)), _mm256_set1_epi8(-1));
    __m256i exponent = coding == GEMM_BF16 ? _mm256_set1_epi16(0x7F80) : _mm256_set1_epi32(0x7F800000);
    __m256i is = _mm256_and_si256(v, exponent);
    return coding == GEMM_BF16 ? _mm256_cmpeq_epi16(is, exponent) : _mm256_cmpeq_epi32(is, exponent);
}

/* Columns are whole GEMM_CODED_COLS: of every coding but int4, which cannot be bad, whole vectors. */
ALWAYS_INLINE bool all_finite(enum gemm_coding coding, const uint8_t *codes, size_t row_bytes, size_t cols)
{
    size_t bytes = coding == GEMM_F32 ? cols * 4 : coding == GEMM_BF16 ? cols * 2 : cols;
    __m256i bad = _mm256_setzero_si256();

    if (coding == GEMM_INT4)
        return true;
    for (size_t r = 0; r < GEMM_TILE_ROWS; r++)
        for (size_t i = 0; i < bytes; i += 32) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(codes + r * row_bytes + i));
            bad = _mm256_or_si256(bad, not_finite(coding, v));
        }
    return _mm256_testz_si256(bad, bad);
}

/* ---- sixteen weights ---- */

struct weights16 {
    __m256 low, high;
};

/* Sixteen f16 in order, times a scale. */
ALWAYS_INLINE struct weights16 scaled(__m128i low, __m128i high, __m256 scale)
{
    return (struct weights16){_mm256_mul_ps(_mm256_cvtph_ps(low), scale), _mm256_mul_ps(_mm256_cvtph_ps(high), scale)};
}

/* quant/e4m3_avx2.c's f16, of 2^-8 the value. */
ALWAYS_INLINE struct weights16 from_e4m3(const uint8_t *codes, __m256 scale)
{
    __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)codes));

    words = _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16((short)0xBF80));
    return scaled(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1), scale);
}

/* quant/gemm_fill_avx2.c's f16, of which the upper byte is looked up. */
ALWAYS_INLINE struct weights16 from_int4(const uint8_t *codes, __m256 scale)
{
    const __m128i low4 = _mm_set1_epi8(15), none = _mm_setzero_si128();
    const __m128i upper = _mm_setr_epi8((char)0xC8, (char)0xC7, (char)0xC6, (char)0xC5, (char)0xC4, (char)0xC2,
                                        (char)0xC0, (char)0xBC, 0x00, 0x3C, 0x40, 0x42, 0x44, 0x45, 0x46, 0x47);
    __m128i two = _mm_loadl_epi64((const __m128i *)codes);
    __m128i in_order = _mm_unpacklo_epi8(_mm_and_si128(two, low4), _mm_and_si128(_mm_srli_epi16(two, 4), low4));
    __m128i bytes = _mm_shuffle_epi8(upper, in_order);

    return scaled(_mm_unpacklo_epi8(none, bytes), _mm_unpackhi_epi8(none, bytes), scale);
}

ALWAYS_INLINE __m256 bf16_8(const uint8_t *codes)
{
    __m128i halves = _mm_loadu_si128((const __m128i *)codes);

    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

ALWAYS_INLINE struct weights16 weights_at(enum gemm_coding coding, const uint8_t *row, size_t c, __m256 scale)
{
    const float *floats = (const float *)(const void *)row;

    switch (coding) {
    case GEMM_E4M3:
        return from_e4m3(row + c, scale);
    case GEMM_INT4:
        return from_int4(row + c / 2, scale);
    case GEMM_BF16:
        return (struct weights16){bf16_8(row + 2 * c), bf16_8(row + 2 * c + 16)};
    case GEMM_F32:
    case GEMM_CODING_COUNT:
    default:
        return (struct weights16){_mm256_loadu_ps(floats + c), _mm256_loadu_ps(floats + c + 8)};
    }
}

/* ---- tiles ---- */

/* The codes of the next rows, a line now and then: their rows are too short for the hardware to run ahead in. */
ALWAYS_INLINE void fetch_ahead(enum gemm_coding coding, const uint8_t *codes, size_t row_bytes, size_t c)
{
    size_t row = GEMM_TILE_ROWS + c / GEMM_LANES % GEMM_TILE_ROWS;

    if (coding == GEMM_E4M3 || coding == GEMM_INT4)
        _mm_prefetch((const char *)(codes + row * row_bytes + (coding == GEMM_INT4 ? c / 2 : c)), _MM_HINT_T0);
}

ALWAYS_INLINE void tile(enum gemm_coding coding, const size_t tokens, const size_t rows, float *sums,
                        const uint8_t *codes, const struct gemm_codes *w, const float *scales, const float *x,
                        size_t x_stride, size_t cols, bool first)
{
    bool scale = coding == GEMM_E4M3 || coding == GEMM_INT4;
    __m256 sum[6][4][2];

    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            const float *s = sums + t * TOKEN_SUMS + r * GEMM_LANES;
            sum[t][r][0] = first ? _mm256_setzero_ps() : _mm256_load_ps(s);
            sum[t][r][1] = first ? _mm256_setzero_ps() : _mm256_load_ps(s + 8);
        }
    }
    for (size_t begin = 0, group = 0; begin < cols; begin += w->group_cols, group++) {
        size_t end = cols - begin < w->group_cols ? cols : begin + w->group_cols;
        __m256 times[4];
        UNROLL
        for (size_t r = 0; r < rows; r++)
            times[r] =
                scale ? _mm256_set1_ps(scales[r * w->scales_stride + group] * (coding == GEMM_E4M3 ? 256.0f : 1.0f))
                      : _mm256_setzero_ps();
        for (size_t c = begin; c < end; c += GEMM_LANES) {
            fetch_ahead(coding, codes, w->row_bytes, c);
            UNROLL
            for (size_t r = 0; r < rows; r++) {
                struct weights16 a = weights_at(coding, codes + r * w->row_bytes, c, times[r]);
                UNROLL
                for (size_t t = 0; t < tokens; t++) {
                    sum[t][r][0] = _mm256_fmadd_ps(a.low, _mm256_loadu_ps(x + t * x_stride + c), sum[t][r][0]);
                    sum[t][r][1] = _mm256_fmadd_ps(a.high, _mm256_loadu_ps(x + t * x_stride + c + 8), sum[t][r][1]);
                }
            }
        }
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            float *s = sums + t * TOKEN_SUMS + r * GEMM_LANES;
            _mm256_store_ps(s, sum[t][r][0]);
            _mm256_store_ps(s + 8, sum[t][r][1]);
        }
    }
}

/* Sums of a tile fill at most twelve registers. */
ALWAYS_INLINE bool all_rows(enum gemm_coding coding, const size_t tokens, float *sums, const struct gemm_codes *w,
                            size_t rows, const float *x, size_t x_stride, size_t cols, bool first)
{
    const size_t step = tokens == 1 ? 4 : tokens <= 3 ? 2 : 1;

    for (size_t r = 0; r < rows; r += step) {
        const uint8_t *codes = w->codes + r * w->row_bytes;
        if (r % GEMM_TILE_ROWS == 0 && !all_finite(coding, codes, w->row_bytes, cols))
            return false;
        tile(coding, tokens, step, sums + r * GEMM_LANES, codes, w, w->scales + r * w->scales_stride, x, x_stride, cols,
             first);
    }
    return true;
}

typedef bool sum_fn(float *sums, const struct gemm_codes *w, size_t rows, const float *x, size_t x_stride, size_t cols,
                    bool first);

#define VARIANT(name, coding, tokens)                                                                                  \
    static bool name(float *sums, const struct gemm_codes *w, size_t rows, const float *x, size_t x_stride,            \
                     size_t cols, bool first)                                                                          \
    {                                                                                                                  \
        return all_rows(coding, tokens, sums, w, rows, x, x_stride, cols, first);                                      \
    }
#define VARIANTS(name, coding)                                                                                         \
    VARIANT(name##_1, coding, 1)                                                                                       \
    VARIANT(name##_2, coding, 2)                                                                                       \
    VARIANT(name##_3, coding, 3)                                                                                       \
    VARIANT(name##_4, coding, 4)                                                                                       \
    VARIANT(name##_5, coding, 5)                                                                                       \
    VARIANT(name##_6, coding, 6)

VARIANTS(sum_f32, GEMM_F32)
VARIANTS(sum_bf16, GEMM_BF16)
VARIANTS(sum_e4m3, GEMM_E4M3)
VARIANTS(sum_int4, GEMM_INT4)

/* By tokens. */
#define ROW(name)                                                                                                      \
    {                                                                                                                  \
        NULL, name##_1, name##_2, name##_3, name##_4, name##_5, name##_6                                               \
    }
static sum_fn *const variants[GEMM_CODING_COUNT][GEMM_TILE_TOKENS + 1] = {
    [GEMM_F32] = ROW(sum_f32),
    [GEMM_BF16] = ROW(sum_bf16),
    [GEMM_E4M3] = ROW(sum_e4m3),
    [GEMM_INT4] = ROW(sum_int4),
};

bool gemm_sum_coded_avx2(float *sums, float *panel, const struct gemm_codes *w, size_t rows, const float *x,
                         size_t x_stride, size_t tokens, size_t cols, bool first)
{
    assert(!panel);
    return variants[w->coding][tokens](sums, w, rows, x, x_stride, cols, first);
}
#endif
