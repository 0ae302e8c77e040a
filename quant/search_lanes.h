/* The scale search in vectors across rows: the body of search_avx2.c and
 * search_avx512.c, which differ in nothing but width. The includer defines, for
 * its vector V of LANES floats and its comparison result M:
 *
 *   v_load v_store v_set1 v_add v_sub v_mul v_div v_min v_max v_abs v_round
 *   v_min_signed, v_min_unsigned       of the bits as integers
 *   v_square_add(z, sum)   sum + z z, for integers
 *   m_less(a, b) m_differ(a, b) m_and(a, b), v_select(m, yes, no)
 *   transpose(to, rows)    to[column * LANES + row] of LANES x LANES floats
 *   ROUND_ROWS             int4_round_*; SEARCH_NAME: the function made
 *
 * A tile is one group of LANES rows, transposed once, so that lane i is row i
 * and the sums over the columns are the written, sequential ones. Both signs of
 * a candidate are worked at once: they share the first rounding, and four
 * independent chains of additions hide the adder's latency. v_min and v_max
 * return their second argument where one is NaN, as the reference's clamp. */
#include <float.h>
#include <math.h>
#include <stdalign.h>

#include "quant/int4.h"
#include "quant/search.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Columns of a tile: w and z of both signs of a 128-column group and sixteen rows are 24 KiB, inside an L1 cache.
 * Longer groups are worked in several tiles. */
#define TILE_COLS 256

enum { POS, NEG, SIGNS };

struct tile {
    alignas(64) float w[TILE_COLS * LANES];
    alignas(64) float hw[TILE_COLS * LANES];       /* h w; unused without h */
    alignas(64) float z[SIGNS][TILE_COLS * LANES]; /* of the last rounding */
    const float *h;                                /* of the tile's columns, or NULL */
    size_t cols;
};

struct candidate {
    V s, r, num, den, err;
};

struct block {
    const float *rows[LANES]; /* the last row repeats where there are fewer */
    size_t rows_count;
};

static struct block block_at(const struct int4_rows *q, const float *x, size_t x_stride, size_t row)
{
    struct block b = {.rows_count = q->rows - row < LANES ? q->rows - row : LANES};

    for (size_t i = 0; i < LANES; i++)
        b.rows[i] = x + (row + (i < b.rows_count ? i : b.rows_count - 1)) * x_stride;
    return b;
}

static void tile_fill(struct tile *t, const struct block *b, size_t col, size_t cols, const float *h)
{
    const float *rows[LANES];
    size_t j = 0;

    for (; j + LANES <= cols; j += LANES) {
        for (size_t i = 0; i < LANES; i++)
            rows[i] = b->rows[i] + col + j;
        transpose(t->w + j * LANES, rows);
    }
    for (; j < cols; j++)
        for (size_t i = 0; i < LANES; i++)
            t->w[j * LANES + i] = b->rows[i][col + j];
    t->cols = cols;
    t->h = h ? h + col : NULL;
    for (j = 0; h && j < cols; j++)
        v_store(t->hw + j * LANES, v_mul(v_set1(t->h[j]), v_load(t->w + j * LANES)));
}

/* lo < 0 < hi. Floats of one sign are ordered as their bits are, so that integer minima clamp: unsigned at the negative
 * end (larger bits are further from 0), signed at the positive one. They run beside the float units, which are full.
 * A NaN that arithmetic makes is negative, and becomes lo as in the reference. */
ALWAYS_INLINE V clamp(V t, float lo, float hi)
{
    return v_min_signed(v_min_unsigned(t, v_set1(lo)), v_set1(hi));
}

ALWAYS_INLINE V clamp_pos(V t)
{
    return clamp(t, -8, 7);
}

ALWAYS_INLINE V clamp_neg(V t)
{
    return clamp(t, -7, 8);
}

ALWAYS_INLINE V fit_num(V num, const struct tile *t, size_t j, V z, bool weighted)
{
    return v_add(num, v_mul(v_load((weighted ? t->hw : t->w) + j * LANES), z));
}

