/* e4m3_int4_avx512.c in halves. */
#if defined(__x86_64__)
#include "quant/e4m3_int4_steps.h"
#include "quant/lanes_avx2.h"

#define RUN 32 /* columns whose codes are packed together */

/* Sixteen lanes in two vectors. */
struct sums {
    __m256 error2[2], energy2[2];
};

struct step {
    __m256 decode, scale, inverse;
    bool divide;
};

/* Eight f16 of 2^-8 the values: code + 8, as dwords. */
ALWAYS_INLINE __m256i round8(__m128i halves, const struct step *s, struct sums *sums, size_t half)
{
    __m256 rounder = _mm256_set1_ps(ROUNDER), most = _mm256_set1_ps(ROUNDER + 7);
    __m256 x = _mm256_mul_ps(s->decode, _mm256_cvtph_ps(halves)), t;

    if (s->divide)
        t = _mm256_add_ps(_mm256_div_ps(x, s->scale), rounder);
    else
        t = _mm256_fmadd_ps(x, s->inverse, rounder);
    t = _mm256_min_ps(t, most);

    /* The product of a small integer and a BF16 number is exact, so FMA rounds as the two operations do. */
    __m256 off = _mm256_fnmadd_ps(_mm256_sub_ps(t, rounder), s->scale, x);

    sums->error2[half] = _mm256_add_ps(sums->error2[half], _mm256_mul_ps(off, off));
    sums->energy2[half] = _mm256_add_ps(sums->energy2[half], _mm256_mul_ps(x, x));
    return _mm256_and_si256(_mm256_castps_si256(t), _mm256_set1_epi32(15));
}

/* The codes of 16 columns, as words; in each half four of the first eight columns, then four of the others. */
ALWAYS_INLINE __m256i round16(const uint8_t *codes, const struct step *s, struct sums *sums)
{
    __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)codes)), 7);
    __m256i halves = _mm256_and_si256(words, _mm256_set1_epi16((short)0xBF80));
    __m256i a = round8(_mm256_castsi256_si128(halves), s, sums, 0);
    __m256i b = round8(_mm256_extracti128_si256(halves, 1), s, sums, 1);

    return _mm256_packus_epi32(a, b);
}

ALWAYS_INLINE void round_run(uint32_t *words, const uint8_t *codes, const struct step *s, struct sums *sums)
{
    __m256i a = round16(codes, s, sums), b = round16(codes + RUN / 2, s, sums);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_packus_epi16(a, b), _mm256_set1_epi16(0x1001));
    __m256i packed = _mm256_packus_epi16(pairs, pairs);

    _mm_storeu_si128((__m128i *)words,
                     _mm_unpacklo_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)));
}

ALWAYS_INLINE void round_batch(uint32_t *words, struct sums *sums, const uint8_t *codes, size_t n, size_t groups,
                               const struct fp8_steps *s, bool divide)
{
    for (size_t g = 0; g < groups; g++) {
        struct step step = {_mm256_set1_ps(s->decode[g]), _mm256_set1_ps(s->int4.scale[g]),
                            _mm256_set1_ps(s->int4.inverse[g]), divide && (s->divide >> g & 1)};

        for (size_t c = g * n; c < (g + 1) * n; c += RUN)
            round_run(words + c / 8, codes + c, &step, sums);
    }
}

/* The largest byte of each of four vectors, as dwords. */
ALWAYS_INLINE __m128i reduce4(const __m256i m[BATCH_GROUPS])
{
    __m256i ab = _mm256_max_epu8(_mm256_unpacklo_epi32(m[0], m[1]), _mm256_unpackhi_epi32(m[0], m[1]));
    __m256i cd = _mm256_max_epu8(_mm256_unpacklo_epi32(m[2], m[3]), _mm256_unpackhi_epi32(m[2], m[3]));
    __m256i abcd = _mm256_max_epu8(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    __m128i bytes = _mm_max_epu8(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1));

    bytes = _mm_max_epu8(bytes, _mm_srli_epi32(bytes, 16));
    bytes = _mm_max_epu8(bytes, _mm_srli_epi32(bytes, 8));
    return _mm_and_si128(bytes, _mm_set1_epi32(0xff));
}

ALWAYS_INLINE __m128i largest4(const uint8_t *codes, size_t n, size_t groups)
{
    __m256i most[BATCH_GROUPS], magnitude = _mm256_set1_epi8(0x7f);

    UNROLL for (size_t g = 0; g < BATCH_GROUPS; g++)
    {
        most[g] = _mm256_setzero_si256();
        for (size_t c = 0; g < groups && c < n; c += RUN) {
            __m256i bytes = _mm256_loadu_si256((const __m256i *)(codes + g * n + c));
            most[g] = _mm256_max_epu8(most[g], _mm256_and_si256(bytes, magnitude));
        }
    }
    return reduce4(most);
}

#define FOLD(sum) lanes_fold((sum)[0], (sum)[1])
#define NO_SUMS                                                                                                        \
    {                                                                                                                  \
        {_mm256_setzero_ps(), _mm256_setzero_ps()},                                                                    \
        {                                                                                                              \
            _mm256_setzero_ps(), _mm256_setzero_ps()                                                                   \
        }                                                                                                              \
    }
#include "quant/e4m3_int4_rows.h"

bool e4m3_to_int4_avx2(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                       size_t block_cols, struct row_error *err)
{
    return encode(q, codes, stride, scales, block_cols, err);
}
#endif
