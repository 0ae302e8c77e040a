#include "quant/ldlq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/decode.h"
#include "tests/int4_support.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

/* A factor with its memory. */
struct made {
    struct shrunk shrunk;
    struct factor factor;
    void *shrink_memory, *memory;
};

static void make(struct made *f, const struct kernel *k, const struct moments *m, double damp, bool act_order)
{
    void *scratch = mem_aligned(factor_scratch_bytes(m->cols));
    struct shrink_options o = {.mu = SHRINK_MU, .mu_alone = 2, .pseudo_tokens = SHRINK_PSEUDO_TOKENS};

    f->shrink_memory = mem_aligned(shrink_bytes(m->cols));
    f->memory = mem_aligned(factor_bytes(m->cols));
    if (damp > 0)
        EXPECT_TRUE(shrink_damp(&f->shrunk, m, damp, f->shrink_memory));
    else
        EXPECT_TRUE(shrink_moments(&f->shrunk, m, NULL, &o, f->shrink_memory));
    EXPECT_TRUE(factor_make(&f->factor, k, &f->shrunk, act_order, 1, f->memory, scratch));
    mem_free(scratch);
}

static void unmake(struct made *f)
{
    mem_free(f->shrink_memory);
    mem_free(f->memory);
}

static double run(const struct ldlq *l, const struct coded_matrix *w, struct coded_matrix *to,
                  struct weight_error *err2)
{
    void *scratch = mem_aligned(ldlq_scratch_bytes(l, w->rows));
    float *loss = calloc(w->rows, sizeof *loss);
    double sum = 0;
    struct err e = {0};

    EXPECT_OK(ldlq_run(l, 0, w->rows, w->rows, &w->parts, &to->parts, scratch, err2, loss, &e), e);
    for (uint64_t r = 0; r < w->rows; r++)
        sum += (double)loss[r];
    free(loss);
    mem_free(scratch);
    return sum;
}

/* tr(E H' E^T), H' by shrink_row, in float64. */
static double shrunk_energy(const struct shrunk *s, const float *w, const float *q, size_t rows)
{
    size_t n = s->own->cols;
    float *row = malloc(s->own->stride * sizeof *row);
    double all = 0;

    for (size_t i = 0; i < n; i++) {
        shrink_row(s, i, row);
        for (size_t r = 0; r < rows; r++) {
            double sum = 0, root = sqrt((double)s->variance[i]);

            for (size_t j = 0; j < n; j++)
                sum += (double)row[j] * sqrt((double)s->variance[j]) * (double)(w[r * n + j] - q[r * n + j]);
            all += root * sum * (double)(w[r * n + i] - q[r * n + i]);
        }
    }
    free(row);
    return all;
}

static const struct fixture_case {
    const char *method;
    bool act_order;
    enum ldlq_scales scales;
    double relative[2][2]; /* [resid, swiglu][128, 32]: tr(E H E^T) / tr(W H W^T) of the other program */
} fixture_cases[] = {
    {"gptq_static_absmax",
     false,
     LDLQ_ABSMAX,
     {{0.01057354638804381, 0.005872403179116597}, {0.020921996921132398, 0.012381931383136566}}},
    {"gptq_actorder_absmax",
     true,
     LDLQ_ABSMAX,
     {{0.008224829387930977, 0.004603574224932427}, {0.019541774074082176, 0.011646242161104523}}},
    {"gptq_condvar12_actorder",
     true,
     LDLQ_SEARCHED,
     {{0.00581808427360147, 0.0033631135306181445}, {0.011750786622121317, 0.0064552108025204705}}},
};

