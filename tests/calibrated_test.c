#include "quant/calibrated.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/kernel_support.h"
#include "tests/ldlq_support.h"

/* An input of 200 columns and a matrix of 48 rows that reads it. */
enum { ROWS = 48, COLS = 192, TOKENS = 800 };

struct scene {
    float *x;
    struct moments own;
    struct coded_matrix w;
    void *memory, *scratch;
};

static void scene_make(struct scene *s, const struct kernel *k, size_t tokens)
{
    s->x = malloc(TOKENS * COLS * sizeof *s->x);
    ldlq_inputs(s->x, TOKENS, COLS, 70);
    ldlq_moments(&s->own, k, s->x, tokens, COLS);
    ldlq_weights(&s->w, ROWS, COLS, 71);
    s->memory = mem_aligned(calibrated_bytes(COLS));
    s->scratch = mem_aligned(calibrated_scratch_bytes(COLS));
}

static void scene_drop(struct scene *s)
{
    free(s->x);
    mem_free(s->own.sum);
    mem_free(s->memory);
    mem_free(s->scratch);
    coded_release(&s->w);
}

/* Rounds the scene's matrix into q, which is made here. */
static struct rounded round_scene(const struct scene *s, const struct calibrated *c, const struct scheme *to,
                                  struct coded_matrix *q)
{
    struct loss_matrix m = {.from = s->w.scheme, .to = *to, .rows = ROWS, .cols = COLS, .in = s->w.parts};
    struct rounded r;
    struct err e = {0};
    void *scratch;

    coded_init(q, to, ROWS, COLS);
    m.out = q->parts;
    scratch = mem_aligned(calibrated_round_scratch_bytes(&m));
    EXPECT_OK(calibrated_round(c, &m, scratch, &r, &e), e);
    mem_free(scratch);
    return r;
}

TEST(calibrated, every_method_ends_as_asked_and_the_better_ones_lose_less)
{
    static const enum method methods[] = {METHOD_ABSMAX, METHOD_SEARCH, METHOD_GPTQ, METHOD_LDLQ};
    static const enum ending endings[] = {ENDING_PLAIN, ENDING_PLAIN, ENDING_FEEDBACK, ENDING_FEEDBACK};
    struct scheme to = scheme_of_int4(64, false);

    for (size_t i = 0; i < kernel_count(); i++) {
        struct scene s;
        double last = INFINITY;

        if (!support_kernel(i))
            continue;
        scene_make(&s, kernel_at(i), TOKENS);
        for (size_t c = 0; c < 4; c++) {
            struct calibrated_options o = calibrated_defaults(methods[c]);
            struct calibrated made;
            struct coded_matrix q;
            struct rounded r;
            char text[CALIBRATED_TEXT];
            float *w, *got;
            double loss;

            ct_case("%s: %s", kernel_at(i)->name, scheme_method_name(methods[c]));
            o.check_rows = 0;
            calibrated_make(&made, kernel_at(i), &o, &s.own, NULL, 1, s.memory, s.scratch);
            EXPECT_EQ_I64(endings[c], made.ending);
            EXPECT_EQ_I64(REASON_ASKED, made.reason);
            EXPECT_STR_EQ(scheme_method_name(methods[c]), calibrated_text(&made, text));
            r = round_scene(&s, &made, &to, &q);
            w = coded_values(&s.w);
            got = coded_values(&q);
            loss = ldlq_energy(&s.own, w, got, ROWS) / ldlq_energy(&s.own, w, NULL, ROWS);
            EXPECT_TRUE(loss < last);
            EXPECT_EQ_U64(ROWS, r.loss.rows);
            if (endings[c] == ENDING_FEEDBACK) {
                EXPECT_NEAR_F64(1, r.loss.error / r.running, 1e-3);
                EXPECT_NEAR_F64(1, r.running_all / r.running, 1e-12);
            }
            EXPECT_TRUE(r.weights.error2 > 0 && r.weights.weights == ROWS * COLS);
            last = loss;
            free(w);
            free(got);
            coded_release(&q);
        }
        scene_drop(&s);
    }
}

