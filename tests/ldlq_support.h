/* What the tests of calibrated rounding share: a matrix and its second moments
 * as another program made them, and a matrix in memory with room for what it
 * becomes. */
#ifndef TESTS_LDLQ_SUPPORT_H
#define TESTS_LDLQ_SUPPORT_H

#include "quant/moments.h"
#include "quant/transform.h"

/* A matrix under a scheme; parts are the struct's own. */
struct coded_matrix {
    struct scheme scheme;
    uint64_t rows, cols;
    struct slices parts;
};
void coded_init(struct coded_matrix *m, const struct scheme *s, uint64_t rows, uint64_t cols); /* bytes 0xAB */
void coded_release(struct coded_matrix *m);
/* Rows as float32 [rows][cols]; new memory, free(). */
float *coded_values(const struct coded_matrix *m);
void coded_expect_eq(const struct coded_matrix *want, const struct coded_matrix *got);

struct scheme scheme_of_int4(uint32_t group, bool asymmetric);
struct scheme scheme_of_fp8(enum scale_kind scale); /* 128 x 128 */

/* W of "resid" or "swiglu" (tests/fixtures/quant/README) as block FP8, 64 x 512. */
bool ldlq_fixture_weights(struct coded_matrix *m, const char *name);
/* Its second moments, as of one token, closed; sum is new memory, mem_free(). */
bool ldlq_fixture_moments(struct moments *m, const struct kernel *k, const char *name);

/* BF16 inputs [tokens][cols] that are correlated, with louder columns; from a seed. */
void ldlq_inputs(float *x, size_t tokens, size_t cols, uint64_t seed);
/* Weights as F32, bell-shaped. */
void ldlq_weights(struct coded_matrix *m, uint64_t rows, uint64_t cols, uint64_t seed);
/* The moments of inputs, with spread; sum is new memory, mem_free(). */
void ldlq_moments(struct moments *m, const struct kernel *k, const float *x, size_t tokens, size_t cols);

/* tr(E H E^T) / n in float64 with the moments as they are; E = w - q, or w alone when q is NULL. */
double ldlq_energy(const struct moments *m, const float *w, const float *q, size_t rows);

#endif