static void check_fixture(const struct kernel *k, const struct fixture_case *c, size_t name, size_t group)
{
    static const char *const names[] = {"resid", "swiglu"};
    static const uint32_t groups[] = {128, 32};
    struct scheme to = scheme_of_int4(groups[group], false);
    struct coded_matrix w, q;
    struct moments m;
    struct made f;
    struct int4_agreement a;
    struct weight_error err2 = {0};

    ASSERT_TRUE(ldlq_fixture_weights(&w, names[name]) && ldlq_fixture_moments(&m, k, names[name]));
    make(&f, k, &m, 0.01, c->act_order);
    coded_init(&q, &to, w.rows, w.cols);
    struct ldlq l = {k, w.scheme, to, w.cols, &f.factor, c->scales};
    double loss = run(&l, &w, &q, &err2);
    struct int4_rows rows = {
        q.parts.part[PART_CODES], q.parts.part[PART_SCALE], NULL, w.cols / 8, w.rows, w.cols, groups[group]};
    float *from = coded_values(&w), *got = coded_values(&q);

    ASSERT_TRUE(int4_fixture_compare(&a, &rows, from, NULL, names[name], c->method));
    EXPECT_TRUE(a.codes >= 0.995);
    EXPECT_NEAR_F64(
        1, ldlq_energy(&m, from, got, w.rows) / ldlq_energy(&m, from, NULL, w.rows) / c->relative[name][group], 0.01);
    EXPECT_NEAR_F64(1, loss / shrunk_energy(&f.shrunk, from, got, w.rows), 1e-3);
    free(from);
    free(got);
    unmake(&f);
    mem_free(m.sum);
    coded_release(&w);
    coded_release(&q);
}

/* Codes, and the error of the output, are those of a float64 program that used another identity (an inverse was never
 * made there either, but numpy's Cholesky was); tests/fixtures/quant/README gives the tolerances. */
TEST(ldlq, codes_and_output_errors_are_those_of_a_float64_program)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);

        for (size_t c = 0; k && c < 12; c++) {
            ct_case("%s: case %zu, %s", k->name, c, fixture_cases[c / 4].method);
            check_fixture(k, &fixture_cases[c / 4], c & 1, c / 2 % 2);
        }
    }
}

/* ---- the rule, once more, a row at a time ---- */

struct grid_case {
    const char *name;
    struct scheme to;
    enum ldlq_scales scales;
    uint64_t rows, cols;
};

static float int4_of(float t, float s, float zero, int *code)
{
    float z = t / s + zero;

    z = z > -8 ? z : -8;
    z = nearbyintf(z < 7 ? z : 7);
    *code = (int)z;
    return (z - zero) * s;
}

static float fp8_of(float t, float s)
{
    uint8_t code;
    float q;

    kernel_at(0)->e4m3_encode(&code, &t, 1, &s, 1);
    kernel_at(0)->e4m3_decode(&q, &code, 1, &s, 1);
    return q;
}

/* The values a row ends in, given the scales that were stored. */
static void plain_row(float *out, const float *w, const struct factor *f, const struct coded_matrix *q, size_t row)
{
    size_t n = f->cols, each = scheme_scale_cols(&q->scheme, n), groups = (n + each - 1) / each;
    float *e = calloc(n, sizeof *e);

    for (size_t j = 0; j < n; j++) {
        size_t col = f->order[j], g = col / each;
        float t = w[col], value;
        int code;

        for (size_t i = 0; i < j; i++)
            t = fmaf(triangle_row(f->a, j)[i], e[i], t);
        if (q->scheme.kind == SCHEME_INT4) {
            const uint16_t *scales = q->parts.part[PART_SCALE];
            const uint32_t *zeros = q->parts.part[PART_ZERO_POINT];
            float zero = zeros ? (float)(zeros[row / 8 * groups + g] >> (row % 8 * 4) & 15) - 8 : 0;

            value = int4_of(t, bits_float((uint32_t)scales[row * groups + g] << 16), zero, &code);
        } else {
            const float *scales = q->parts.part[PART_SCALE];

            value = fp8_of(t, scales[row / q->scheme.block_rows * groups + g]);
        }
        e[j] = w[col] - value;
        out[col] = value;
    }
    free(e);
}

