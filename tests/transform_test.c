#include "tests/transform_support.h"

#include <math.h>

#include "formats/base/mem.h"

/* ---- schemes ---- */

static const struct scheme sources[] = {
    PLAIN(DTYPE_F32),
    PLAIN(DTYPE_F16),
    PLAIN(DTYPE_BF16),
    FP8_BLOCK(SCALE_F32),
    FP8_BLOCK(SCALE_F32_POW2),
    FP8_BLOCK(SCALE_E8M0),
    FP8_BLOCK(SCALE_BF16),
    FP8_BLOCK(SCALE_F16),
    FP8(SCHEME_FP8_CHANNEL, SCALE_F32),
    FP8(SCHEME_FP8_CHANNEL, SCALE_BF16),
    FP8(SCHEME_FP8_TENSOR, SCALE_F32),
    FP8(SCHEME_FP8_TENSOR, SCALE_F16),
    INT4(40, false, SCALE_BF16, METHOD_ABSMAX),
    INT4(200, true, SCALE_F16, METHOD_ABSMAX),
    INT4(0, false, SCALE_F32, METHOD_ABSMAX),
    INT4(8, true, SCALE_BF16, METHOD_ABSMAX),
};

/* error: what one weight may be off by, relative to the largest magnitude of its row. */
static const struct {
    struct scheme scheme;
    double error;
} targets[] = {
    {PLAIN(DTYPE_F32), 0.0},
    {PLAIN(DTYPE_F16), 0x1p-10},
    {PLAIN(DTYPE_BF16), 0x1p-8},
    {FP8_BLOCK(SCALE_F32), 0x1p-4},
    {FP8_BLOCK(SCALE_F32_POW2), 0x1p-4},
    {FP8_BLOCK(SCALE_E8M0), 0x1p-4},
    {FP8_BLOCK(SCALE_BF16), 0x1p-4},
    {FP8(SCHEME_FP8_CHANNEL, SCALE_F32), 0x1p-4},
    {FP8(SCHEME_FP8_CHANNEL, SCALE_BF16), 0x1p-4},
    {INT4(40, false, SCALE_BF16, METHOD_ABSMAX), 0.08},
    {INT4(40, true, SCALE_BF16, METHOD_ABSMAX), 0.08},
    {INT4(0, false, SCALE_BF16, METHOD_ABSMAX), 0.08},
    {INT4(8, true, SCALE_BF16, METHOD_SEARCH), 0.08},
    {INT4(200, false, SCALE_BF16, METHOD_SEARCH), 0.30},
};
#define SOURCES (sizeof sources / sizeof sources[0])
#define TARGETS (sizeof targets / sizeof targets[0])

/* ---- all pairs ---- */

static void expect_near(const struct matrix *from, const struct matrix *to, double allowed)
{
    const struct kernel *ref = kernel_at(0);
    float *want = matrix_decoded(ref, from), *got = matrix_decoded(ref, to);

    for (uint64_t r = 0; r < from->rows; r++) {
        double most = (double)ref->absmax(want + r * from->cols, from->cols), worst = 0.0;
        /* The largest magnitude that shares the scale decides. */
        if (to->scheme.kind == SCHEME_FP8_BLOCK)
            most = (double)ref->absmax(want, from->rows * from->cols);
        for (uint64_t c = 0; c < from->cols; c++)
            worst = fmax(worst, fabs((double)want[r * from->cols + c] - (double)got[r * from->cols + c]));
        if (worst > allowed * most) {
            EXPECT_NEAR_F64(0.0, worst, allowed * most);
            break;
        }
    }
    mem_free(want);
    mem_free(got);
}

