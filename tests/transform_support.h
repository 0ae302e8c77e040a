/* Matrices in any scheme, for tests of what turns one into another. */
#ifndef TESTS_TRANSFORM_SUPPORT_H
#define TESTS_TRANSFORM_SUPPORT_H

#include "quant/transform.h"
#include "tests/kernel_support.h"

#define PLAIN(dtype_)                                                                                                  \
    {                                                                                                                  \
        .kind = SCHEME_PLAIN, .dtype = (dtype_), .method = METHOD_ROUND                                                \
    }
#define FP8(kind_, scale_)                                                                                             \
    {                                                                                                                  \
        .kind = (kind_), .dtype = DTYPE_F8_E4M3, .scale = (scale_), .method = METHOD_ABSMAX                            \
    }
#define FP8_BLOCK(scale_)                                                                                              \
    {                                                                                                                  \
        .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = (scale_), .block_rows = 128, .block_cols = 128,     \
        .method = METHOD_ABSMAX                                                                                        \
    }
#define INT4(group_, asym_, scale_, method_)                                                                           \
    {                                                                                                                  \
        .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = (scale_), .group_cols = (group_), .asymmetric = (asym_),     \
        .method = (method_)                                                                                            \
    }

/* 300 rows and 200 columns leave partial blocks on both edges and half a word of zero points. */
#define MATRIX_ROWS 300u
#define MATRIX_COLS 200u

struct matrix {
    struct scheme scheme;
    uint64_t rows, cols;
    struct part_layout layout[PART_COUNT];
    struct slices parts;
};

/* Every byte 0x5A. False: the test has failed. */
bool matrix_init(struct matrix *m, const struct scheme *s, uint64_t rows, uint64_t cols);
void matrix_release(struct matrix *m);
/* Random codes and scales that the scheme may hold. */
void matrix_fill(struct matrix *m, uint64_t seed);
/* transform_run, with its scratch no larger than asked for. */
bool matrix_convert_rows(const struct kernel *k, const struct matrix *from, const struct matrix *to, uint64_t row,
                         uint64_t count, struct weight_error *error, struct err *e);
bool matrix_convert(const struct kernel *k, const struct matrix *from, const struct matrix *to,
                    struct weight_error *error, struct err *e);
/* [rows][cols], mem_free. */
float *matrix_decoded(const struct kernel *k, const struct matrix *m);
void expect_same_parts(const struct matrix *want, const struct matrix *got);

#endif
