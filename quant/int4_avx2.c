/* Block int4 with 256-bit vectors: int4_avx512.c in halves, and without FMA. The sixteen lanes of a sum are two
 * vectors. */
#if defined(__x86_64__)
#include <stddef.h>

#include "quant/int4_scale4.h"
#include "quant/lanes_avx2.h"

#define LANES 16
#define RUN   32 /* columns whose codes are packed together */

struct sums {
    __m256 error2[2], energy2[2];
};

/* 32 codes of -8..7, 8 a vector, to 16 bytes. In each half the two packs leave four columns of every vector behind
 * each other; the last unpacking brings the halves of each together. */
ALWAYS_INLINE __m128i pack32(const __m256i k[4])
{
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(k[0], k[1]), _mm256_packs_epi32(k[2], k[3]));
    __m256i nibbles = _mm256_add_epi8(bytes, _mm256_set1_epi8(8));
    __m256i pairs = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x1001));
    __m256i packed = _mm256_packus_epi16(pairs, pairs);

    return _mm_unpacklo_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
}

/* As in int4_avx512.c: finite floats of one sign are ordered as their bits are. */
ALWAYS_INLINE __m256 clamp(__m256 t)
{
    __m256i low = _mm256_castps_si256(_mm256_set1_ps(-8)), high = _mm256_castps_si256(_mm256_set1_ps(7));

    return _mm256_castsi256_ps(_mm256_min_epi32(_mm256_min_epu32(_mm256_castps_si256(t), low), high));
}

ALWAYS_INLINE __m256 magnitude(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

ALWAYS_INLINE __m256 max_magnitude(__m256 x, __m256 m)
{
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(magnitude(x)), _mm256_castps_si256(m)));
}

struct step {
    __m256 scale, inverse, zero;
};

static __attribute__((noinline)) void divide(__m256i k[4], const float *w, float scale, float zero)
{
    for (int i = 0; i < 4; i++) {
        __m256 t = _mm256_div_ps(_mm256_loadu_ps(w + 8 * i), _mm256_set1_ps(scale));

        k[i] = _mm256_cvtps_epi32(clamp(_mm256_add_ps(t, _mm256_set1_ps(zero))));
    }
}

ALWAYS_INLINE void round_run(uint32_t *words, struct sums *sums, const float *w, const struct step *s, bool asym)
{
    __m256 far = _mm256_setzero_ps();
    __m256i k[4];

    for (int i = 0; i < 4; i++) {
        __m256 t = _mm256_mul_ps(_mm256_loadu_ps(w + 8 * i), s->inverse);

        t = clamp(asym ? _mm256_add_ps(t, s->zero) : t);
        k[i] = _mm256_cvtps_epi32(t);
        far = max_magnitude(_mm256_sub_ps(t, _mm256_cvtepi32_ps(k[i])), far);
    }
    if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(far, _mm256_set1_ps(NEAR_HALF), _CMP_GE_OQ)), 0)) {
        __m256i exact[4];

        divide(exact, w, _mm256_cvtss_f32(s->scale), _mm256_cvtss_f32(s->zero));
        for (int i = 0; i < 4; i++)
            k[i] = exact[i];
    }
    for (int i = 0; i < 4; i++) {
        __m256 x = _mm256_loadu_ps(w + 8 * i), code = _mm256_cvtepi32_ps(k[i]);
        __m256 off = _mm256_sub_ps(x, _mm256_mul_ps(asym ? _mm256_sub_ps(code, s->zero) : code, s->scale));

        sums->error2[i % 2] = _mm256_add_ps(sums->error2[i % 2], _mm256_mul_ps(off, off));
        sums->energy2[i % 2] = _mm256_add_ps(sums->energy2[i % 2], _mm256_mul_ps(x, x));
    }
    _mm_storeu_si128((__m128i *)words, pack32(k));
}

/* The codes of `groups` groups of n columns. */
ALWAYS_INLINE void round_batch(uint32_t *words, struct sums *sums, const float *w, size_t n, size_t groups,
                               const struct steps *s, bool asym)
{
    for (size_t g = 0; g < groups; g++) {
        struct step step = {_mm256_set1_ps(s->scale[g]), _mm256_set1_ps(s->inverse[g]), _mm256_set1_ps(s->zero[g])};

        for (size_t c = g * n; c < (g + 1) * n; c += RUN)
            round_run(words + c / 8, sums, w + c, &step, asym);
    }
}

ALWAYS_INLINE __m256 extreme(__m256 a, __m256 b, bool min)
{
    return min ? _mm256_min_ps(a, b) : _mm256_max_ps(a, b);
}

/* The extremes of four vectors, in their order. */
ALWAYS_INLINE __m128 reduce4(const __m256 m[BATCH_GROUPS], bool min)
{
    __m256 ab = extreme(_mm256_unpacklo_ps(m[0], m[1]), _mm256_unpackhi_ps(m[0], m[1]), min);
    __m256 cd = extreme(_mm256_unpacklo_ps(m[2], m[3]), _mm256_unpackhi_ps(m[2], m[3]), min);
    __m256 abcd = extreme(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee), min);
    __m128 lo = _mm256_castps256_ps128(abcd), hi = _mm256_extractf128_ps(abcd, 1);

    return min ? _mm_min_ps(lo, hi) : _mm_max_ps(lo, hi);
}