static void check_error(const struct matrix *from, const struct matrix *to, const struct weight_error *error)
{
    const struct kernel *ref = kernel_at(0);
    double error2 = 0.0, energy2 = 0.0;

    if (to->scheme.kind == SCHEME_PLAIN) {
        EXPECT_EQ_U64(0, error->weights);
        EXPECT_TRUE(error->error2 == 0.0 && error->energy2 == 0.0);
        return;
    }
    float *want = matrix_decoded(ref, from), *got = matrix_decoded(ref, to);
    for (uint64_t i = 0; i < from->rows * from->cols; i++) {
        error2 += pow((double)want[i] - (double)got[i], 2);
        energy2 += pow((double)want[i], 2);
    }
    EXPECT_EQ_U64(from->rows * from->cols, error->weights);
    EXPECT_NEAR_F64(energy2, error->energy2, 1e-5 * energy2);
    EXPECT_NEAR_F64(error2, error->error2, 1e-4 * error2);
    mem_free(want);
    mem_free(got);
}

static void check_pair(const struct scheme *from, const struct scheme *to, double allowed)
{
    char from_text[SCHEME_TEXT], to_text[SCHEME_TEXT];
    struct matrix in = {0}, want = {0}, got = {0};
    struct weight_error whole = {0};
    struct err e = {0};

    scheme_text(from, from_text);
    scheme_text(to, to_text);
    ct_case("%s -> %s", from_text, to_text);
    EXPECT_OK(transform_check(from, to, &e), e);
    if (!matrix_init(&in, from, MATRIX_ROWS, MATRIX_COLS) || !matrix_init(&want, to, MATRIX_ROWS, MATRIX_COLS) ||
        !matrix_init(&got, to, MATRIX_ROWS, MATRIX_COLS))
        goto done;
    matrix_fill(&in, 77);
    EXPECT_OK(matrix_convert(kernel_at(0), &in, &want, &whole, &e), e);
    expect_near(&in, &want, allowed);
    check_error(&in, &want, &whole);

    for (size_t v = 0; v < kernel_count(); v++) {
        struct weight_error sum = {0};
        if (!kernel_at(v)->usable())
            continue;
        ct_case("%s -> %s, in slices, %s", from_text, to_text, kernel_at(v)->name);
        for (uint64_t row = 0; row < MATRIX_ROWS; row += 128)
            EXPECT_OK(matrix_convert_rows(kernel_at(v), &in, &got, row,
                                          MATRIX_ROWS - row < 128 ? MATRIX_ROWS - row : 128, &sum, &e),
                      e);
        expect_same_parts(&want, &got);
        EXPECT_EQ_U64(whole.weights, sum.weights);
        EXPECT_NEAR_F64(whole.error2, sum.error2, 1e-12 * whole.error2);
    }
done:
    matrix_release(&in);
    matrix_release(&want);
    matrix_release(&got);
}

TEST(transform, every_source_becomes_every_target_the_same_on_every_cpu_and_in_slices)
{
    for (size_t s = 0; s < SOURCES; s++)
        for (size_t t = 0; t < TARGETS; t++)
            check_pair(&sources[s], &targets[t].scheme, targets[t].error);
}

TEST(transform, a_copy_is_the_same_bytes_even_where_they_make_no_sense)
{
    for (size_t s = 0; s < SOURCES; s++) {
        struct scheme to = sources[s];
        struct matrix in = {0}, out = {0};
        struct weight_error error = {0};
        struct err e = {0};
        to.method = METHOD_COPY;
        ct_case("source %zu", s);
        ASSERT_OK(transform_check(&sources[s], &to, &e), e);
        ASSERT_TRUE(matrix_init(&in, &sources[s], MATRIX_ROWS, MATRIX_COLS) &&
                    matrix_init(&out, &to, MATRIX_ROWS, MATRIX_COLS));
        matrix_fill(&in, 3);
        memset(in.parts.part[PART_CODES], 0xFF, 64);
        for (uint64_t row = 0; row < MATRIX_ROWS; row += 128)
            EXPECT_OK(matrix_convert_rows(kernel_at(0), &in, &out, row,
                                          MATRIX_ROWS - row < 128 ? MATRIX_ROWS - row : 128, &error, &e),
                      e);
        expect_same_parts(&in, &out);
        EXPECT_EQ_U64(0, error.weights);
        matrix_release(&in);
        matrix_release(&out);
    }
}

