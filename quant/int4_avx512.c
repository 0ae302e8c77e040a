/* Block int4 with 512-bit vectors.
 *
 * A row is worked in batches of four groups: the extremes of each, the four
 * scales together, then the codes in runs of 64 columns. Divisions would be
 * half of the time, so codes come from a product and are checked; see
 * NEAR_HALF. Groups that are not a multiple of 32 columns, which no engine
 * loads except as whole odd rows, are left to the reference. */
#include "quant/int4_scale4.h"

#include <stddef.h>

#define LANES 16
#define RUN   64 /* columns whose codes are packed together */

struct sums {
    __m512 error2, energy2;
};

/* 64 codes of -8..7, 16 a vector, to 32 bytes. In each 128-bit quarter the two packs leave four columns of a, b, c and
 * d behind each other; the last permutation brings the quarters of each together. */
static inline __m256i pack64(const __m512i k[4])
{
    __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(k[0], k[1]), _mm512_packs_epi32(k[2], k[3]));
    __m512i nibbles = _mm512_add_epi8(bytes, _mm512_set1_epi8(8));
    __m512i pairs = _mm512_maddubs_epi16(nibbles, _mm512_set1_epi16(0x1001));
    __m256i order = _mm256_setr_epi16(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

    return _mm256_permutexvar_epi16(order, _mm512_cvtepi16_epi8(pairs));
}

static inline __m512 clamp(__m512 t)
{
    return _mm512_min_ps(_mm512_max_ps(t, _mm512_set1_ps(-8)), _mm512_set1_ps(7));
}

/* Two vectors of one group. */
struct pair {
    __m512 w[2];
    __m512 scale, inverse, zero;
    __m512 code[2];
    __m512i k[2];
};

static inline __m512 pair_round(struct pair *p, bool asym)
{
    __m512 off[2];

    for (int i = 0; i < 2; i++) {
        __m512 t = _mm512_mul_ps(p->w[i], p->inverse);

        t = clamp(asym ? _mm512_add_ps(t, p->zero) : t);
        p->k[i] = _mm512_cvtps_epi32(t);
        p->code[i] = _mm512_cvtepi32_ps(p->k[i]);
        off[i] = _mm512_abs_ps(_mm512_sub_ps(t, p->code[i]));
    }
    return _mm512_max_ps(off[0], off[1]);
}

static __attribute__((noinline)) void pair_divide(struct pair *p)
{
    for (int i = 0; i < 2; i++) {
        p->k[i] = _mm512_cvtps_epi32(clamp(_mm512_add_ps(_mm512_div_ps(p->w[i], p->scale), p->zero)));
        p->code[i] = _mm512_cvtepi32_ps(p->k[i]);
    }
}

static inline void pair_sums(struct sums *sums, const struct pair *p, bool asym)
{
    for (int i = 0; i < 2; i++) {
        /* The product of a small integer and a BF16 number is exact, so FMA rounds as the two operations do. */
        __m512 z = asym ? _mm512_sub_ps(p->code[i], p->zero) : p->code[i];
        __m512 off = _mm512_fnmadd_ps(z, p->scale, p->w[i]);

        sums->error2 = _mm512_add_ps(sums->error2, _mm512_mul_ps(off, off));
        sums->energy2 = _mm512_add_ps(sums->energy2, _mm512_mul_ps(p->w[i], p->w[i]));
    }
}

static inline struct pair pair_load(const float *w, const struct steps *s, size_t g)
{
    return (struct pair){
        .w = {_mm512_loadu_ps(w), _mm512_loadu_ps(w + LANES)},
        .scale = _mm512_set1_ps(s->scale[g]),
        .inverse = _mm512_set1_ps(s->inverse[g]),
        .zero = _mm512_set1_ps(s->zero[g]),
    };
}

/* Both: the run's second half is there, too. */
static inline void round_run(uint32_t *words, struct sums *sums, struct pair p[2], bool both, bool asym)
{
    __m512 off = pair_round(&p[0], asym);

    if (both)
        off = _mm512_max_ps(off, pair_round(&p[1], asym));
    if (__builtin_expect(_mm512_cmp_ps_mask(off, _mm512_set1_ps(NEAR_HALF), _CMP_GE_OQ), 0)) {
        pair_divide(&p[0]);
        if (both)
            pair_divide(&p[1]);
    }
    pair_sums(sums, &p[0], asym);
    if (both)
        pair_sums(sums, &p[1], asym);

    __m512i none = _mm512_setzero_si512();
    __m256i packed = pack64((__m512i[4]){p[0].k[0], p[0].k[1], both ? p[1].k[0] : none, both ? p[1].k[1] : none});

    if (both)
        _mm256_storeu_si256((__m256i *)words, packed);
    else
        _mm_storeu_si128((__m128i *)words, _mm256_castsi256_si128(packed));
}