TEST(ldlq, every_row_is_what_the_rule_says_on_every_cpu)
{
    const struct grid_case cases[] = {
        {"int4 g32", scheme_of_int4(32, false), LDLQ_SEARCHED, 40, 320},
        {"int4 g128 absmax", scheme_of_int4(128, false), LDLQ_ABSMAX, 5, 384},
        {"int4 g16 asymmetric", scheme_of_int4(16, true), LDLQ_SEARCHED, 37, 176},
        {"int4 channel, a width of no panel", scheme_of_int4(0, false), LDLQ_SEARCHED, 33, 149},
        {"int4 channel asymmetric", scheme_of_int4(0, true), LDLQ_ABSMAX, 8, 70},
        {"int4 g64 absmax", scheme_of_int4(64, false), LDLQ_ABSMAX, 9, 192},
        {"fp8", scheme_of_fp8(SCALE_F32), LDLQ_SEARCHED, 130, 300},
        {"fp8 of powers of two", scheme_of_fp8(SCALE_F32_POW2), LDLQ_SEARCHED, 70, 256},
    };

    for (size_t i = 0; i < kernel_count(); i++)
        for (size_t c = 0; support_kernel(i) && c < sizeof cases / sizeof cases[0]; c++) {
            const struct grid_case *g = &cases[c];
            const struct kernel *k = kernel_at(i);
            float *x = malloc(3 * g->cols * g->cols * sizeof *x), *want = malloc(g->cols * sizeof *want), *w, *got;
            struct coded_matrix from, to;
            struct weight_error err2 = {0};
            struct moments m;
            struct made f;

            ct_case("%s: %s", k->name, g->name);
            ldlq_inputs(x, 3 * g->cols, g->cols, 30 + c);
            ldlq_moments(&m, k, x, 3 * g->cols, g->cols);
            make(&f, k, &m, 0, true);
            ldlq_weights(&from, g->rows, g->cols, 40 + c);
            coded_init(&to, &g->to, g->rows, g->cols);
            struct ldlq l = {k, from.scheme, g->to, g->cols, &f.factor, g->scales};
            run(&l, &from, &to, &err2);
            w = coded_values(&from);
            got = coded_values(&to);
            for (size_t r = 0; r < g->rows; r++) {
                plain_row(want, w + r * g->cols, &f.factor, &to, r);
                for (size_t j = 0; j < g->cols; j++) { /* no zero has a sign here */
                    want[j] += 0;
                    got[r * g->cols + j] += 0;
                }
                EXPECT_MEM_EQ(want, got + r * g->cols, g->cols * sizeof *want);
            }
            EXPECT_EQ_U64(g->rows * g->cols, err2.weights);
            free(x);
            free(want);
            free(w);
            free(got);
            unmake(&f);
            mem_free(m.sum);
            coded_release(&from);
            coded_release(&to);
        }
}

TEST(ldlq, rows_may_be_cut_anywhere)
{
    const struct scheme targets[] = {scheme_of_int4(32, false), scheme_of_int4(32, true),
                                     scheme_of_fp8(SCALE_F32_POW2)};
    enum { ROWS = 1200, COLS = 96 };
    float *x = malloc(400 * COLS * sizeof *x);
    struct coded_matrix w;
    struct moments m;
    struct made f;

    ldlq_inputs(x, 400, COLS, 50);
    ldlq_moments(&m, support_best(), x, 400, COLS);
    make(&f, support_best(), &m, 0, true);
    ldlq_weights(&w, ROWS, COLS, 51);
    for (size_t c = 0; c < sizeof targets / sizeof targets[0]; c++) {
        struct coded_matrix whole, parts;
        struct weight_error err2 = {0};
        struct ldlq l = {support_best(), w.scheme, targets[c], COLS, &f.factor, LDLQ_SEARCHED};
        uint64_t each = c == 2 ? 128 : c == 1 ? 72 : 77;
        void *scratch = mem_aligned(ldlq_scratch_bytes(&l, each));

        ct_case("target %zu", c);
        coded_init(&whole, &targets[c], ROWS, COLS);
        coded_init(&parts, &targets[c], ROWS, COLS);
        run(&l, &w, &whole, &err2);
        for (uint64_t row = 0; row < ROWS; row += each) {
            uint64_t count = ROWS - row < each ? ROWS - row : each;
            struct slices in = {0}, out = {0};
            struct err e = {0};

            for (enum part p = PART_CODES; p < PART_SHAPE; p++) {
                uint64_t offset, bytes;

                scheme_slice(&w.scheme, p, ROWS, COLS, row, count, &offset, &bytes);
                in.part[p] = w.parts.part[p] ? (uint8_t *)w.parts.part[p] + offset : NULL;
                scheme_slice(&targets[c], p, ROWS, COLS, row, count, &offset, &bytes);
                out.part[p] = parts.parts.part[p] ? (uint8_t *)parts.parts.part[p] + offset : NULL;
            }
            EXPECT_OK(ldlq_run(&l, row, count, ROWS, &in, &out, scratch, &err2, NULL, &e), e);
        }
        coded_expect_eq(&whole, &parts);
        mem_free(scratch);
        coded_release(&whole);
        coded_release(&parts);
    }
    unmake(&f);
    mem_free(m.sum);
    free(x);
    coded_release(&w);
}