/* tr(E H' E^T) as the stored bytes have it, all rows and a few, against float64 over H' of shrink_row. */
TEST(calibrated, the_loss_is_that_of_the_stored_bytes)
{
    static const uint64_t checks[] = {0, 40, 7};
    struct scheme to = scheme_of_int4(32, true);
    struct scene s;

    scene_make(&s, support_best(), TOKENS);
    for (size_t c = 0; c < 3; c++) {
        struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);
        struct calibrated made;
        struct coded_matrix q;
        struct rounded r;
        double error = 0, energy = 0;
        float row[COLS], *w, *got;

        ct_case("%llu rows", (unsigned long long)checks[c]);
        o.check_rows = checks[c];
        calibrated_make(&made, support_best(), &o, &s.own, NULL, 1, s.memory, s.scratch);
        r = round_scene(&s, &made, &to, &q);
        w = coded_values(&s.w);
        got = coded_values(&q);
        for (size_t i = 0; i < COLS; i++) {
            shrink_row(&made.shrunk, i, row);
            for (size_t m = 0; m < ROWS; m++)
                for (size_t j = 0; moments_takes(m, ROWS, checks[c]) && j < COLS; j++) {
                    double h = (double)row[j] * sqrt((double)made.shrunk.variance[i] * (double)made.shrunk.variance[j]);
                    size_t a = m * COLS + i, b = m * COLS + j;

                    error += h * (double)(w[a] - got[a]) * (double)(w[b] - got[b]);
                    energy += h * (double)w[a] * (double)w[b];
                }
        }
        EXPECT_EQ_U64(checks[c] ? checks[c] : ROWS, r.loss.rows);
        EXPECT_NEAR_F64(1, r.loss.error / error, 1e-4);
        EXPECT_NEAR_F64(1, r.loss.energy / energy, 1e-4);
        EXPECT_NEAR_F64(1, r.running / error, 1e-3);
        EXPECT_NEAR_F64(error / energy, loss_relative(&r.loss), 1e-4 * error / energy);
        free(w);
        free(got);
        coded_release(&q);
    }
    scene_drop(&s);
}

/* ---- what cannot be as asked ---- */

static void expect_same_as(const struct scene *s, const struct calibrated *made, const float *weights,
                           const struct scheme *to)
{
    struct transform t = {.kernel = made->kernel, .from = s->w.scheme, .to = *to, .cols = COLS, .weights = weights};
    void *scratch;
    struct coded_matrix want, got;
    struct weight_error err2 = {0};
    struct err e = {0};

    t.to.method = to->kind == SCHEME_INT4 ? METHOD_SEARCH : METHOD_ABSMAX;
    scratch = mem_aligned(transform_scratch_bytes(&t));
    coded_init(&want, to, ROWS, COLS);
    EXPECT_OK(transform_run(&t, 0, ROWS, ROWS, &s->w.parts, &want.parts, scratch, &err2, &e), e);
    round_scene(s, made, to, &got);
    coded_expect_eq(&want, &got);
    mem_free(scratch);
    coded_release(&want);
    coded_release(&got);
}