ALWAYS_INLINE void absmax_batch(const struct int4_rows *q, struct steps *s, size_t at, const float *w, size_t n,
                                size_t groups, bool asym)
{
    __m256 max[BATCH_GROUPS], min[BATCH_GROUPS];

    for (size_t g = 0; g < BATCH_GROUPS; g++) {
        __m256 max2[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, min2[2] = {max2[0], max2[0]};

        for (size_t c = 0; g < groups && c < n; c += LANES)
            for (size_t i = 0; i < 2; i++) {
                __m256 x = _mm256_loadu_ps(w + g * n + c + 8 * i);

                max2[i] = asym ? _mm256_max_ps(x, max2[i]) : max_magnitude(x, max2[i]);
                if (asym)
                    min2[i] = _mm256_min_ps(x, min2[i]);
            }
        max[g] = _mm256_max_ps(max2[0], max2[1]);
        min[g] = _mm256_min_ps(min2[0], min2[1]);
    }
    if (asym)
        scale4_asymmetric(s, q->scales + at, q->zeros + at, reduce4(min, true), reduce4(max, false), groups);
    else
        scale4_symmetric(s, q->scales + at, reduce4(max, false), groups);
}

/* Scales of the batch that starts at group g: found, or read. */
ALWAYS_INLINE void batch_steps(struct steps *s, const struct int4_rows *q, size_t row, size_t g, const float *w,
                               bool absmax, bool asym)
{
    size_t groups = q->cols / q->group_cols, at = row * groups + g;
    size_t batch = groups - g < BATCH_GROUPS ? groups - g : BATCH_GROUPS;

    if (absmax)
        absmax_batch(q, s, at, w + g * q->group_cols, q->group_cols, batch, asym);
    else
        scale4_load(s, q->scales + at, asym ? q->zeros + at : NULL, batch);
}

/* The scales of a batch are begun before the codes of the one before, whose work hides the latency of two divisions. */
ALWAYS_INLINE void encode_rows(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err,
                               bool absmax, bool asym)
{
    size_t n = q->group_cols, groups = q->cols / n;

    for (size_t row = 0; row < q->rows; row++) {
        const float *w = x + row * x_stride;
        __m256 none = _mm256_setzero_ps();
        struct sums sums = {{none, none}, {none, none}};
        struct steps s[2];

        batch_steps(&s[0], q, row, 0, w, absmax, asym);
        for (size_t g = 0, turn = 0; g < groups; g += BATCH_GROUPS, turn ^= 1) {
            size_t batch = groups - g < BATCH_GROUPS ? groups - g : BATCH_GROUPS;

            if (g + BATCH_GROUPS < groups)
                batch_steps(&s[turn ^ 1], q, row, g + BATCH_GROUPS, w, absmax, asym);
            round_batch(q->words + row * q->words_stride + g * n / 8, &sums, w + g * n, n, batch, &s[turn], asym);
        }
        err[row] = (struct row_error){.error2 = lanes_fold(sums.error2[0], sums.error2[1]),
                                      .energy2 = lanes_fold(sums.energy2[0], sums.energy2[1])};
    }
}

void int4_absmax_avx2(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err)
{
    if (q->group_cols % RUN != 0)
        int4_absmax_ref(q, x, x_stride, err);
    else if (q->zeros)
        encode_rows(q, x, x_stride, err, true, true);
    else
        encode_rows(q, x, x_stride, err, true, false);
}

void int4_round_avx2(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err)
{
    if (q->group_cols % RUN != 0)
        int4_round_ref(q, x, x_stride, err);
    else if (q->zeros)
        encode_rows(q, x, x_stride, err, false, true);
    else
        encode_rows(q, x, x_stride, err, false, false);
}

/* Eight columns are one word: each lane shifts its nibble down. */
ALWAYS_INLINE void decode8(float *x, uint32_t word, __m256 scale, __m256i zero)
{
    __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    __m256i nibble = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)word), shift), _mm256_set1_epi32(15));

    _mm256_storeu_ps(x, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(nibble, zero)), scale));
}

void int4_decode_avx2(float *x, size_t x_stride, const struct int4_rows *q)
{
    size_t groups = q->cols / q->group_cols;

    if (q->group_cols % 8 != 0) {
        int4_decode_ref(x, x_stride, q);
        return;
    }
    for (size_t row = 0; row < q->rows; row++)
        for (size_t g = 0; g < groups; g++) {
            size_t at = row * groups + g, first = g * q->group_cols;
            __m256 scale = _mm256_castsi256_ps(_mm256_set1_epi32((int)((uint32_t)q->scales[at] << 16)));
            __m256i zero = _mm256_set1_epi32(8 + (q->zeros ? q->zeros[at] : 0));

            for (size_t c = first; c < first + q->group_cols; c += 8)
                decode8(x + row * x_stride + c, q->words[row * q->words_stride + c / 8], scale, zero);
        }
}
#endif