ALWAYS_INLINE V fit_den(V den, const struct tile *t, size_t j, V z, bool weighted)
{
    return weighted ? v_add(den, v_mul(v_set1(t->h[j]), v_mul(z, z))) : v_square_add(z, den);
}

ALWAYS_INLINE V fit_err(V err, const struct tile *t, size_t j, V z, V s, bool weighted)
{
    V d = v_sub(v_load(t->w + j * LANES), v_mul(s, z));

    return v_add(err, weighted ? v_mul(v_set1(t->h[j]), v_mul(d, d)) : v_mul(d, d));
}

/* First pass: both signs start from one scale, so w r is rounded once. */
ALWAYS_INLINE void fit_first(struct candidate c[SIGNS], const struct tile *t, bool weighted, bool both)
{
    V r = c[POS].r;
    V num0 = c[POS].num, den0 = c[POS].den, num1 = c[NEG].num, den1 = c[NEG].den;

    for (size_t j = 0; j < t->cols; j++) {
        V near = v_round(v_mul(v_load(t->w + j * LANES), r));
        V z0 = clamp_pos(near);

        num0 = fit_num(num0, t, j, z0, weighted);
        den0 = fit_den(den0, t, j, z0, weighted);
        if (both) {
            V z1 = clamp_neg(near);

            num1 = fit_num(num1, t, j, z1, weighted);
            den1 = fit_den(den1, t, j, z1, weighted);
        }
    }
    c[POS].num = num0, c[POS].den = den0, c[NEG].num = num1, c[NEG].den = den1;
}

/* Second pass: the codes are kept for the residual. */
ALWAYS_INLINE void fit_second(struct candidate c[SIGNS], struct tile *t, bool weighted, bool both)
{
    V r0 = c[POS].r, r1 = c[NEG].r;
    V num0 = c[POS].num, den0 = c[POS].den, num1 = c[NEG].num, den1 = c[NEG].den;

    for (size_t j = 0; j < t->cols; j++) {
        V w = v_load(t->w + j * LANES);
        V z0 = clamp_pos(v_round(v_mul(w, r0)));

        v_store(t->z[POS] + j * LANES, z0);
        num0 = fit_num(num0, t, j, z0, weighted);
        den0 = fit_den(den0, t, j, z0, weighted);
        if (both) {
            V z1 = clamp_neg(v_round(v_mul(w, r1)));

            v_store(t->z[NEG] + j * LANES, z1);
            num1 = fit_num(num1, t, j, z1, weighted);
            den1 = fit_den(den1, t, j, z1, weighted);
        }
    }
    c[POS].num = num0, c[POS].den = den0, c[NEG].num = num1, c[NEG].den = den1;
}

ALWAYS_INLINE void fit_residual(struct candidate c[SIGNS], const struct tile *t, bool weighted, bool both)
{
    V s0 = c[POS].s, s1 = c[NEG].s, err0 = c[POS].err, err1 = c[NEG].err;

    for (size_t j = 0; j < t->cols; j++) {
        err0 = fit_err(err0, t, j, v_load(t->z[POS] + j * LANES), s0, weighted);
        if (both)
            err1 = fit_err(err1, t, j, v_load(t->z[NEG] + j * LANES), s1, weighted);
    }
    c[POS].err = err0, c[NEG].err = err1;
}

ALWAYS_INLINE void candidate_begin(struct candidate *c, V s)
{
    V zero = v_set1(0);

    *c = (struct candidate){.s = s, .r = v_div(v_set1(1), s), .num = zero, .den = zero, .err = zero};
}

/* s = num / den where that is a scale; r is of the codes that num and den were made from until the next begin. */
ALWAYS_INLINE void candidate_refit(struct candidate *c)
{
    M good = m_and(m_less(v_set1(0), c->den), m_differ(c->num, v_set1(0)));

    c->s = v_select(good, v_div(c->num, c->den), c->s);
}

struct choice {
    V best, s;
};

