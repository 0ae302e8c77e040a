/* The constants of the float32 exp: x = n ln 2 + r, n = rint(x log2 e), |r| <= 0.3466;
 * exp(r) = 1 + r + r^2 (C2 + C3 r + C4 r^2 + C5 r^3 + C6 r^4).
 * C2..C6 are a minimax fit of ours (least squares, reweighted towards the
 * largest relative error), off by 3.1e-9, a twentieth of an ulp. */
#ifndef QUANT_EXP_H
#define QUANT_EXP_H

/* Past these everything is 0 or infinity; n then stays within -151..129. */
#define EXP_MIN -104.5f
#define EXP_MAX 89.0f

#define EXP_LOG2E    0x1.715476p+0f
#define EXP_SHIFT    0x1.8p+23f /* adding it rounds to an integer, which then stands in the low bits */
#define EXP_LN2_HIGH 0x1.62e43p-1f
#define EXP_LN2_LOW  -0x1.05c61p-29f

#define EXP_C2 0x1.fffffcp-2f
#define EXP_C3 0x1.55549p-3f
#define EXP_C4 0x1.5558fcp-5f
#define EXP_C5 0x1.123b9ap-7f
#define EXP_C6 0x1.6a215ap-10f

#endif