TEST(calibrated, without_moments_it_is_a_search_and_says_why)
{
    static const struct {
        const char *text;
        enum reason reason;
        size_t tokens;
        float x; /* what all inputs are; 1: as they were */
    } cases[] = {
        {"search, no tokens reached it", REASON_NO_TOKENS, 0, 1},
        {"search, every input was 0", REASON_SILENT, 20, 0},
        {"search, an input was not finite", REASON_NOT_FINITE, 20, NAN},
        {"search, an input was not finite", REASON_NOT_FINITE, 20, 1e25f},
    };
    const struct scheme targets[] = {scheme_of_int4(64, false), scheme_of_fp8(SCALE_E8M0)};

    for (size_t c = 0; c < 8; c++) {
        struct calibrated_options o = calibrated_defaults(c % 2 ? METHOD_GPTQ : METHOD_LDLQ);
        struct calibrated made;
        struct scene s;
        char text[CALIBRATED_TEXT];

        ct_case("case %zu, target %zu", c / 2, c % 2);
        scene_make(&s, support_best(), 1);
        mem_free(s.own.sum);
        for (size_t i = 0; cases[c / 2].x != 1 && i < TOKENS * COLS; i++)
            s.x[i] = cases[c / 2].x;
        moments_init(&s.own, support_best(), COLS, mem_aligned(moments_bytes(COLS)));
        moments_add(&s.own, s.x, COLS, cases[c / 2].tokens, 1, s.scratch);
        (void)!moments_close(&s.own);
        calibrated_make(&made, support_best(), &o, &s.own, NULL, 1, s.memory, s.scratch);
        EXPECT_EQ_I64(ENDING_SEARCH, made.ending);
        EXPECT_EQ_I64(cases[c / 2].reason, made.reason);
        EXPECT_STR_EQ(cases[c / 2].text, calibrated_text(&made, text));
        expect_same_as(&s, &made, NULL, &targets[c % 2]);
        calibrated_make(&made, support_best(), &o, NULL, NULL, 1, s.memory, s.scratch);
        EXPECT_EQ_I64(REASON_NO_TOKENS, made.reason);
        scene_drop(&s);
    }
}

/* No moments of real inputs do this; a diagonal that is far too small for what stands beside it does. */
TEST(calibrated, when_no_factor_exists_it_is_a_search_by_the_diagonal)
{
    struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);
    struct scheme to = scheme_of_int4(64, false);
    struct calibrated made;
    struct scene s;
    char text[CALIBRATED_TEXT];

    scene_make(&s, support_best(), TOKENS);
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++)
            s.own.sum[i * s.own.stride + j] *= i == j ? 1.0f : -40.0f;
    calibrated_make(&made, support_best(), &o, &s.own, NULL, 1, s.memory, s.scratch);
    EXPECT_EQ_I64(ENDING_DIAGONAL, made.ending);
    EXPECT_EQ_I64(REASON_PIVOT, made.reason);
    EXPECT_STR_EQ("diagonal search, no damping made the factor exist", calibrated_text(&made, text));
    expect_same_as(&s, &made, made.shrunk.variance, &to);
    scene_drop(&s);
}

TEST(calibrated, raised_damping_is_said)
{
    struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);
    struct calibrated made;
    struct scene s;
    char text[CALIBRATED_TEXT];

    scene_make(&s, support_best(), TOKENS);
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++)
            if (i != j)
                s.own.sum[i * s.own.stride + j] *= 1.12f;
    calibrated_make(&made, support_best(), &o, &s.own, NULL, 1, s.memory, s.scratch);
    EXPECT_EQ_I64(ENDING_FEEDBACK, made.ending);
    EXPECT_TRUE(made.factor.retries > 0);
    EXPECT_STR_HAS(calibrated_text(&made, text), "ldlq, damping raised ");
    EXPECT_STR_HAS(text, "at column ");
    scene_drop(&s);
}

/* A dead input column has no say, and its weights stay near what they were. */
TEST(calibrated, dead_columns_are_rounded_and_not_zeroed)
{
    static const enum method methods[] = {METHOD_GPTQ, METHOD_LDLQ};

    for (size_t c = 0; c < 2; c++) {
        struct calibrated_options o = calibrated_defaults(methods[c]);
        struct scheme to = scheme_of_int4(64, false);
        struct calibrated made;
        struct coded_matrix q;
        struct scene s;
        float *w, *got;
        double error = 0, energy = 0;

        ct_case("%s", scheme_method_name(methods[c]));
        scene_make(&s, support_best(), 1);
        mem_free(s.own.sum);
        for (size_t t = 0; t < TOKENS; t++)
            s.x[t * COLS + 100] = 0;
        ldlq_moments(&s.own, support_best(), s.x, TOKENS, COLS);
        calibrated_make(&made, support_best(), &o, &s.own, NULL, 1, s.memory, s.scratch);
        EXPECT_EQ_I64(ENDING_FEEDBACK, made.ending);
        EXPECT_EQ_U64(1, made.shrunk.dead);
        round_scene(&s, &made, &to, &q);
        w = coded_values(&s.w);
        got = coded_values(&q);
        for (size_t r = 0; r < ROWS; r++) {
            double d = (double)w[r * COLS + 100] - (double)got[r * COLS + 100];
            error += d * d;
            energy += (double)w[r * COLS + 100] * (double)w[r * COLS + 100];
        }
        EXPECT_TRUE(error < 0.05 * energy);
        free(w);
        free(got);
        coded_release(&q);
        scene_drop(&s);
    }
}