/* A block that is as large as the matrix, which the golden bytes speak of, is the same thing. */
TEST(transform, one_scale_for_a_matrix_is_that_of_one_block_and_rows_may_come_in_slices)
{
    const struct scheme tensor = FP8(SCHEME_FP8_TENSOR, SCALE_F32);
    struct scheme block = FP8_BLOCK(SCALE_F32);

    block.block_rows = 384; /* past the last row */
    block.block_cols = 256;
    for (size_t s = 0; s < SOURCES; s++) {
        const struct kernel *k = kernel_at(0);
        struct matrix in, want, got;
        struct weight_error error = {0}, sliced = {0};
        struct transform t = {.kernel = k, .from = sources[s], .to = tensor, .cols = MATRIX_COLS};
        struct err e = {0};
        float most = 0;

        if (sources[s].kind == SCHEME_FP8_TENSOR)
            continue;
        ct_case("source %zu", s);
        ASSERT_TRUE(matrix_init(&in, &sources[s], MATRIX_ROWS, MATRIX_COLS) &&
                    matrix_init(&want, &block, MATRIX_ROWS, MATRIX_COLS) &&
                    matrix_init(&got, &tensor, MATRIX_ROWS, MATRIX_COLS));
        matrix_fill(&in, 5);
        EXPECT_OK(matrix_convert(k, &in, &want, &error, &e), e);
        void *scratch = mem_aligned(transform_scratch_bytes(&t));
        EXPECT_OK(transform_most(&t, 0, MATRIX_ROWS, &in.parts, scratch, &most, &e), e);
        t.tensor_scale = transform_tensor_scale(most);
        for (uint64_t row = 0; row < MATRIX_ROWS; row += 128) {
            uint64_t count = MATRIX_ROWS - row < 128 ? MATRIX_ROWS - row : 128;
            struct slices from = matrix_slices(&in, row, count), to = matrix_slices(&got, row, count);
            EXPECT_OK(transform_run(&t, row, count, MATRIX_ROWS, &from, &to, scratch, &sliced, &e), e);
        }
        EXPECT_MEM_EQ(want.parts.part[PART_CODES], got.parts.part[PART_CODES], MATRIX_ROWS * MATRIX_COLS);
        EXPECT_MEM_EQ(want.parts.part[PART_SCALE], got.parts.part[PART_SCALE], sizeof(float));
        EXPECT_NEAR_F64(error.error2, sliced.error2, 1e-12 * error.error2);
        mem_free(scratch);
        matrix_release(&in);
        matrix_release(&want);
        matrix_release(&got);
    }
    EXPECT_EQ_F32(1.0f, transform_tensor_scale(0));
}

