/* The scale search: for each group of a row, the scale (and zero point) whose
 * int4 codes leave the least weighted square error  sum h (w - s z)^2.
 *
 * Absmax spends its range on the largest weight. The search tries shorter and
 * longer scales of both signs (-8 is one step more than +7, so the sign decides
 * which side gets it), refits each to its own codes by least squares, and keeps
 * the best. Twelve candidates a sign are within 0.1 % of 160.
 *
 * Symmetric, for weights w[0..n) and column weights h[0..n):
 *
 *   a = max |w|, v = the first w with |w| = a
 *   a == 0:         S = 1
 *   a <= MIN / 2:   S = MIN, since every code is 0 whatever S is   (MIN: INT4_SCALE_MIN)
 *   b = a / 7.5, S = b, best = infinity
 *   for sign in {sign(v), -sign(v)}           positive mode: {+} alone
 *     lo, hi = -8, 7, or -7, 8 when sign is -  (a negative scale is a positive one with the codes mirrored)
 *     for k in 0..11:
 *       s = b * f[k]                          f[k] = 0.5 + 0.65 k / 11
 *       twice:
 *         r = 1 / s, z = clamp(rint(w * r), lo, hi)
 *         num = sum (h w) z, den = sum h (z z)
 *         if den > 0 and num != 0: s = num / den
 *       err = sum h (d d), d = w - s z        with the last z and the last s
 *       if den > 0 and err < best: best = err, S = sign * s
 *
 * S is then stored (limits and BF16 rounding of int4_scale_code), and the codes
 * are made anew from the stored scale with a true division.
 *
 * Asymmetric (q->zeros given; `positive` changes nothing, scales are positive):
 *
 *   mn = min(0, min w), mx = max(0, max w), range = min(mx - mn, FLT_MAX)
 *   range == 0:        S = 1, Z = 8
 *   range <= MIN / 2:  S = MIN, Z = 8
 *   (S, Z) = the pair of int4_absmax, best = infinity; sh = sum h, shw = sum h w
 *   for i in 0..24:
 *     r = g[i] / range                        g[i] = 14 + 0.1 i
 *     u = clamp(rint((w - mn) * r), 0, 15)
 *     su = sum h u, suu = sum h (u u), suw = sum (h w) u
 *     D = sh suu - su su, s = (sh suw - shw su) / D, m = (suu shw - su suw) / D
 *     unless D > 0 and m <= 0: m = 0, s = suw / suu
 *     r = 1 / s, Z' = clamp(rint(-m * r), 0, 15)
 *     z = clamp(rint(w * r), -Z', 15 - Z')
 *     num = sum (h w) z, den = sum h (z z), s = num / den, err = sum h (d d), d = w - s z
 *     if den > 0 and num > 0 and err < best: best = err, S = s, Z = Z'
 *
 * The stored zero point is Z - 8.
 *
 * Byte-exact: all of it is float32 without FMA, each operation rounded as it is
 * written above, rint to even, sums sequential over the columns of the group
 * (vectors run across rows). h NULL is 1 everywhere, to the byte. clamp(t, lo,
 * hi) is t > lo ? t : lo, then t < hi ? t : hi, so NaN becomes lo. Where squares
 * overflow (|w| from 1e18 on) err is not below infinity and absmax's scale
 * stands; the same happens when every h of a group is 0. h must not be negative
 * or NaN.
 *
 * FMA is legal in two places, because its product is exact: den + z z without
 * h, and w - q S with a stored S. */
#ifndef QUANT_SEARCH_H
#define QUANT_SEARCH_H

#define SEARCH_CANDIDATES      12
#define SEARCH_ASYM_CANDIDATES 25
#define SEARCH_PASSES          2

#define SEARCH_F(k) ((float)(0.5 + 0.65 * (k) / 11.0))
static const float search_f[SEARCH_CANDIDATES] = {
    SEARCH_F(0), SEARCH_F(1), SEARCH_F(2), SEARCH_F(3), SEARCH_F(4),  SEARCH_F(5),
    SEARCH_F(6), SEARCH_F(7), SEARCH_F(8), SEARCH_F(9), SEARCH_F(10), SEARCH_F(11),
};

/* Steps across the range: from one less than the 15 there are, which lets the ends clip less, to a tenth more. */
#define SEARCH_ASYM_STEPS(i) ((float)(14.0 + 0.1 * (i)))

#endif
