/* Sixteen rows of codes, transposed while they are codes, which are narrow,
 * then decoded: a register holds rows of one column. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/gemm_strips.h"
#include "quant/unroll.h"

#define ROWS GEMM_STRIP_ROWS

/* Columns are worked sixteen by sixteen, a step of every lane: `to` is where lane 0's sixteen weights go. */
ALWAYS_INLINE float *step_at(float *strip, size_t c)
{
    return strip + c / GEMM_LANES * ROWS;
}

/* ---- transposing ---- */

/* 16 bytes of two rows, one in each half. */
ALWAYS_INLINE __m256i load2(const uint8_t *low, const uint8_t *high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high), 1);
}

/* Elements of 1, 2 or 4 bytes of neighbours side by side: the first of what the two have in order, and the rest. */
ALWAYS_INLINE void interleave(__m256i v[8], const int bytes)
{
    __m256i out[8];

    UNROLL
    for (size_t i = 0; i < 4; i++) {
        __m256i a = v[i], b = v[i + 4];
        out[2 * i] = bytes == 1 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpacklo_epi16(a, b);
        out[2 * i + 1] = bytes == 1 ? _mm256_unpackhi_epi8(a, b) : _mm256_unpackhi_epi16(a, b);
    }
    UNROLL
    for (size_t i = 0; i < 8; i++)
        v[i] = out[i];
}

/* v[i]: a row in each half. Three perfect shuffles of eight rows bring the eight elements of a column together, in
 * their order: of bytes v[i] has columns 2i and 2i + 1, of words column i. */
ALWAYS_INLINE void transpose(__m256i v[8], const int bytes)
{
    UNROLL
    for (size_t i = 0; i < 3; i++)
        interleave(v, bytes);
}

/* ---- codes of 8 and 4 bits ---- */

/* Eight f16 in each half, times their scales. */
ALWAYS_INLINE void store_halves(float *to, __m256i halves, __m256 low, __m256 high)
{
    _mm256_store_ps(to, _mm256_mul_ps(low, _mm256_cvtph_ps(_mm256_castsi256_si128(halves))));
    _mm256_store_ps(to + 8, _mm256_mul_ps(high, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))));
}

struct scales16 {
    __m256 low, high;
};

/* What each row's codes are multiplied by in one group. */
ALWAYS_INLINE struct scales16 scales_of(const struct gemm_codes *w, size_t rows, size_t group, float times)
{
    float each[ROWS];

    for (size_t r = 0; r < ROWS; r++)
        each[r] = w->scales[(r < rows ? r : 0) * w->scales_stride + group] * times;
    return (struct scales16){_mm256_loadu_ps(each), _mm256_loadu_ps(each + 8)};
}

/* The codes' rows; those that are not there are as the first. */
ALWAYS_INLINE void find_rows(const uint8_t *row[ROWS], const struct gemm_codes *w, size_t rows)
{
    for (size_t r = 0; r < ROWS; r++)
        row[r] = w->codes + (r < rows ? r : 0) * w->row_bytes;
}

/* A byte moved to a word's upper half and one down is quant/e4m3_avx2.c's f16, once its second bit is cleared. */
ALWAYS_INLINE __m256i e4m3_halves(__m256i words)
{
    return _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16((short)0xBF80));
}