ALWAYS_INLINE void choose(struct choice *best, const struct candidate *c)
{
    M better = m_and(m_less(v_set1(0), c->den), m_less(c->err, best->best));

    best->best = v_select(better, c->err, best->best);
    best->s = v_select(better, c->s, best->s);
}

struct top {
    V v, base; /* the largest weight, its first occurrence; |v| / 7.5 */
};

ALWAYS_INLINE V larger(V v, V w)
{
    return v_select(m_less(v_abs(v), v_abs(w)), w, v);
}

/* The sign of v goes first, and a tie stays with the first. */
static void store_scales(const struct int4_rows *q, size_t row, size_t group, size_t rows, const struct top *top,
                         const struct choice c[SIGNS])
{
    size_t groups = q->cols / q->group_cols;
    alignas(64) float v[LANES], s[SIGNS][LANES], best[SIGNS][LANES];

    v_store(v, top->v);
    for (int i = 0; i < SIGNS; i++) {
        v_store(s[i], c[i].s);
        v_store(best[i], c[i].best);
    }
    for (size_t i = 0; i < rows; i++) {
        bool negative = v[i] < 0 ? !(best[POS][i] < best[NEG][i]) : best[NEG][i] < best[POS][i];
        float scale = negative && best[NEG][i] < INFINITY ? -s[NEG][i] : s[POS][i];

        if (fabsf(v[i]) <= INT4_SCALE_MIN / 2)
            scale = v[i] == 0 ? 1.0f : INT4_SCALE_MIN;
        q->scales[(row + i) * groups + group] = int4_scale_code(scale, false);
    }
}

/* A group that fits a tile: everything from one transposition. */
ALWAYS_INLINE void search_tile(struct choice best[SIGNS], V base, struct tile *t, bool weighted, bool both)
{
    for (int k = 0; k < SEARCH_CANDIDATES; k++) {
        struct candidate c[SIGNS];
        V s = v_mul(base, v_set1(search_f[k]));

        candidate_begin(&c[POS], s);
        c[NEG] = c[POS];
        fit_first(c, t, weighted, both);
        for (int i = 0; i <= (both ? NEG : POS); i++) {
            candidate_refit(&c[i]);
            candidate_begin(&c[i], c[i].s);
        }
        fit_second(c, t, weighted, both);
        for (int i = 0; i <= (both ? NEG : POS); i++)
            candidate_refit(&c[i]);
        fit_residual(c, t, weighted, both);
        for (int i = 0; i <= (both ? NEG : POS); i++)
            choose(&best[i], &c[i]);
    }
}

static void search_short(const struct int4_rows *q, const struct block *b, size_t row, size_t group, const float *h,
                         bool positive, struct tile *t)
{
    struct top top = {.v = v_set1(0)};

    tile_fill(t, b, group * q->group_cols, q->group_cols, h);
    for (size_t j = 0; j < t->cols; j++)
        top.v = larger(top.v, v_load(t->w + j * LANES));
    top.base = v_div(v_abs(top.v), v_set1(7.5f));

    struct choice none = {.best = v_set1(INFINITY), .s = top.base};
    struct choice best[SIGNS] = {none, none};

    if (h && positive)
        search_tile(best, top.base, t, true, false);
    else if (h)
        search_tile(best, top.base, t, true, true);
    else if (positive)
        search_tile(best, top.base, t, false, false);
    else
        search_tile(best, top.base, t, false, true);
    store_scales(q, row, group, b->rows_count, &top, best);
}

/* Keeps the codes of c in t->z, for fit_residual. */
static void round_tile(const struct candidate c[SIGNS], struct tile *t)
{
    for (size_t j = 0; j < t->cols; j++) {
        V w = v_load(t->w + j * LANES);

        v_store(t->z[POS] + j * LANES, clamp_pos(v_round(v_mul(w, c[POS].r))));
        v_store(t->z[NEG] + j * LANES, clamp_neg(v_round(v_mul(w, c[NEG].r))));
    }
}

