/* Coded matrices from a seed, and their product by the rule of quant/gemm.h,
 * written a second time. */
#ifndef TESTS_GEMM_SUPPORT_H
#define TESTS_GEMM_SUPPORT_H

#include "quant/gemm.h"
#include "quant/gemm_tiles.h"

/* Zero is empty. */
struct matrix_coded {
    struct coded coded;
    void *parts[PART_COUNT]; /* owned */
    float *decoded;          /* [rows][cols], by decode_rows of the reference */
};

/* Normal-like weights of magnitude 2^-12..1, encoded by absmax. */
void matrix_coded_make(struct matrix_coded *m, const struct scheme *scheme, uint64_t rows, uint64_t cols,
                       uint64_t seed);
/* After a change of its parts. */
void matrix_coded_decode(struct matrix_coded *m);
void matrix_coded_release(struct matrix_coded *m);

/* `with`, but for products by tiles: with gemm_tiles_ref, what the class "amx" gives. The same place for all. */
const struct kernel *gemm_support_tiles(const struct kernel *with, const struct gemm_tiles *tiles);

/* Sixteen lanes by fmaf, folded 8, 4, 2, 1. */
float gemm_support_dot(const float *x, const float *w, size_t cols);

struct gemm_case {
    const char *name;
    struct scheme scheme;
};
extern const struct gemm_case gemm_cases[];
extern const size_t gemm_case_count;

#endif
