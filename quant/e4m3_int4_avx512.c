/* As int4_avx512.c works floats: batches of four groups, their scales found while the codes of the batch before are
 * made. The largest magnitude of a group is that of its bytes. */
#if defined(__x86_64__)
#include "quant/e4m3_int4_steps.h"
#include "quant/lanes_avx512.h"

#define RUN 64 /* columns whose codes are packed together */

struct sums {
    __m512 error2, energy2;
};

struct step {
    __m512 decode, scale, inverse;
    bool divide;
};

ALWAYS_INLINE struct step step_load(const struct fp8_steps *s, size_t g, bool divide)
{
    return (struct step){_mm512_set1_ps(s->decode[g]), _mm512_set1_ps(s->int4.scale[g]),
                         _mm512_set1_ps(s->int4.inverse[g]), divide && (s->divide >> g & 1)};
}

/* Sixteen f16 of 2^-8 the values: bits with code + 8 in their low nibble. */
ALWAYS_INLINE __m512i round16(__m256i halves, const struct step *s, struct sums *sums)
{
    __m512 rounder = _mm512_set1_ps(ROUNDER), most = _mm512_set1_ps(ROUNDER + 7);
    __m512 x = _mm512_mul_ps(s->decode, _mm512_cvtph_ps(halves)), t;

    if (s->divide)
        t = _mm512_add_ps(_mm512_div_ps(x, s->scale), rounder);
    else
        t = _mm512_fmadd_ps(x, s->inverse, rounder);
    t = _mm512_min_ps(t, most);

    /* The product of a small integer and a BF16 number is exact, so FMA rounds as the two operations do. */
    __m512 off = _mm512_fnmadd_ps(_mm512_sub_ps(t, rounder), s->scale, x);

    sums->error2 = _mm512_add_ps(sums->error2, _mm512_mul_ps(off, off));
    sums->energy2 = _mm512_add_ps(sums->energy2, _mm512_mul_ps(x, x));
    return _mm512_castps_si512(t);
}

/* The low words of 2 x 16 dwords, which are the codes of 32 columns. */
ALWAYS_INLINE __m512i round32(__m256i codes, const struct step *s, struct sums *sums)
{
    __m512i low_words = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24,
                                         22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i halves =
        _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7), _mm512_set1_epi16((short)0xBF80));
    __m512i a = round16(_mm512_castsi512_si256(halves), s, sums);
    __m512i b = round16(_mm512_extracti64x4_epi64(halves, 1), s, sums);

    return _mm512_permutex2var_epi16(a, low_words, b);
}

/* 2 x 32 words of 0..15 to 32 bytes. */
ALWAYS_INLINE __m256i pack64(__m512i a, __m512i b)
{
    __m512i pairs = _mm512_maddubs_epi16(_mm512_packus_epi16(a, b), _mm512_set1_epi16(0x1001));

    return _mm256_permutevar8x32_epi32(_mm512_cvtepi16_epi8(pairs), _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
}

ALWAYS_INLINE __m256i load32(const uint8_t *codes)
{
    return _mm256_loadu_si256((const __m256i *)codes);
}

/* The codes of `groups` groups of n columns. divide: a constant, false when no group needs it. */
ALWAYS_INLINE void round_batch(uint32_t *words, struct sums *sums, const uint8_t *codes, size_t n, size_t groups,
                               const struct fp8_steps *s, bool divide)
{
    size_t cols = n * groups, c = 0;

    for (; c + RUN <= cols; c += RUN) {
        struct step first = step_load(s, c / n, divide), second = step_load(s, (c + RUN / 2) / n, divide);
        __m512i a = round32(load32(codes + c), &first, sums);
        __m512i b = round32(load32(codes + c + RUN / 2), &second, sums);
        _mm256_storeu_si256((__m256i *)(words + c / 8), pack64(a, b));
    }
    if (c < cols) {
        struct step last = step_load(s, c / n, divide);
        __m512i a = round32(load32(codes + c), &last, sums);
        _mm_storeu_si128((__m128i *)(words + c / 8), _mm256_castsi256_si128(pack64(a, _mm512_setzero_si512())));
    }
}

/* The largest byte of each of four vectors, as dwords. */
ALWAYS_INLINE __m128i reduce4(const __m512i m[BATCH_GROUPS])
{
    __m512i ab = _mm512_max_epu8(_mm512_unpacklo_epi32(m[0], m[1]), _mm512_unpackhi_epi32(m[0], m[1]));
    __m512i cd = _mm512_max_epu8(_mm512_unpacklo_epi32(m[2], m[3]), _mm512_unpackhi_epi32(m[2], m[3]));
    __m512i abcd = _mm512_max_epu8(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_max_epu8(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
    __m128i bytes = _mm_max_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));

    bytes = _mm_max_epu8(bytes, _mm_srli_epi32(bytes, 16));
    bytes = _mm_max_epu8(bytes, _mm_srli_epi32(bytes, 8));
    return _mm_and_si128(bytes, _mm_set1_epi32(0xff));
}

ALWAYS_INLINE __m128i largest4(const uint8_t *codes, size_t n, size_t groups)
{
    __m512i most[BATCH_GROUPS], magnitude = _mm512_set1_epi8(0x7f);

    UNROLL for (size_t g = 0; g < BATCH_GROUPS; g++)
    {
        most[g] = _mm512_setzero_si512();
        if (g < groups && n < RUN)
            most[g] = _mm512_and_si512(_mm512_zextsi256_si512(load32(codes + g * n)), magnitude);
        for (size_t c = 0; g < groups && c + RUN <= n; c += RUN)
            most[g] = _mm512_max_epu8(most[g], _mm512_and_si512(_mm512_loadu_si512(codes + g * n + c), magnitude));
    }
    return reduce4(most);
}

#define FOLD(sum) lanes_fold(sum)
#define NO_SUMS                                                                                                        \
    {                                                                                                                  \
        _mm512_setzero_ps(), _mm512_setzero_ps()                                                                       \
    }
#include "quant/e4m3_int4_rows.h"

bool e4m3_to_int4_avx512(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                         size_t block_cols, struct row_error *err)
{
    return encode(q, codes, stride, scales, block_cols, err);
}
#endif