/* A longer group, such as a whole row: each pass goes over its tiles once, with all candidates side by side. */
static void search_long(const struct int4_rows *q, const struct block *b, size_t row, size_t group, const float *h,
                        bool positive, struct tile *t)
{
    size_t first = group * q->group_cols, end = first + q->group_cols;
    struct candidate c[SEARCH_CANDIDATES][SIGNS];
    struct top top = {.v = v_set1(0)};

    for (int pass = 0; pass < 4; pass++) {
        for (size_t col = first; col < end; col += TILE_COLS) {
            tile_fill(t, b, col, end - col < TILE_COLS ? end - col : TILE_COLS, h);
            for (size_t j = 0; pass == 0 && j < t->cols; j++)
                top.v = larger(top.v, v_load(t->w + j * LANES));
            for (int k = 0; pass > 0 && k < SEARCH_CANDIDATES; k++) {
                if (pass < 3 && h)
                    fit_second(c[k], t, true, true);
                else if (pass < 3)
                    fit_second(c[k], t, false, true);
                else {
                    round_tile(c[k], t);
                    if (h)
                        fit_residual(c[k], t, true, true);
                    else
                        fit_residual(c[k], t, false, true);
                }
            }
        }
        top.base = v_div(v_abs(top.v), v_set1(7.5f));
        for (int k = 0; k < SEARCH_CANDIDATES; k++)
            for (int i = 0; i < SIGNS; i++) {
                if (pass == 0)
                    candidate_begin(&c[k][i], v_mul(top.base, v_set1(search_f[k])));
                if (pass == 1 || pass == 2)
                    candidate_refit(&c[k][i]);
                if (pass == 1)
                    candidate_begin(&c[k][i], c[k][i].s);
            }
    }

    struct choice none = {.best = v_set1(INFINITY), .s = top.base};
    struct choice best[SIGNS] = {none, none};

    for (int k = 0; k < SEARCH_CANDIDATES; k++)
        for (int i = 0; i <= (positive ? POS : NEG); i++)
            choose(&best[i], &c[k][i]);
    store_scales(q, row, group, b->rows_count, &top, best);
}

struct range {
    V min, size, sh, shw;
};

ALWAYS_INLINE struct range measure(const struct tile *t, bool weighted)
{
    V zero = v_set1(0), max = zero;
    struct range m = {zero, zero, zero, zero};

    for (size_t j = 0; j < t->cols; j++) {
        V w = v_load(t->w + j * LANES);

        m.min = v_min(w, m.min);
        max = v_max(w, max);
        m.sh = v_add(m.sh, v_set1(weighted ? t->h[j] : 1));
        m.shw = v_add(m.shw, weighted ? v_load(t->hw + j * LANES) : w);
    }
    m.size = v_min(v_sub(max, m.min), v_set1(FLT_MAX));
    return m;
}

struct line {
    V s, m; /* w = s u + m */
};

ALWAYS_INLINE struct line fit_line(const struct tile *t, const struct range *range, V r, bool weighted)
{
    V zero = v_set1(0), su = zero, suu = zero, suw = zero;

    for (size_t j = 0; j < t->cols; j++) {
        /* Not below 0: w is not below min. */
        V u = v_min(v_round(v_mul(v_sub(v_load(t->w + j * LANES), range->min), r)), v_set1(15));

        su = v_add(su, weighted ? v_mul(v_set1(t->h[j]), u) : u);
        suu = fit_den(suu, t, j, u, weighted);
        suw = fit_num(suw, t, j, u, weighted);
    }

    V det = v_sub(v_mul(range->sh, suu), v_mul(su, su));
    V s = v_div(v_sub(v_mul(range->sh, suw), v_mul(range->shw, su)), det);
    V m = v_div(v_sub(v_mul(suu, range->shw), v_mul(su, suw)), det);
    M sloped = m_and(m_less(zero, det), m_not_above(m, zero));

    return (struct line){.s = v_select(sloped, s, v_div(suw, suu)), .m = v_select(sloped, m, zero)};
}

