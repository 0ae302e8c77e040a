/* Block int4 with 512-bit vectors.
 *
 * A row is worked in batches of four groups: the extremes of each, the four
 * scales together, then the codes in runs of 64 columns. Divisions would be
 * half of the time, so codes come from a product and are checked; see
 * NEAR_HALF. Groups that are not a multiple of 32 columns, which no engine
 * loads except as whole odd rows, are left to the reference. */
#if defined(__x86_64__)
#include <stddef.h>

#include "quant/int4_scale4.h"
#include "quant/lanes_avx512.h"

#define LANES 16
#define RUN   64 /* columns whose codes are packed together */

struct sums {
    __m512 error2, energy2;
};

/* 64 codes of -8..7, 16 a vector, to 32 bytes. In each 128-bit quarter the two packs leave four columns of a, b, c and
 * d behind each other; the last permutation brings the quarters of each together. */
ALWAYS_INLINE __m256i pack64(const __m512i k[4])
{
    __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(k[0], k[1]), _mm512_packs_epi32(k[2], k[3]));
    __m512i nibbles = _mm512_add_epi8(bytes, _mm512_set1_epi8(8));
    __m512i pairs = _mm512_maddubs_epi16(nibbles, _mm512_set1_epi16(0x1001));
    __m256i order = _mm256_setr_epi16(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

    return _mm256_permutexvar_epi16(order, _mm512_cvtepi16_epi8(pairs));
}

/* Finite floats of one sign are ordered as their bits are, so that integer minima clamp: unsigned for the negative end
 * (larger bits are further from 0), signed for the positive one. They run beside the float units, which are full. */
ALWAYS_INLINE __m512 clamp(__m512 t)
{
    __m512i low = _mm512_castps_si512(_mm512_set1_ps(-8)), high = _mm512_castps_si512(_mm512_set1_ps(7));

    return _mm512_castsi512_ps(_mm512_min_epi32(_mm512_min_epu32(_mm512_castps_si512(t), low), high));
}

ALWAYS_INLINE __m512 max_magnitude(__m512 x, __m512 magnitude)
{
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(x)), _mm512_castps_si512(magnitude)));
}

/* Of the 16 columns at hand. */
struct step {
    __m512 scale, inverse, zero;
};

ALWAYS_INLINE struct step step_load(const struct steps *s, size_t g)
{
    return (struct step){_mm512_set1_ps(s->scale[g]), _mm512_set1_ps(s->inverse[g]), _mm512_set1_ps(s->zero[g])};
}

static __attribute__((noinline)) void divide(__m512i k[2], const float *w, float scale, float zero)
{
    for (int i = 0; i < 2; i++) {
        __m512 t = _mm512_div_ps(_mm512_loadu_ps(w + LANES * i), _mm512_set1_ps(scale));

        k[i] = _mm512_cvtps_epi32(clamp(_mm512_add_ps(t, _mm512_set1_ps(zero))));
    }
}

/* The codes of 32 columns of one group. */
ALWAYS_INLINE void round_pair(__m512i k[2], const float *w, struct sums *sums, const struct step *s, bool asym)
{
    __m512 far = _mm512_setzero_ps();
    __m512i near[2];

    for (int i = 0; i < 2; i++) {
        __m512 t = _mm512_mul_ps(_mm512_loadu_ps(w + LANES * i), s->inverse);

        t = clamp(asym ? _mm512_add_ps(t, s->zero) : t);
        near[i] = _mm512_cvtps_epi32(t);
        far = max_magnitude(_mm512_sub_ps(t, _mm512_cvtepi32_ps(near[i])), far);
    }
    if (__builtin_expect(_mm512_cmp_ps_mask(far, _mm512_set1_ps(NEAR_HALF), _CMP_GE_OQ), 0)) {
        __m512i exact[2];

        divide(exact, w, _mm512_cvtss_f32(s->scale), _mm512_cvtss_f32(s->zero));
        near[0] = exact[0];
        near[1] = exact[1];
    }
    for (int i = 0; i < 2; i++) {
        __m512 x = _mm512_loadu_ps(w + LANES * i), code = _mm512_cvtepi32_ps(near[i]);
        /* The product of a small integer and a BF16 number is exact, so FMA rounds as the two operations do. */
        __m512 off = _mm512_fnmadd_ps(asym ? _mm512_sub_ps(code, s->zero) : code, s->scale, x);

        sums->error2 = _mm512_add_ps(sums->error2, _mm512_mul_ps(off, off));
        sums->energy2 = _mm512_add_ps(sums->energy2, _mm512_mul_ps(x, x));
        k[i] = near[i];
    }
}

/* The codes of `groups` groups of n columns. */
ALWAYS_INLINE void round_batch(uint32_t *words, struct sums *sums, const float *w, size_t n, size_t groups,
                               const struct steps *s, bool asym)
{
    size_t cols = n * groups, g = 0, end = n;
    struct step step = step_load(s, 0);
    __m512i k[4];
    size_t c = 0;

    for (; c + RUN <= cols; c += RUN) {
        round_pair(k, w + c, sums, &step, asym);
        if (c + RUN / 2 == end) {
            step = step_load(s, ++g);
            end += n;
        }
        round_pair(k + 2, w + c + RUN / 2, sums, &step, asym);
        if (c + RUN == end && c + RUN < cols) {
            step = step_load(s, ++g);
            end += n;
        }
        _mm256_storeu_si256((__m256i *)(words + c / 8), pack64(k));
    }
    if (c < cols) {
        round_pair(k, w + c, sums, &step, asym);
        k[2] = k[3] = _mm512_setzero_si512();
        _mm_storeu_si128((__m128i *)(words + c / 8), _mm256_castsi256_si128(pack64(k)));
    }
}