static bool fill_e4m3(float *strip, const struct gemm_codes *w, size_t rows, size_t cols)
{
    const __m256i none = _mm256_setzero_si256(), sign = _mm256_set1_epi8((char)0x80), nan = _mm256_set1_epi8(-1);
    __m256i bad = none;
    const uint8_t *row[ROWS];

    find_rows(row, w, rows);
    for (size_t begin = 0, group = 0; begin < cols; begin += w->group_cols, group++) {
        size_t end = cols - begin < w->group_cols ? cols : begin + w->group_cols;
        struct scales16 s = scales_of(w, rows, group, 256.0f);
        for (size_t c = begin; c < end; c += 16) {
            __m256i v[8];
            UNROLL
            for (size_t i = 0; i < 8; i++) {
                v[i] = load2(row[i] + c, row[i + 8] + c);
                bad = _mm256_or_si256(bad, _mm256_cmpeq_epi8(_mm256_or_si256(v[i], sign), nan));
            }
            transpose(v, 1);
            float *to = step_at(strip, c);
            UNROLL
            for (size_t i = 0; i < 8; i++, to += 2 * GEMM_STRIP_LANE) {
                store_halves(to, e4m3_halves(_mm256_unpacklo_epi8(none, v[i])), s.low, s.high);
                store_halves(to + GEMM_STRIP_LANE, e4m3_halves(_mm256_unpackhi_epi8(none, v[i])), s.low, s.high);
            }
        }
    }
    return _mm256_testz_si256(bad, bad);
}

/* The upper byte of the f16 of code - 8; the lower one is 0. */
ALWAYS_INLINE __m256i int4_halves(void)
{
    return _mm256_broadcastsi128_si256(_mm_setr_epi8((char)0xC8, (char)0xC7, (char)0xC6, (char)0xC5, (char)0xC4,
                                                     (char)0xC2, (char)0xC0, (char)0xBC, 0x00, 0x3C, 0x40, 0x42, 0x44,
                                                     0x45, 0x46, 0x47));
}

/* Thirty-two columns are sixteen bytes, the even one of two in the lower four bits. */
static bool fill_int4(float *strip, const struct gemm_codes *w, size_t rows, size_t cols)
{
    const __m256i none = _mm256_setzero_si256(), low4 = _mm256_set1_epi8(15), halves = int4_halves();
    const uint8_t *row[ROWS];

    find_rows(row, w, rows);
    for (size_t begin = 0, group = 0; begin < cols; begin += w->group_cols, group++) {
        size_t end = cols - begin < w->group_cols ? cols : begin + w->group_cols;
        struct scales16 s = scales_of(w, rows, group, 1.0f);
        for (size_t c = begin; c < end; c += 32) {
            __m256i v[8];
            UNROLL
            for (size_t i = 0; i < 8; i++)
                v[i] = load2(row[i] + c / 2, row[i + 8] + c / 2);
            transpose(v, 1);
            UNROLL
            for (size_t i = 0; i < 8; i++) {
                float *to = step_at(strip, c) + i / 4 * ROWS + i % 4 * 4 * GEMM_STRIP_LANE;
                __m256i even = _mm256_shuffle_epi8(halves, _mm256_and_si256(v[i], low4));
                __m256i odd = _mm256_shuffle_epi8(halves, _mm256_and_si256(_mm256_srli_epi16(v[i], 4), low4));
                store_halves(to, _mm256_unpacklo_epi8(none, even), s.low, s.high);
                store_halves(to + GEMM_STRIP_LANE, _mm256_unpacklo_epi8(none, odd), s.low, s.high);
                store_halves(to + 2 * GEMM_STRIP_LANE, _mm256_unpackhi_epi8(none, even), s.low, s.high);
                store_halves(to + 3 * GEMM_STRIP_LANE, _mm256_unpackhi_epi8(none, odd), s.low, s.high);
            }
        }
    }
    return true;
}

/* ---- floats ---- */