/* Half of the blocks have scales that the target holds. */
TEST(ldlq, fp8_blocks_whose_scale_fits_keep_their_codes)
{
    enum { ROWS = 256, COLS = 512 };
    struct scheme from = scheme_of_fp8(SCALE_F32), to = scheme_of_fp8(SCALE_E8M0);
    float *x = malloc(600 * COLS * sizeof *x);
    uint8_t *codes, *got;
    float *scales;
    uint64_t seed = 60;
    struct coded_matrix w, q;
    struct moments m;
    struct made f;
    struct weight_error err2 = {0};
    size_t changed = 0;

    ldlq_inputs(x, 600, COLS, 61);
    ldlq_moments(&m, support_best(), x, 600, COLS);
    make(&f, support_best(), &m, 0, true);
    coded_init(&w, &from, ROWS, COLS);
    coded_init(&q, &to, ROWS, COLS);
    codes = w.parts.part[PART_CODES];
    scales = w.parts.part[PART_SCALE];
    for (size_t i = 0; i < ROWS * COLS; i++)
        codes[i] = (uint8_t)(support_random(&seed) % 2 << 7 | support_random(&seed) % 0x7F);
    for (size_t b = 0; b < 8; b++)
        scales[b] = b % 2 ? 0x1p-12f : 0x1.8p-12f;
    struct ldlq l = {support_best(), from, to, COLS, &f.factor, LDLQ_SEARCHED};
    run(&l, &w, &q, &err2);
    got = q.parts.part[PART_CODES];
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < COLS; c++) {
            if (c / 128 % 2)
                EXPECT_EQ_I64(codes[r * COLS + c], got[r * COLS + c]);
            else
                changed += codes[r * COLS + c] != got[r * COLS + c];
        }
    EXPECT_TRUE(changed > ROWS * COLS / 4);
    EXPECT_EQ_I64(127 - 12, ((const uint8_t *)q.parts.part[PART_SCALE])[1]);
    EXPECT_TRUE(err2.error2 > 0);
    unmake(&f);
    mem_free(m.sum);
    free(x);
    coded_release(&w);
    coded_release(&q);
}

TEST(ldlq, positive_scales_are_positive)
{
    for (int positive = 0; positive < 2; positive++) {
        struct scheme to = scheme_of_int4(32, false);
        struct coded_matrix w, q;
        struct weight_error err2 = {0};
        struct moments m;
        struct made f;
        size_t negative = 0;

        ASSERT_TRUE(ldlq_fixture_weights(&w, "resid") && ldlq_fixture_moments(&m, support_best(), "resid"));
        make(&f, support_best(), &m, 0.01, true);
        to.positive_scales = positive;
        coded_init(&q, &to, w.rows, w.cols);
        struct ldlq l = {support_best(), w.scheme, to, w.cols, &f.factor, LDLQ_SEARCHED};
        run(&l, &w, &q, &err2);
        for (size_t i = 0; i < w.rows * w.cols / 32; i++)
            negative += ((const uint16_t *)q.parts.part[PART_SCALE])[i] >> 15;
        EXPECT_TRUE(positive ? negative == 0 : negative > w.rows * w.cols / 32 / 4);
        unmake(&f);
        mem_free(m.sum);
        coded_release(&w);
        coded_release(&q);
    }
}