/* Dynamic scales: a group's absmax when it is reached, from weights that earlier errors have moved. */
TEST(calibrated, the_textbook_takes_its_scales_from_moved_weights)
{
    struct calibrated_options o = calibrated_defaults(METHOD_GPTQ);
    struct scheme to = scheme_of_int4(64, false);
    struct calibrated made;
    struct coded_matrix q;
    struct scene s;
    float *w, *got;
    const uint16_t *scales;
    size_t first = 0, others = 0;

    scene_make(&s, support_best(), TOKENS);
    calibrated_make(&made, support_best(), &o, &s.own, NULL, 1, s.memory, s.scratch);
    round_scene(&s, &made, &to, &q);
    w = coded_values(&s.w);
    got = coded_values(&q);
    scales = q.parts.part[PART_SCALE];
    for (size_t r = 0; r < ROWS; r++)
        for (size_t g = 0; g < COLS / 64; g++) {
            float t[64], most = 0;
            uint16_t code;

            /* The group's weights as they are when it is reached. */
            for (size_t j = 0; j < 64; j++) {
                size_t col = g * 64 + j;

                t[j] = w[r * COLS + col];
                for (size_t i = 0; i < g * 64; i++)
                    t[j] = fmaf(triangle_row(made.factor.a, col)[i], w[r * COLS + i] - got[r * COLS + i], t[j]);
                most = fabsf(t[j]) > most ? fabsf(t[j]) : most;
            }
            most /= 7.5f;
            kernel_at(0)->bf16_encode(&code, &most, 1);
            EXPECT_EQ_U64(code, scales[r * (COLS / 64) + g]);
            most = 0;
            for (size_t j = 0; j < 64; j++)
                most = fabsf(w[r * COLS + g * 64 + j]) > most ? fabsf(w[r * COLS + g * 64 + j]) : most;
            most /= 7.5f;
            kernel_at(0)->bf16_encode(&code, &most, 1);
            *(g == 0 ? &first : &others) += code != scales[r * (COLS / 64) + g];
        }
    EXPECT_EQ_U64(0, first);
    EXPECT_TRUE(others > ROWS);
    free(w);
    free(got);
    coded_release(&q);
    scene_drop(&s);
}

TEST(calibrated, threads_and_cpus_change_no_byte)
{
    struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);
    struct scheme to = scheme_of_int4(32, true);
    struct coded_matrix want;
    struct scene s;
    struct calibrated made;

    scene_make(&s, kernel_at(0), TOKENS);
    calibrated_make(&made, kernel_at(0), &o, &s.own, &s.own, 1, s.memory, s.scratch);
    round_scene(&s, &made, &to, &want);
    scene_drop(&s);
    for (size_t i = 0; i < kernel_count(); i++)
        for (unsigned threads = 1; support_kernel(i) && threads < 8; threads += 3) {
            struct coded_matrix got;

            ct_case("%s, %u threads", kernel_at(i)->name, threads);
            scene_make(&s, kernel_at(i), TOKENS);
            calibrated_make(&made, kernel_at(i), &o, &s.own, &s.own, threads, s.memory, s.scratch);
            round_scene(&s, &made, &to, &got);
            coded_expect_eq(&want, &got);
            coded_release(&got);
            scene_drop(&s);
        }
    coded_release(&want);
}
