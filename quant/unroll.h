/* For inner loops that are written once and must become straight code: only
 * for files whose name ends in an instruction set. */
#ifndef QUANT_UNROLL_H
#define QUANT_UNROLL_H

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Before a loop of a constant count, at most 16. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