TEST(ldlq, weights_that_are_not_finite_are_refused)
{
    struct scheme to = scheme_of_int4(32, false);
    struct coded_matrix w, q;
    struct moments m;
    struct made f;
    struct weight_error err2 = {0};
    struct err e = {0};

    ASSERT_TRUE(ldlq_fixture_weights(&w, "resid") && ldlq_fixture_moments(&m, support_best(), "resid"));
    ((uint8_t *)w.parts.part[PART_CODES])[40 * w.cols + 9] = 0x7F;
    make(&f, support_best(), &m, 0.01, true);
    coded_init(&q, &to, w.rows, w.cols);
    struct ldlq l = {support_best(), w.scheme, to, w.cols, &f.factor, LDLQ_SEARCHED};
    void *scratch = mem_aligned(ldlq_scratch_bytes(&l, w.rows));
    EXPECT_FALSE(ldlq_run(&l, 0, w.rows, w.rows, &w.parts, &q.parts, scratch, &err2, NULL, &e));
    EXPECT_ERR(e, ERR_FORMAT, "value at row 40, column 9 is not finite");
    mem_free(scratch);
    unmake(&f);
    mem_free(m.sum);
    coded_release(&w);
    coded_release(&q);
}

TEST(ldlq, only_grids_it_knows_are_accepted)
{
    struct scheme bf16 = {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16, .method = METHOD_LDLQ};
    struct scheme int4 = scheme_of_int4(128, false), fp8 = scheme_of_fp8(SCALE_E8M0), source = scheme_of_fp8(SCALE_F32);
    struct err e = {0};

    EXPECT_OK(ldlq_check(&source, &int4, &e), e);
    EXPECT_OK(ldlq_check(&source, &fp8, &e), e);
    EXPECT_FALSE(ldlq_check(&source, &bf16, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "'BF16' cannot be written by method 'ldlq'");
    int4.scale = SCALE_F16;
    EXPECT_FALSE(ldlq_check(&source, &int4, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "cannot be written");
}

/* Native FP8 to scales that are powers of two: feedback halves what that costs a layer's output, and more. */
TEST(ldlq, fp8_to_powers_of_two_loses_less_than_half_of_what_rounding_to_nearest_loses)
{
    struct scheme to = scheme_of_fp8(SCALE_E8M0);
    struct coded_matrix w, fed, nearest;
    struct transform t = {.kernel = support_best(), .to = to, .cols = FIXTURE_COLS};
    struct weight_error err2 = {0};
    struct moments m;
    struct made f;
    struct err e = {0};
    float *from, *a, *b;
    void *scratch;

    ASSERT_TRUE(ldlq_fixture_weights(&w, "resid") && ldlq_fixture_moments(&m, support_best(), "resid"));
    make(&f, support_best(), &m, 0.01, true);
    coded_init(&fed, &to, w.rows, w.cols);
    coded_init(&nearest, &to, w.rows, w.cols);
    struct ldlq l = {support_best(), w.scheme, to, w.cols, &f.factor, LDLQ_SEARCHED};
    run(&l, &w, &fed, &err2);
    t.from = w.scheme;
    t.to.method = METHOD_ABSMAX;
    scratch = mem_aligned(transform_scratch_bytes(&t));
    EXPECT_OK(transform_run(&t, 0, w.rows, w.rows, &w.parts, &nearest.parts, scratch, &err2, &e), e);
    from = coded_values(&w);
    a = coded_values(&fed);
    b = coded_values(&nearest);
    EXPECT_TRUE(ldlq_energy(&m, from, a, w.rows) < 0.5 * ldlq_energy(&m, from, b, w.rows));
    free(from);
    free(a);
    free(b);
    mem_free(scratch);
    unmake(&f);
    mem_free(m.sum);
    coded_release(&w);
    coded_release(&fed);
    coded_release(&nearest);
}