TEST(transform, pairs_that_cannot_be_done_are_refused_before_any_work)
{
    static const struct {
        struct scheme from, to;
        const char *part;
    } rows[] = {
        {PLAIN(DTYPE_BF16), FP8(SCHEME_FP8_TENSOR, SCALE_BF16), "cannot be written"},
        {PLAIN(DTYPE_I32), PLAIN(DTYPE_BF16), "cannot be decoded"},
        {PLAIN(DTYPE_BF16), PLAIN(DTYPE_I32), "cannot be written"},
        {{.kind = SCHEME_RAW, .dtype = DTYPE_BF16}, PLAIN(DTYPE_BF16), "cannot be decoded"},
        {PLAIN(DTYPE_BF16), INT4(32, false, SCALE_F32, METHOD_ABSMAX), "cannot be written"},
        {PLAIN(DTYPE_BF16), INT4(32, false, SCALE_BF16, METHOD_ROUND), "cannot be written"},
        {PLAIN(DTYPE_BF16), {.kind = SCHEME_PLAIN, .dtype = DTYPE_F32, .method = METHOD_COPY}, "cannot be copied"},
        {PLAIN(DTYPE_BF16), FP8_BLOCK(SCALE_F16), "cannot be written"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err e = {0};
        ct_case("row %zu", i);
        EXPECT_FALSE(transform_check(&rows[i].from, &rows[i].to, &e));
        EXPECT_ERR(e, ERR_UNSUPPORTED, rows[i].part);
    }
}

/* ---- refusals ---- */

TEST(transform, a_value_that_is_not_finite_is_refused_by_row_and_column)
{
    static const struct {
        struct scheme from;
        enum part part;
        uint64_t offset;
        uint32_t bytes, value;
        const char *message;
    } rows[] = {
        {PLAIN(DTYPE_F32), PART_CODES, (5 * MATRIX_COLS + 12) * 4, 4, 0x7F800000,
         "value at row 5, column 12 is not finite"},
        {PLAIN(DTYPE_F16), PART_CODES, (5 * MATRIX_COLS + 12) * 2, 2, 0xFC00,
         "row 5, column 12 is not finite (F16 bits 0xfc00)"},
        {PLAIN(DTYPE_BF16), PART_CODES, (5 * MATRIX_COLS + 12) * 2, 2, 0x7FC0,
         "row 5, column 12 is not finite (BF16 bits 0x7fc0)"},
        {FP8_BLOCK(SCALE_F32), PART_CODES, 5 * MATRIX_COLS + 12, 1, 0x7F,
         "value at row 5, column 12 is not finite (code 0x7f, scale "},
        {FP8(SCHEME_FP8_CHANNEL, SCALE_BF16), PART_CODES, 299 * MATRIX_COLS + 199, 1, 0xFF,
         "row 299, column 199 is not finite (code 0xff"},
        {FP8_BLOCK(SCALE_F32), PART_SCALE, 5 * 4, 4, 0x7FC00000,
         "scale of block (2, 1) is not a positive finite number (nan)"},
        {FP8_BLOCK(SCALE_F32), PART_SCALE, 0, 4, 0x80000000,
         "scale of block (0, 0) is not a positive finite number (-0)"},
        {FP8_BLOCK(SCALE_E8M0), PART_SCALE, 3, 1, 255, "scale of block (1, 1) is not a positive finite number (nan)"},
        {FP8_BLOCK(SCALE_BF16), PART_SCALE, 0, 2, 0xBF80, "scale of block (0, 0) is not a positive finite number (-1)"},
        {FP8(SCHEME_FP8_CHANNEL, SCALE_F32), PART_SCALE, 150 * 4, 4, 0x7F800000, "scale of row 150 is not"},
        {FP8(SCHEME_FP8_TENSOR, SCALE_F32), PART_SCALE, 0, 4, 0, "scale is not a positive finite number (0)"},
        {INT4(40, false, SCALE_BF16, METHOD_ABSMAX), PART_SCALE, (7 * 5 + 4) * 2, 2, 0x7F80,
         "scale of row 7, group 4 is not finite (inf)"},
        {FP8(SCHEME_FP8_TENSOR, SCALE_F32), PART_SCALE, 0, 4, 0x7F7FFFFF, "is not finite (code 0x"},
    };
    static const struct scheme to[] = {PLAIN(DTYPE_F32), PLAIN(DTYPE_BF16), FP8_BLOCK(SCALE_F32), FP8_BLOCK(SCALE_E8M0),
                                       INT4(40, true, SCALE_BF16, METHOD_ABSMAX)};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t t = 0; t < sizeof to / sizeof to[0]; t++)
            for (size_t v = 0; v < kernel_count(); v++) {
                struct matrix in = {0}, out = {0};
                struct weight_error error = {0};
                struct err e = {0};
                if (!kernel_at(v)->usable())
                    continue;
                ct_case("row %zu, target %zu, %s", i, t, kernel_at(v)->name);
                ASSERT_TRUE(matrix_init(&in, &rows[i].from, MATRIX_ROWS, MATRIX_COLS) &&
                            matrix_init(&out, &to[t], MATRIX_ROWS, MATRIX_COLS));
                matrix_fill(&in, 6);
                memcpy((uint8_t *)in.parts.part[rows[i].part] + rows[i].offset, &rows[i].value, rows[i].bytes);
                EXPECT_FALSE(matrix_convert(kernel_at(v), &in, &out, &error, &e));
                EXPECT_ERR(e, ERR_FORMAT, rows[i].message);
                EXPECT_EQ_U64(0, error.weights);
                matrix_release(&in);
                matrix_release(&out);
            }
}

