/* What the tests of int4 and of the scale search share: buffers for one call,
 * and weights of every awkward kind. */
#ifndef TESTS_INT4_SUPPORT_H
#define TESTS_INT4_SUPPORT_H

#include "quant/kernel.h"

/* What one call writes. Every byte starts as 0xAB, rows have two words of slack. */
struct int4_out {
    struct int4_rows q;
    int8_t *zeros; /* q.zeros, or unused */
    struct row_error *err;
    size_t words_count, groups_count;
};
void int4_out_init(struct int4_out *o, size_t rows, size_t cols, size_t group_cols, bool asym);
void int4_out_release(struct int4_out *o);
/* All of it, slack included. */
void int4_out_expect_eq(const struct int4_out *want, const struct int4_out *got);

int int4_code(const struct int4_rows *q, size_t row, size_t col);      /* -8..7 */
float int4_scale(const struct int4_rows *q, size_t row, size_t group); /* its BF16 value */
int int4_zero(const struct int4_rows *q, size_t row, size_t group);    /* 0 when symmetric */
/* sum of h (w - w')^2 in double; h NULL is 1. */
double int4_loss(const struct int4_rows *q, const float *x, size_t x_stride, const float *h);

/* Kinds of weights: 0 bell-shaped, then denormals, huge ones, ties, one magnitude and the like. */
size_t int4_weights_count(void);
const char *int4_weights_name(size_t kind);
float int4_weight(size_t kind, uint64_t *seed);

/* Shapes: rows, columns, columns of a group. */
struct int4_shape {
    size_t rows, cols, group_cols;
};
struct int4_shape int4_shape_random(uint64_t *seed);

/* A file of tests/fixtures/quant of just these bytes; false, and a failed expectation, where it is not that. */
bool int4_fixture(void *bytes, size_t size, const char *fmt, ...) PRINTF_LIKE(3, 4);

#define FIXTURE_ROWS 64
#define FIXTURE_COLS 512
/* W of "resid" or "swiglu". */
bool int4_fixture_weights(float w[FIXTURE_ROWS * FIXTURE_COLS], const char *name);

struct int4_agreement {
    double codes, scales;      /* the part of them that is the same */
    double loss, fixture_loss; /* sum of h (w - s z)^2 of ours, of the fixture's */
};
/* Ours against the fixture NAME_gG_METHOD. */
bool int4_fixture_compare(struct int4_agreement *a, const struct int4_rows *q, const float *w, const float *h,
                          const char *name, const char *method);

#endif