struct asym_choice {
    V best, s, zero;
};

ALWAYS_INLINE void search_asym_tile(struct asym_choice *best, const struct range *range, struct tile *t, bool weighted)
{
    for (int i = 0; i < SEARCH_ASYM_CANDIDATES; i++) {
        struct line l = fit_line(t, range, v_div(v_set1(SEARCH_ASYM_STEPS(i)), range->size), weighted);
        V r = v_div(v_set1(1), l.s);
        V minus_m = v_sub(v_set1(-0.0f), l.m);
        V zero = v_min(v_max(v_round(v_mul(minus_m, r)), v_set1(0)), v_set1(15));
        V lo = v_sub(v_set1(0), zero), hi = v_sub(v_set1(15), zero);
        V num = v_set1(0), den = v_set1(0), err = v_set1(0);

        for (size_t j = 0; j < t->cols; j++) {
            V z = v_min(v_max(v_round(v_mul(v_load(t->w + j * LANES), r)), lo), hi);

            v_store(t->z[POS] + j * LANES, z);
            num = fit_num(num, t, j, z, weighted);
            den = fit_den(den, t, j, z, weighted);
        }
        V s = v_div(num, den);

        for (size_t j = 0; j < t->cols; j++)
            err = fit_err(err, t, j, v_load(t->z[POS] + j * LANES), s, weighted);

        M better = m_and(m_and(m_less(v_set1(0), den), m_less(v_set1(0), num)), m_less(err, best->best));

        best->best = v_select(better, err, best->best);
        best->s = v_select(better, s, best->s);
        best->zero = v_select(better, zero, best->zero);
    }
}

static void search_asym(const struct int4_rows *q, const struct block *b, size_t row, size_t group, const float *h,
                        struct tile *t)
{
    size_t groups = q->cols / q->group_cols;
    alignas(64) float size[LANES], s[LANES], zero[LANES], found[LANES];

    tile_fill(t, b, group * q->group_cols, q->group_cols, h);

    struct range range = h ? measure(t, true) : measure(t, false);
    struct asym_choice best = {.best = v_set1(INFINITY), .s = v_set1(0), .zero = v_set1(0)};

    if (h)
        search_asym_tile(&best, &range, t, true);
    else
        search_asym_tile(&best, &range, t, false);
    v_store(size, range.size);
    v_store(s, best.s);
    v_store(zero, best.zero);
    v_store(found, best.best);
    for (size_t i = 0; i < b->rows_count; i++) {
        size_t at = (row + i) * groups + group;

        if (size[i] <= INT4_SCALE_MIN / 2) {
            q->scales[at] = int4_scale_code(size[i] > 0 ? INT4_SCALE_MIN : 1.0f, true);
            q->zeros[at] = 0;
        } else if (found[i] < INFINITY) {
            q->scales[at] = int4_scale_code(s[i], true);
            q->zeros[at] = (int8_t)(zero[i] - 8);
        }
    }
}

void SEARCH_NAME(const struct int4_rows *q, const float *x, size_t x_stride, const float *h, bool positive,
                 struct row_error *err)
{
    size_t groups = q->cols / q->group_cols;
    struct tile t;

    /* Nobody stores whole rows with zero points; the reference does them. */
    if (q->zeros && q->group_cols > TILE_COLS) {
        int4_search_ref(q, x, x_stride, h, positive, err);
        return;
    }
    /* Absmax's pairs stand where no candidate is chosen. */
    if (q->zeros)
        ABSMAX_ROWS(q, x, x_stride, err);
    for (size_t row = 0; row < q->rows; row += LANES) {
        struct block b = block_at(q, x, x_stride, row);

        for (size_t g = 0; g < groups; g++) {
            if (q->zeros)
                search_asym(q, &b, row, g, h, &t);
            else if (q->group_cols > TILE_COLS)
                search_long(q, &b, row, g, h, positive, &t);
            else
                search_short(q, &b, row, g, h, positive, &t);
        }
    }
    ROUND_ROWS(q, x, x_stride, err);
}
