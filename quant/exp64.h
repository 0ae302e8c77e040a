/* The constants that exp64 and its vector forms share, so that they are one function. */
#ifndef QUANT_EXP64_H
#define QUANT_EXP64_H

/* fdlibm's split: the high part has 33 bits, so k * EXP64_LN2_HIGH is exact for |k| < 2^20. */
#define EXP64_LN2_HIGH 6.93147180369123816490e-01
#define EXP64_LN2_LOW  1.90821492927058770002e-10
#define EXP64_LOG2E    1.44269504088896338700e+00
/* Adding it rounds to the nearest integer, which then stands in the low bits. */
#define EXP64_ROUND 0x1.8p52
/* Below, the result would be subnormal: 0 instead, which loses nothing beside a term that is 1. */
#define EXP64_LEAST -707.0

/* 1/13!, 1/12!, ... 1/2!, 1, 1 */
#define EXP64_TERMS                                                                                                    \
    {                                                                                                                  \
        1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,       \
            1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0                               \
    }
#define EXP64_TERM_COUNT 14

#endif
