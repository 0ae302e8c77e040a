/* The matrix that rounding is done against: second moments, made honest about how few tokens they come from.
 *
 * Notation: own moments H of n tokens, S2 = diag(H) / n, C = D^-1/2 H D^-1/2 with D = diag(H), and V the sampling
 * variance of all off-diagonal correlations together; |A|^2 sums over i != j. `a` marks the prior, the moments of all
 * tokens that reach the layer.
 *
 *   V  = max(0, (spread / m - |C|^2) / (n - 1))            (spread of m tokens: quant/moments.h; unknown for n < 2)
 *   D  = (n S2 + d0 S2a) / (n + d0)                        without prior: S2
 *   rp = min(1, mu V / |C - Ca|^2)                         towards the all-token correlation; without prior 0
 *   C1 = (1 - rp) C + rp Ca,   V1 = (1 - rp)^2 V + rp^2 Va
 *   rd = min(0.98, mu V1 / |C1|^2)                         towards the diagonal, which is what damping does
 *   C2 = (1 - rd) C1 + rd I + 1e-4 I
 *   H' = D^1/2 C2 D^1/2
 *
 * Ledoit and Wolf's intensity. It is the best for the square error of C, which is not the error of the codes: those
 * depend on the variances that are left over, and a little of I in C is much in them. On the other hand tokens of a
 * text are not independent, and V too small. So mu is measured, by the output error of the sample's experts on other
 * text. With a prior (gate and up) it is 1: 2 is 5 % worse at 1 and at 2 tokens a column, 0.5 is 9 % worse at 1; with 4
 * and 16 all are within 3 %. Without one (down) it is 1.5: 1 and 2 are 14 % and 4 % worse at 1 token a column, 8 % and
 * 3 % at 2; with 8 and 32 all are within 3 %.
 *
 * Starved experts need no rule of their own: with no tokens C1 = Ca and D = S2a, with one V is not known and rp = 1.
 * Without a prior, fewer than two tokens give rd = 0.98, which is rounding by column weights.
 *
 * A column with D < 1e-12 mean(D) is dead: its row of C2 is that of I and D = 1e-6 mean(D), so its weights are rounded
 * to nearest, never zeroed; what is silent in calibration may speak in use.
 *
 * D alone weighs errors where correlations are not known: shrink_variances, of sums of squares.
 *
 * shrink_damp gives the textbook's matrix instead: H / n + fraction mean(diag) I, dead columns 1 on the diagonal. */
#ifndef QUANT_SHRINK_H
#define QUANT_SHRINK_H

#include <stdbool.h>
#include <stddef.h>

#include "quant/moments.h"

#define SHRINK_MU            1.0
#define SHRINK_MU_ALONE      1.5
#define SHRINK_PSEUDO_TOKENS 32.0

struct shrink_options {
    double mu;            /* with a prior: SHRINK_MU */
    double mu_alone;      /* without: SHRINK_MU_ALONE */
    double pseudo_tokens; /* d0: SHRINK_PSEUDO_TOKENS */
};

/* Borrows the moments. C2[i][j] = own_part C[i][j] + prior_part Ca[i][j] for i != j, and `diagonal` for i = j. */
struct shrunk {
    const struct moments *own, *prior; /* prior: NULL, or of as many columns */
    double to_prior, to_diagonal;      /* rp, rd */
    double noise;                      /* V */
    float own_part, prior_part, diagonal;
    size_t dead;      /* columns */
    float *variance;  /* [stride] D */
    float *own_scale; /* [stride] what makes H a correlation: C[i][j] = (H[i][j] own_scale[i]) own_scale[j]; 0: dead */
    float *prior_scale; /* [stride] */
};

size_t shrink_bytes(size_t cols);
/* memory: shrink_bytes, MEM_ALIGN aligned, in use as long as s. own and prior are closed, and their spread is known, of
 * all their tokens or of some that are evenly spaced. False: there is nothing to go by, every input is 0 or there are
 * no tokens. */
bool shrink_moments(struct shrunk *s, const struct moments *own, const struct moments *prior,
                    const struct shrink_options *o, void *memory) CHECKED;
bool shrink_damp(struct shrunk *s, const struct moments *own, double fraction, void *memory) CHECKED;
/* Sums of squares of an input's channels, over its tokens. */
struct channel_sums {
    const double *sum2; /* [cols]; NULL for no tokens */
    uint64_t tokens;
};
/* D, of cols columns; prior: of all tokens that reach the layer, or NULL. False: nothing to go by, as for
 * shrink_moments. */
bool shrink_variances(float *variance, size_t cols, const struct channel_sums *own, const struct channel_sums *prior,
                      double pseudo_tokens) CHECKED;
/* More of the diagonal, when a factor failed: to_diagonal becomes max(2 to_diagonal, 0.01), at most 1. */
void shrink_more(struct shrunk *s);

/* Row i of C2, [stride]. H'[i][j] = sqrt(D[i] D[j]) C2[i][j]. */
void shrink_row(const struct shrunk *s, size_t i, float *row);

#endif