/* Words of rows 0 to 3 and 8 to 11 below those of the others: unpacking to dwords then has rows 0 to 7 in order. */
static bool fill_bf16(float *strip, const struct gemm_codes *w, size_t rows, size_t cols)
{
    const __m256i none = _mm256_setzero_si256(), exponent = _mm256_set1_epi16(0x7F80);
    __m256i bad = none;
    const uint8_t *row[ROWS];

    find_rows(row, w, rows);
    for (size_t c = 0; c < cols; c += 8) {
        __m256i v[8];
        float *to = step_at(strip, c) + (c & 8) * GEMM_STRIP_LANE;
        UNROLL
        for (size_t i = 0; i < 8; i++) {
            size_t r = i < 4 ? i : i + 4;
            v[i] = load2(row[r] + 2 * c, row[r + 4] + 2 * c);
            bad = _mm256_or_si256(bad, _mm256_cmpeq_epi16(_mm256_and_si256(v[i], exponent), exponent));
        }
        transpose(v, 2);
        UNROLL
        for (size_t i = 0; i < 8; i++, to += GEMM_STRIP_LANE) {
            _mm256_store_si256((__m256i *)to, _mm256_unpacklo_epi16(none, v[i]));
            _mm256_store_si256((__m256i *)(to + 8), _mm256_unpackhi_epi16(none, v[i]));
        }
    }
    return _mm256_testz_si256(bad, bad);
}

/* Four columns of eight rows: v[i] has rows i and i + 4. */
ALWAYS_INLINE void transpose_floats(__m256 v[4])
{
    __m256 a = _mm256_unpacklo_ps(v[0], v[1]), b = _mm256_unpackhi_ps(v[0], v[1]);
    __m256 c = _mm256_unpacklo_ps(v[2], v[3]), d = _mm256_unpackhi_ps(v[2], v[3]);

    v[0] = _mm256_shuffle_ps(a, c, 0x44);
    v[1] = _mm256_shuffle_ps(a, c, 0xEE);
    v[2] = _mm256_shuffle_ps(b, d, 0x44);
    v[3] = _mm256_shuffle_ps(b, d, 0xEE);
}

/* Four columns; exponents of all ones are gathered in `bad`. */
ALWAYS_INLINE void fill_four(float *to, const uint8_t *const row[ROWS], size_t c, __m256i *bad)
{
    const __m256i exponent = _mm256_set1_epi32(0x7F800000);

    UNROLL
    for (size_t half = 0; half < ROWS; half += 8) {
        __m256 v[4];
        UNROLL
        for (size_t i = 0; i < 4; i++) {
            __m256i bits = load2(row[half + i] + 4 * c, row[half + i + 4] + 4 * c);
            *bad = _mm256_or_si256(*bad, _mm256_cmpeq_epi32(_mm256_and_si256(bits, exponent), exponent));
            v[i] = _mm256_castsi256_ps(bits);
        }
        transpose_floats(v);
        UNROLL
        for (size_t i = 0; i < 4; i++)
            _mm256_store_ps(to + i * GEMM_STRIP_LANE + half, v[i]);
    }
}

static bool fill_f32(float *strip, const struct gemm_codes *w, size_t rows, size_t cols)
{
    __m256i bad = _mm256_setzero_si256();
    const uint8_t *row[ROWS];
    bool finite = true;
    size_t c = 0;

    find_rows(row, w, rows);
    for (; c + 4 <= cols; c += 4)
        fill_four(step_at(strip, c) + (c & 12) * GEMM_STRIP_LANE, row, c, &bad);
    for (; c < cols; c++)
        for (size_t r = 0; r < ROWS; r++) {
            float x = ((const float *)(const void *)row[r])[c];
            step_at(strip, c)[c % GEMM_LANES * GEMM_STRIP_LANE + r] = x;
            finite &= x - x == 0.0f;
        }
    return finite && _mm256_testz_si256(bad, bad);
}

bool gemm_fill_avx2(float *strip, const struct gemm_codes *w, size_t rows, size_t cols)
{
    typedef bool fill_fn(float *, const struct gemm_codes *, size_t, size_t);
    static fill_fn *const fills[GEMM_CODING_COUNT] = {
        [GEMM_F32] = fill_f32, [GEMM_BF16] = fill_bf16, [GEMM_E4M3] = fill_e4m3, [GEMM_INT4] = fill_int4};

    return fills[w->coding](strip, w, rows, cols);
}
#endif