/* The codes of `groups` groups of n columns. */
static inline void round_batch(uint32_t *words, struct sums *sums, const float *w, size_t n, size_t groups,
                               const struct steps *s, bool asym)
{
    size_t cols = n * groups;
    size_t g = 0, left = n;

    for (size_t c = 0; c < cols; c += RUN) {
        struct pair p[2];
        bool both = c + RUN <= cols;

        p[0] = pair_load(w + c, s, g);
        if (left == RUN / 2) {
            g++;
            left = n;
        } else
            left -= RUN / 2;
        if (both) {
            p[1] = pair_load(w + c + RUN / 2, s, g);
            if (left == RUN / 2) {
                g++;
                left = n;
            } else
                left -= RUN / 2;
            round_run(words + c / 8, sums, p, true, asym);
        } else
            round_run(words + c / 8, sums, p, false, asym);
    }
}

static inline __m512 extreme(__m512 a, __m512 b, bool min)
{
    return min ? _mm512_min_ps(a, b) : _mm512_max_ps(a, b);
}

/* The extremes of four vectors, in their order. */
static inline __m128 reduce4(const __m512 m[BATCH_GROUPS], bool min)
{
    __m512 ab = extreme(_mm512_unpacklo_ps(m[0], m[1]), _mm512_unpackhi_ps(m[0], m[1]), min);
    __m512 cd = extreme(_mm512_unpacklo_ps(m[2], m[3]), _mm512_unpackhi_ps(m[2], m[3]), min);
    __m512 abcd = extreme(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee), min);
    __m256 lo = _mm512_castps512_ps256(abcd), hi = _mm512_extractf32x8_ps(abcd, 1);
    __m256 half = min ? _mm256_min_ps(lo, hi) : _mm256_max_ps(lo, hi);
    __m128 q0 = _mm256_castps256_ps128(half), q1 = _mm256_extractf128_ps(half, 1);

    return min ? _mm_min_ps(q0, q1) : _mm_max_ps(q0, q1);
}

static inline void absmax_batch(const struct int4_rows *q, struct steps *s, size_t at, const float *w, size_t n,
                                size_t groups, bool asym)
{
    __m512 max[BATCH_GROUPS], min[BATCH_GROUPS];

    for (size_t g = 0; g < BATCH_GROUPS; g++) {
        max[g] = min[g] = _mm512_setzero_ps();
        for (size_t c = 0; g < groups && c < n; c += LANES) {
            __m512 x = _mm512_loadu_ps(w + g * n + c);

            max[g] = _mm512_max_ps(asym ? x : _mm512_abs_ps(x), max[g]);
            if (asym)
                min[g] = _mm512_min_ps(x, min[g]);
        }
    }
    if (asym)
        scale4_asymmetric(s, q->scales + at, q->zeros + at, reduce4(min, true), reduce4(max, false), groups);
    else
        scale4_symmetric(s, q->scales + at, reduce4(max, false), groups);
}

static inline float fold(__m512 lanes)
{
    __m256 sum8 = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    __m128 sum4 = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
    __m128 sum2 = _mm_add_ps(sum4, _mm_movehl_ps(sum4, sum4));

    return _mm_cvtss_f32(_mm_add_ss(sum2, _mm_movehdup_ps(sum2)));
}

static inline void encode_rows(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err,
                               bool absmax, bool asym)
{
    size_t n = q->group_cols, groups = q->cols / n;

    for (size_t row = 0; row < q->rows; row++) {
        struct sums sums = {_mm512_setzero_ps(), _mm512_setzero_ps()};

        for (size_t g = 0; g < groups; g += BATCH_GROUPS) {
            size_t batch = groups - g < BATCH_GROUPS ? groups - g : BATCH_GROUPS, at = row * groups + g;
            const float *w = x + row * x_stride + g * n;
            struct steps s;

            if (absmax)
                absmax_batch(q, &s, at, w, n, batch, asym);
            else
                scale4_load(&s, q->scales + at, asym ? q->zeros + at : NULL, batch);
            round_batch(q->words + row * q->words_stride + g * n / 8, &sums, w, n, batch, &s, asym);
        }
        err[row] = (struct row_error){.error2 = fold(sums.error2), .energy2 = fold(sums.energy2)};
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

/* 16 columns are two words: each lane shifts its nibble down. */
static inline void decode16(float *x, const uint32_t *words, __m512 scale, __m512i zero)
{
    __m512i two = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)words));
    __m512i lanes = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), two);
    __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    __m512i nibble = _mm512_and_si512(_mm512_srlv_epi32(lanes, shift), _mm512_set1_epi32(15));

    _mm512_storeu_ps(x, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(nibble, zero)), scale));
}

void int4_decode_avx512(float *x, size_t x_stride, const struct int4_rows *q)
{
    size_t groups = q->cols / q->group_cols;

    if (q->group_cols % LANES != 0) {
        int4_decode_ref(x, x_stride, q);
        return;
    }
    for (size_t row = 0; row < q->rows; row++)
        for (size_t g = 0; g < groups; g++) {
            size_t at = row * groups + g, first = g * q->group_cols;
            __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32((int)((uint32_t)q->scales[at] << 16)));
            __m512i zero = _mm512_set1_epi32(8 + (q->zeros ? q->zeros[at] : 0));

            for (size_t c = first; c < first + q->group_cols; c += LANES)
                decode16(x + row * x_stride + c, q->words + row * q->words_stride + c / 8, scale, zero);
        }
}