ALWAYS_INLINE __m512 extreme(__m512 a, __m512 b, bool min)
{
    return min ? _mm512_min_ps(a, b) : _mm512_max_ps(a, b);
}

/* The extremes of four vectors, in their order. */
ALWAYS_INLINE __m128 reduce4(const __m512 m[BATCH_GROUPS], bool min)
{
    __m512 ab = extreme(_mm512_unpacklo_ps(m[0], m[1]), _mm512_unpackhi_ps(m[0], m[1]), min);
    __m512 cd = extreme(_mm512_unpacklo_ps(m[2], m[3]), _mm512_unpackhi_ps(m[2], m[3]), min);
    __m512 abcd = extreme(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee), min);
    __m256 lo = _mm512_castps512_ps256(abcd), hi = _mm512_extractf32x8_ps(abcd, 1);
    __m256 half = min ? _mm256_min_ps(lo, hi) : _mm256_max_ps(lo, hi);
    __m128 q0 = _mm256_castps256_ps128(half), q1 = _mm256_extractf128_ps(half, 1);

    return min ? _mm_min_ps(q0, q1) : _mm_max_ps(q0, q1);
}

ALWAYS_INLINE void absmax_batch(const struct int4_rows *q, struct steps *s, size_t at, const float *w, size_t n,
                                size_t groups, bool asym)
{
    __m512 max[BATCH_GROUPS], min[BATCH_GROUPS];

    for (size_t g = 0; g < BATCH_GROUPS; g++) {
        max[g] = min[g] = _mm512_setzero_ps();
        for (size_t c = 0; g < groups && c < n; c += LANES) {
            __m512 x = _mm512_loadu_ps(w + g * n + c);

            max[g] = asym ? _mm512_max_ps(x, max[g]) : max_magnitude(x, max[g]);
            if (asym)
                min[g] = _mm512_min_ps(x, min[g]);
        }
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
        struct sums sums = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        struct steps s[2];

        batch_steps(&s[0], q, row, 0, w, absmax, asym);
        for (size_t g = 0, turn = 0; g < groups; g += BATCH_GROUPS, turn ^= 1) {
            size_t batch = groups - g < BATCH_GROUPS ? groups - g : BATCH_GROUPS;

            if (g + BATCH_GROUPS < groups)
                batch_steps(&s[turn ^ 1], q, row, g + BATCH_GROUPS, w, absmax, asym);
            round_batch(q->words + row * q->words_stride + g * n / 8, &sums, w + g * n, n, batch, &s[turn], asym);
        }
        err[row] = (struct row_error){.error2 = lanes_fold(sums.error2), .energy2 = lanes_fold(sums.energy2)};
    }
}

void int4_absmax_avx512(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err)
{
    if (q->group_cols % (RUN / 2) != 0)
        int4_absmax_ref(q, x, x_stride, err);
    else if (q->zeros)
        encode_rows(q, x, x_stride, err, true, true);
    else
        encode_rows(q, x, x_stride, err, true, false);
}

void int4_round_avx512(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err)
{
    if (q->group_cols % (RUN / 2) != 0)
        int4_round_ref(q, x, x_stride, err);
    else if (q->zeros)
        encode_rows(q, x, x_stride, err, false, true);
    else
        encode_rows(q, x, x_stride, err, false, false);
}

/* 16 columns are two words: each lane shifts its nibble down, and takes the value that stands there in the group's
 * table. What is above the nibble does not count. */
ALWAYS_INLINE void decode16(float *x, const uint32_t *words, __m512 values)
{
    __m512i two = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)words));
    __m512i lanes = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), two);
    __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);

    _mm512_storeu_ps(x, _mm512_permutexvar_ps(_mm512_srlv_epi32(lanes, shift), values));
}

void int4_decode_avx512(float *x, size_t x_stride, const struct int4_rows *q)
{
    const __m512 nibbles = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    size_t groups = q->cols / q->group_cols;

    if (q->group_cols % LANES != 0) {
        int4_decode_ref(x, x_stride, q);
        return;
    }
    for (size_t row = 0; row < q->rows; row++)
        for (size_t g = 0; g < groups; g++) {
            size_t at = row * groups + g, first = g * q->group_cols;
            __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32((int)((uint32_t)q->scales[at] << 16)));
            __m512 zero = _mm512_set1_ps(q->zeros ? q->zeros[at] : 0);
            __m512 values = _mm512_mul_ps(_mm512_sub_ps(nibbles, zero), scale);

            for (size_t c = first; c < first + q->group_cols; c += LANES)
                decode16(x + row * x_stride + c, q->words + row * q->words_stride + c / 8, values);
        }
}
#endif