/* A slice's rows and blocks are named as the whole matrix counts them. */
TEST(transform, a_refusal_in_a_later_slice_names_the_row_of_the_matrix)
{
    static const struct scheme fp8 = FP8_BLOCK(SCALE_F32), plain = PLAIN(DTYPE_BF16);
    struct matrix in = {0}, out = {0};
    struct weight_error error = {0};
    struct err e = {0};

    ASSERT_TRUE(matrix_init(&in, &fp8, MATRIX_ROWS, MATRIX_COLS) &&
                matrix_init(&out, &plain, MATRIX_ROWS, MATRIX_COLS));
    matrix_fill(&in, 6);
    ((uint8_t *)in.parts.part[PART_CODES])[130 * MATRIX_COLS + 3] = 0x7F;
    EXPECT_FALSE(matrix_convert_rows(kernel_at(0), &in, &out, 128, 128, &error, &e));
    EXPECT_ERR(e, ERR_FORMAT, "row 130, column 3 ");
    ((float *)in.parts.part[PART_SCALE])[2] = 0.0f;
    e = (struct err){0};
    EXPECT_FALSE(matrix_convert_rows(kernel_at(0), &in, &out, 128, 128, &error, &e));
    EXPECT_ERR(e, ERR_FORMAT, "scale of block (1, 0) ");
    matrix_release(&in);
    matrix_release(&out);
}

TEST(transform, values_past_the_targets_range_are_refused)
{
    static const struct {
        float x;
        enum dtype_id to;
        const char *message;
    } rows[] = {
        {65519.99f, DTYPE_F16, NULL},
        {65520.0f, DTYPE_F16, "row 1, column 2 is past F16's range (65520)"},
        {-1e30f, DTYPE_F16, "row 1, column 2 is past F16's range (-1e+30)"},
        {0x1.fefffep127f, DTYPE_BF16, NULL},
        {0x1.ffp127f, DTYPE_BF16, "row 1, column 2 is past BF16's range"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t v = 0; v < kernel_count(); v++) {
            struct scheme plain = PLAIN(DTYPE_F32), to = PLAIN(rows[i].to);
            struct matrix in = {0}, out = {0};
            struct weight_error error = {0};
            struct err e = {0};
            if (!kernel_at(v)->usable())
                continue;
            ct_case("%g, %s", (double)rows[i].x, kernel_at(v)->name);
            ASSERT_TRUE(matrix_init(&in, &plain, 3, 40) && matrix_init(&out, &to, 3, 40));
            matrix_fill(&in, 6);
            ((float *)in.parts.part[PART_CODES])[42] = rows[i].x;
            EXPECT_TRUE(matrix_convert(kernel_at(v), &in, &out, &error, &e) == (rows[i].message == NULL));
            if (rows[i].message)
                EXPECT_ERR(e, ERR_FORMAT, rows[i].message);
            matrix_release(&in);
            matrix_release(&out);
        }
}

TEST(transform, the_relative_error_of_nothing_is_zero)
{
    struct weight_error a = {0}, b = {.error2 = 4.0, .energy2 = 16.0, .weights = 3};

    EXPECT_TRUE(weight_error_relative(&a) == 0.0);
    weight_error_add(&a, &b);
    weight_error_add(&a, &b);
    EXPECT_EQ_U64(6, a.weights);
    EXPECT_NEAR_F64(0.5, weight_error_relative(&a), 0.0);
}
