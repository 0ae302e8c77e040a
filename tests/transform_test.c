#include "quant/transform.h"

#include <math.h>

#include "formats/base/mem.h"
#include "tests/kernel_support.h"

/* ---- schemes ---- */

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

/* ---- matrices ---- */

/* 300 rows and 200 columns leave partial blocks on both edges and half a word of zero points. */
#define ROWS 300u
#define COLS 200u

struct matrix {
    struct scheme scheme;
    uint64_t rows, cols;
    struct part_layout layout[PART_COUNT];
    struct slices parts;
};

static bool matrix_init(struct matrix *m, const struct scheme *s, uint64_t rows, uint64_t cols)
{
    struct err e = {0};

    *m = (struct matrix){.scheme = *s, .rows = rows, .cols = cols};
    if (!scheme_layout(s, rows, cols, m->layout, &e))
        return ct_err(__FILE__, __LINE__, "scheme_layout", &e, ERR_NONE, NULL);
    for (enum part p = PART_CODES; p < PART_COUNT; p++)
        if (m->layout[p].present) {
            m->parts.part[p] = mem_aligned(m->layout[p].bytes);
            memset(m->parts.part[p], 0x5A, m->layout[p].bytes);
        }
    return true;
}

static void matrix_release(struct matrix *m)
{
    for (enum part p = PART_CODES; p < PART_COUNT; p++)
        mem_free(m->parts.part[p]);
    *m = (struct matrix){0};
}

static struct slices matrix_slices(const struct matrix *m, uint64_t row, uint64_t count)
{
    struct slices s = {0};

    for (enum part p = PART_CODES; p < PART_COUNT; p++) {
        uint64_t offset, bytes;
        scheme_slice(&m->scheme, p, m->rows, m->cols, row, count, &offset, &bytes);
        if (m->layout[p].present)
            s.part[p] = (uint8_t *)m->parts.part[p] + offset;
    }
    return s;
}

static void fill_scales(struct matrix *m, uint64_t *seed)
{
    struct part_layout *l = &m->layout[PART_SCALE];

    for (uint64_t i = 0; i < l->bytes / dtype_get(l->dtype)->block_bytes; i++) {
        float scale = fabsf(support_float(seed, -9, -3));
        uint8_t *at = (uint8_t *)m->parts.part[PART_SCALE] + i * dtype_get(l->dtype)->block_bytes;
        uint16_t code;
        if (m->scheme.kind == SCHEME_INT4 && i % 3 == 0)
            scale = -scale;
        if (m->scheme.scale == SCALE_F32_POW2)
            scale = ldexpf(1.0f, -9 + (int)(i % 5));
        if (l->dtype == DTYPE_F32) {
            memcpy(at, &scale, sizeof scale);
        } else if (l->dtype == DTYPE_F8_E8M0) {
            *at = (uint8_t)(118 + i % 5);
        } else {
            const struct kernel *k = kernel_at(0);
            bool ok = l->dtype == DTYPE_BF16 ? k->bf16_encode(&code, &scale, 1) : k->f16_encode(&code, &scale, 1);
            EXPECT_TRUE(ok);
            memcpy(at, &code, sizeof code);
        }
    }
}

static void fill(struct matrix *m, uint64_t seed)
{
    struct part_layout *codes = &m->layout[PART_CODES];
    uint8_t *bytes = m->parts.part[PART_CODES];
    float x;

    for (uint64_t i = 0; i < codes->bytes; i++)
        bytes[i] = (uint8_t)support_random(&seed);
    if (m->scheme.kind == SCHEME_PLAIN)
        for (uint64_t i = 0; i < m->rows * m->cols; i++) {
            const struct kernel *k = kernel_at(0);
            support_floats(&x, 1, &seed, -12, 1);
            if (codes->dtype == DTYPE_F32)
                memcpy(bytes + i * 4, &x, 4);
            else if (codes->dtype == DTYPE_F16)
                EXPECT_TRUE(k->f16_encode((uint16_t *)(void *)bytes + i, &x, 1));
            else
                EXPECT_TRUE(k->bf16_encode((uint16_t *)(void *)bytes + i, &x, 1));
        }
    if (codes->dtype == DTYPE_F8_E4M3)
        for (uint64_t i = 0; i < codes->bytes; i++)
            bytes[i] = (uint8_t)((bytes[i] & 0x7F) == 0x7F ? bytes[i] & 0x80 : bytes[i]);
    if (m->layout[PART_SCALE].present)
        fill_scales(m, &seed);
    if (m->layout[PART_ZERO_POINT].present)
        for (uint64_t i = 0; i < m->layout[PART_ZERO_POINT].bytes; i++)
            ((uint8_t *)m->parts.part[PART_ZERO_POINT])[i] = (uint8_t)support_random(&seed);
}

static bool convert_rows(const struct kernel *k, const struct matrix *from, const struct matrix *to, uint64_t row,
                         uint64_t count, struct weight_error *error, struct err *e)
{
    struct transform t = {.kernel = k, .from = from->scheme, .to = to->scheme, .cols = from->cols};
    struct slices in = matrix_slices(from, row, count), out = matrix_slices(to, row, count);
    void *scratch = mem_aligned(transform_scratch_bytes(&t) + 64);

    memset((uint8_t *)scratch + transform_scratch_bytes(&t), 0x5A, 64);
    bool ok = transform_run(&t, row, count, from->rows, &in, &out, scratch, error, e);
    for (size_t i = 0; i < 64; i++)
        EXPECT_EQ_U64(0x5A, ((uint8_t *)scratch + transform_scratch_bytes(&t))[i]);
    mem_free(scratch);
    return ok;
}

static bool convert(const struct kernel *k, const struct matrix *from, const struct matrix *to,
                    struct weight_error *error, struct err *e)
{
    return convert_rows(k, from, to, 0, from->rows, error, e);
}

static float *decoded(const struct kernel *k, const struct matrix *m)
{
    struct err e = {0};
    float *x = mem_aligned(m->rows * m->cols * sizeof *x);
    void *scratch = mem_aligned(decode_scratch_bytes(&m->scheme, m->cols) + 1);

    EXPECT_OK(decode_rows(k, &m->scheme, 0, m->rows, m->rows, m->cols, &m->parts, x, scratch, &e), e);
    mem_free(scratch);
    return x;
}

static void expect_same_parts(const struct matrix *want, const struct matrix *got)
{
    for (enum part p = PART_CODES; p < PART_SHAPE; p++)
        if (want->layout[p].present)
            EXPECT_MEM_EQ(want->parts.part[p], got->parts.part[p], want->layout[p].bytes);
}

/* ---- all pairs ---- */

static void expect_near(const struct matrix *from, const struct matrix *to, double allowed)
{
    const struct kernel *ref = kernel_at(0);
    float *want = decoded(ref, from), *got = decoded(ref, to);

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
    float *want = decoded(ref, from), *got = decoded(ref, to);
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
    if (!matrix_init(&in, from, ROWS, COLS) || !matrix_init(&want, to, ROWS, COLS) ||
        !matrix_init(&got, to, ROWS, COLS))
        goto done;
    fill(&in, 77);
    EXPECT_OK(convert(kernel_at(0), &in, &want, &whole, &e), e);
    expect_near(&in, &want, allowed);
    check_error(&in, &want, &whole);

    for (size_t v = 0; v < kernel_count(); v++) {
        struct weight_error sum = {0};
        if (!kernel_at(v)->usable())
            continue;
        ct_case("%s -> %s, in slices, %s", from_text, to_text, kernel_at(v)->name);
        for (uint64_t row = 0; row < ROWS; row += 128)
            EXPECT_OK(convert_rows(kernel_at(v), &in, &got, row, ROWS - row < 128 ? ROWS - row : 128, &sum, &e), e);
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
        ASSERT_TRUE(matrix_init(&in, &sources[s], ROWS, COLS) && matrix_init(&out, &to, ROWS, COLS));
        fill(&in, 3);
        memset(in.parts.part[PART_CODES], 0xFF, 64);
        for (uint64_t row = 0; row < ROWS; row += 128)
            EXPECT_OK(convert_rows(kernel_at(0), &in, &out, row, ROWS - row < 128 ? ROWS - row : 128, &error, &e), e);
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
        struct transform t = {.kernel = k, .from = sources[s], .to = tensor, .cols = COLS};
        struct err e = {0};
        float most = 0;

        if (sources[s].kind == SCHEME_FP8_TENSOR)
            continue;
        ct_case("source %zu", s);
        ASSERT_TRUE(matrix_init(&in, &sources[s], ROWS, COLS) && matrix_init(&want, &block, ROWS, COLS) &&
                    matrix_init(&got, &tensor, ROWS, COLS));
        fill(&in, 5);
        EXPECT_OK(convert(k, &in, &want, &error, &e), e);
        void *scratch = mem_aligned(transform_scratch_bytes(&t));
        EXPECT_OK(transform_most(&t, ROWS, &in.parts, scratch, &most, &e), e);
        t.tensor_scale = transform_tensor_scale(most);
        for (uint64_t row = 0; row < ROWS; row += 128) {
            uint64_t count = ROWS - row < 128 ? ROWS - row : 128;
            struct slices from = matrix_slices(&in, row, count), to = matrix_slices(&got, row, count);
            EXPECT_OK(transform_run(&t, row, count, ROWS, &from, &to, scratch, &sliced, &e), e);
        }
        EXPECT_MEM_EQ(want.parts.part[PART_CODES], got.parts.part[PART_CODES], ROWS * COLS);
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

/* ---- FP8 targets ---- */

/* Made with dsv3.py's fp8_block(w, 128, ue8m0=True): scale 2^-7 is exact, so its float64 division is ours. */
static const uint8_t golden_codes[120] = {
    0xFC, 0xED, 0x74, 0xFA, 0xDC, 0x78, 0xF7, 0x66, 0x7B, 0xF2, 0x70, 0xFC, 0xEA, 0x76, 0xF9, 0x00, 0x79, 0xF6,
    0x6A, 0x7C, 0xF0, 0x72, 0xFB, 0xE6, 0x77, 0xF8, 0x5C, 0x7A, 0xF4, 0x6D, 0x7C, 0xEE, 0x74, 0xFA, 0xE0, 0x78,
    0xF8, 0x64, 0x7B, 0xF2, 0x70, 0xFC, 0xEB, 0x75, 0xFA, 0xD0, 0x79, 0xF6, 0x69, 0x7C, 0xF1, 0x72, 0xFB, 0xE8,
    0x76, 0xF9, 0x58, 0x7A, 0xF4, 0x6C, 0x7C, 0xEF, 0x73, 0xFA, 0xE2, 0x78, 0xF8, 0x62, 0x7A, 0xF3, 0x6F, 0xFC,
    0xEC, 0x74, 0xFA, 0xD8, 0x79, 0xF6, 0x68, 0x7B, 0xF2, 0x71, 0xFC, 0xE9, 0x76, 0xF9, 0x50, 0x7A, 0xF5, 0x6B,
    0x7C, 0xF0, 0x72, 0xFB, 0xE4, 0x78, 0xF8, 0x60, 0x7A, 0xF4, 0x6E, 0xFC, 0xED, 0x74, 0xFA, 0xDC, 0x78, 0xF7,
    0x66, 0x7B, 0xF2, 0x70, 0xFC, 0xEA, 0x76, 0xF9, 0x00, 0x79, 0xF6, 0x6A,
};

TEST(transform, fp8_blocks_are_the_reference_implementations)
{
    static const struct scheme plain = PLAIN(DTYPE_F32), pow2 = FP8_BLOCK(SCALE_F32_POW2), e8m0 = FP8_BLOCK(SCALE_E8M0);
    float w[120];

    for (int i = 0; i < 120; i++)
        w[i] = (float)(i * 37 % 101 - 50) / 16.0f;
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        struct matrix in = {0}, out = {0}, out8 = {0};
        struct weight_error error = {0};
        struct err e = {0};
        if (!k)
            continue;
        ASSERT_TRUE(matrix_init(&in, &plain, 3, 40) && matrix_init(&out, &pow2, 3, 40) &&
                    matrix_init(&out8, &e8m0, 3, 40));
        memcpy(in.parts.part[PART_CODES], w, sizeof w);
        EXPECT_OK(convert(k, &in, &out, &error, &e), e);
        EXPECT_MEM_EQ(golden_codes, out.parts.part[PART_CODES], 120);
        EXPECT_EQ_F32(0x1p-7f, *(float *)out.parts.part[PART_SCALE]);
        EXPECT_OK(convert(k, &in, &out8, &error, &e), e);
        EXPECT_MEM_EQ(golden_codes, out8.parts.part[PART_CODES], 120);
        EXPECT_EQ_U64(120, *(uint8_t *)out8.parts.part[PART_SCALE]);
        matrix_release(&in);
        matrix_release(&out);
        matrix_release(&out8);
    }
}

/* The rules once more, a block at a time and from the whole float matrix. */
static void naive_fp8(const float *x, uint64_t rows, uint64_t cols, bool pow2, uint8_t *codes, float *scales)
{
    uint64_t across = (cols + 127) / 128;

    for (uint64_t b = 0; b < (rows + 127) / 128 * across; b++) {
        uint64_t row = b / across * 128, col = b % across * 128;
        uint64_t row_end = row + 128 < rows ? row + 128 : rows, n = cols - col < 128 ? cols - col : 128;
        float most = 0.0f;
        for (uint64_t r = row; r < row_end; r++)
            for (uint64_t c = col; c < col + n; c++)
                most = fmaxf(most, fabsf(x[r * cols + c]));
        scales[b] = most == 0.0f ? 1.0f : most / 448.0f;
        if (pow2 && most != 0.0f) {
            int exponent;
            float fraction = frexpf(most / 448.0f, &exponent);
            scales[b] = ldexpf(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
        }
        for (uint64_t r = row; r < row_end; r++)
            kernel_at(0)->e4m3_encode(codes + r * cols + col, x + r * cols + col, n, &scales[b], n);
    }
}

TEST(transform, ragged_fp8_blocks_follow_the_rules)
{
    static const struct scheme plain = PLAIN(DTYPE_F32), kinds[] = {FP8_BLOCK(SCALE_F32), FP8_BLOCK(SCALE_F32_POW2)};

    for (size_t i = 0; i < 2; i++) {
        struct matrix in = {0}, out = {0};
        struct weight_error error = {0};
        struct err e = {0};
        ct_case("pow2 %zu", i);
        ASSERT_TRUE(matrix_init(&in, &plain, 576, 200) && matrix_init(&out, &kinds[i], 576, 200));
        fill(&in, 9);
        for (uint64_t r = 0; r < 128; r++) /* an empty block */
            memset((float *)in.parts.part[PART_CODES] + r * 200 + 128, 0, 72 * sizeof(float));
        float scales[10];
        uint8_t *codes = mem_alloc(576 * 200);
        naive_fp8(in.parts.part[PART_CODES], 576, 200, i == 1, codes, scales);
        EXPECT_EQ_F32(1.0f, scales[1]);
        for (size_t v = 0; v < kernel_count(); v++) {
            if (!kernel_at(v)->usable())
                continue;
            EXPECT_OK(convert(kernel_at(v), &in, &out, &error, &e), e);
            EXPECT_MEM_EQ(scales, out.parts.part[PART_SCALE], sizeof scales);
            EXPECT_MEM_EQ(codes, out.parts.part[PART_CODES], 576 * 200);
        }
        mem_free(codes);
        matrix_release(&in);
        matrix_release(&out);
    }
}

/* The amax just above 448 is where log2f rounds down to a whole number. */
TEST(transform, powers_of_two_are_rounded_up_just_above_one)
{
    static const struct scheme plain = PLAIN(DTYPE_F32), pow2 = FP8_BLOCK(SCALE_F32_POW2);
    static const struct {
        float most, scale;
    } rows[] = {
        {448.0f, 1.0f},         {0x1.c00002p8f, 2.0f},  {0x1.bffffep8f, 1.0f},      {448.0f * 0x1p20f, 0x1p20f},
        {0x1p-149f, 0x1p-127f}, {0x1p-118f, 0x1p-126f}, {0x1.c00002p-8f, 0x1p-15f},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct matrix in = {0}, out = {0};
        struct weight_error error = {0};
        struct err e = {0};
        ct_case("%a", (double)rows[i].most);
        ASSERT_TRUE(matrix_init(&in, &plain, 1, 1) && matrix_init(&out, &pow2, 1, 1));
        memcpy(in.parts.part[PART_CODES], &rows[i].most, 4);
        EXPECT_OK(convert(kernel_at(0), &in, &out, &error, &e), e);
        EXPECT_EQ_F32(rows[i].scale, *(float *)out.parts.part[PART_SCALE]);
        matrix_release(&in);
        matrix_release(&out);
    }
}

/* UE8M0 targets are requantized, never only rescaled, but for scales that are powers of two already. */
TEST(transform, fp8_blocks_keep_codes_under_a_scale_that_is_a_power_of_two)
{
    static const struct scheme f32 = FP8_BLOCK(SCALE_F32), pow2 = FP8_BLOCK(SCALE_F32_POW2);

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        struct matrix in = {0}, out = {0};
        struct weight_error error = {0};
        struct err e = {0};
        if (!k)
            continue;
        ASSERT_TRUE(matrix_init(&in, &f32, 256, 256) && matrix_init(&out, &pow2, 256, 256));
        fill(&in, 4);
        float *scales = in.parts.part[PART_SCALE], *got = out.parts.part[PART_SCALE];
        const uint8_t *codes = in.parts.part[PART_CODES], *out_codes = out.parts.part[PART_CODES];
        scales[0] = 0x1p-7f;
        scales[1] = 0x1.8p-7f;
        scales[2] = 0x1.000002p-7f;
        scales[3] = 0x1p-127f;
        EXPECT_OK(convert(k, &in, &out, &error, &e), e);
        EXPECT_EQ_F32(0x1p-7f, got[0]);
        EXPECT_EQ_F32(0x1p-6f, got[1]);
        EXPECT_EQ_F32(0x1p-6f, got[2]);
        EXPECT_EQ_F32(0x1p-127f, got[3]);
        for (uint64_t r = 0; r < 128; r++) {
            EXPECT_MEM_EQ(codes + r * 256, out_codes + r * 256, 128);
            EXPECT_MEM_EQ(codes + (r + 128) * 256 + 128, out_codes + (r + 128) * 256 + 128, 128);
        }
        float *x = decoded(k, &in);
        uint8_t want[128];
        for (uint64_t r = 0; r < 128; r++) {
            k->e4m3_encode(want, x + r * 256 + 128, 128, &got[1], 128);
            EXPECT_MEM_EQ(want, out_codes + r * 256 + 128, 128);
        }
        EXPECT_TRUE(error.error2 > 0.0);
        mem_free(x);
        matrix_release(&in);
        matrix_release(&out);
    }
}

TEST(transform, e8m0_and_f32_powers_of_two_are_the_same_scales)
{
    static const struct scheme e8m0 = FP8_BLOCK(SCALE_E8M0), pow2 = FP8_BLOCK(SCALE_F32_POW2),
                               f32 = FP8_BLOCK(SCALE_F32);
    struct matrix a = {0}, b = {0}, c = {0}, d = {0};
    struct weight_error error = {0};
    struct err e = {0};

    ASSERT_TRUE(matrix_init(&a, &e8m0, 128, 247 * 128) && matrix_init(&b, &pow2, 128, 247 * 128) &&
                matrix_init(&c, &f32, 128, 247 * 128) && matrix_init(&d, &e8m0, 128, 247 * 128));
    fill(&a, 5);
    for (uint32_t i = 0; i < 247; i++) /* 2^119 and above make 448 infinite */
        ((uint8_t *)a.parts.part[PART_SCALE])[i] = (uint8_t)(i < 246 ? i : 0);
    EXPECT_OK(convert(kernel_at(0), &a, &b, &error, &e), e);
    EXPECT_OK(convert(kernel_at(0), &b, &c, &error, &e), e);
    EXPECT_OK(convert(kernel_at(0), &c, &d, &error, &e), e);
    EXPECT_EQ_F32(0x1p-127f, *(float *)b.parts.part[PART_SCALE]);
    EXPECT_MEM_EQ(b.parts.part[PART_SCALE], c.parts.part[PART_SCALE], 247 * 4);
    expect_same_parts(&a, &d);
    EXPECT_TRUE(error.error2 == 0.0);
    EXPECT_TRUE(error.energy2 > 0.0);
    matrix_release(&a);
    matrix_release(&b);
    matrix_release(&c);
    matrix_release(&d);
}

/* ---- int4 ---- */

/* Three groups' zero points from the format notes: rows 0..2 of two groups (-8,1) (2,3) (7,-1). */
TEST(transform, zero_points_lie_packed_along_rows)
{
    static const struct scheme asym = INT4(8, true, SCALE_BF16, METHOD_ABSMAX);
    struct matrix in = {0};

    ASSERT_TRUE(matrix_init(&in, &asym, 3, 16));
    memset(in.parts.part[PART_CODES], 0x88, in.layout[PART_CODES].bytes); /* codes 0 */
    for (size_t i = 0; i < 6; i++)
        ((uint16_t *)in.parts.part[PART_SCALE])[i] = 0x3F80;
    memcpy(in.parts.part[PART_ZERO_POINT], (uint32_t[]){0x00000FA0u, 0x000007B9u}, 8);
    static const float want[3][2] = {{8.0f, -1.0f}, {-2.0f, -3.0f}, {-7.0f, 1.0f}};
    float *x = decoded(kernel_at(0), &in);
    for (size_t r = 0; r < 3; r++)
        for (size_t c = 0; c < 16; c++)
            EXPECT_EQ_F32(want[r][c / 8], x[r * 16 + c]);
    mem_free(x);
    matrix_release(&in);
}

TEST(transform, zero_points_of_missing_rows_are_zero_bits)
{
    static const struct scheme plain = PLAIN(DTYPE_BF16), asym = INT4(8, true, SCALE_BF16, METHOD_ABSMAX);
    struct matrix in = {0}, out = {0};
    struct weight_error error = {0};
    struct err e = {0};

    ASSERT_TRUE(matrix_init(&in, &plain, 11, 16) && matrix_init(&out, &asym, 11, 16));
    fill(&in, 8);
    EXPECT_OK(convert(kernel_at(0), &in, &out, &error, &e), e);
    uint32_t *zeros = out.parts.part[PART_ZERO_POINT];
    for (size_t g = 0; g < 2; g++)
        EXPECT_EQ_U64(0, zeros[2 + g] >> 12);
    matrix_release(&in);
    matrix_release(&out);
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
        {PLAIN(DTYPE_F32), PART_CODES, (5 * COLS + 12) * 4, 4, 0x7F800000, "value at row 5, column 12 is not finite"},
        {PLAIN(DTYPE_F16), PART_CODES, (5 * COLS + 12) * 2, 2, 0xFC00,
         "row 5, column 12 is not finite (F16 bits 0xfc00)"},
        {PLAIN(DTYPE_BF16), PART_CODES, (5 * COLS + 12) * 2, 2, 0x7FC0,
         "row 5, column 12 is not finite (BF16 bits 0x7fc0)"},
        {FP8_BLOCK(SCALE_F32), PART_CODES, 5 * COLS + 12, 1, 0x7F,
         "value at row 5, column 12 is not finite (code 0x7f, scale "},
        {FP8(SCHEME_FP8_CHANNEL, SCALE_BF16), PART_CODES, 299 * COLS + 199, 1, 0xFF,
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
                ASSERT_TRUE(matrix_init(&in, &rows[i].from, ROWS, COLS) && matrix_init(&out, &to[t], ROWS, COLS));
                fill(&in, 6);
                memcpy((uint8_t *)in.parts.part[rows[i].part] + rows[i].offset, &rows[i].value, rows[i].bytes);
                EXPECT_FALSE(convert(kernel_at(v), &in, &out, &error, &e));
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

    ASSERT_TRUE(matrix_init(&in, &fp8, ROWS, COLS) && matrix_init(&out, &plain, ROWS, COLS));
    fill(&in, 6);
    ((uint8_t *)in.parts.part[PART_CODES])[130 * COLS + 3] = 0x7F;
    EXPECT_FALSE(convert_rows(kernel_at(0), &in, &out, 128, 128, &error, &e));
    EXPECT_ERR(e, ERR_FORMAT, "row 130, column 3 ");
    ((float *)in.parts.part[PART_SCALE])[2] = 0.0f;
    e = (struct err){0};
    EXPECT_FALSE(convert_rows(kernel_at(0), &in, &out, 128, 128, &error, &e));
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
            fill(&in, 6);
            ((float *)in.parts.part[PART_CODES])[42] = rows[i].x;
            EXPECT_TRUE(convert(kernel_at(v), &in, &out, &error, &e) == (rows[i].message == NULL));
            if (rows[i].message)
                EXPECT_ERR(e, ERR_FORMAT, rows[i].message);
            matrix_release(&in);
            matrix_release(&out);
        }
}

/* Negative scales are legal in int4, and a zero scale makes zeros. */
TEST(transform, int4_scales_may_be_negative_or_zero)
{
    static const struct scheme int4 = INT4(8, false, SCALE_F32, METHOD_ABSMAX);
    struct matrix in = {0};

    ASSERT_TRUE(matrix_init(&in, &int4, 1, 16));
    memset(in.parts.part[PART_CODES], 0xAA, in.layout[PART_CODES].bytes); /* codes 2 */
    memcpy(in.parts.part[PART_SCALE], (float[]){-0.3f, 0.0f}, 8);
    float *x = decoded(kernel_at(0), &in);
    EXPECT_EQ_F32(-0.6f, x[7]);
    EXPECT_EQ_F32(0.0f, x[8]);
    mem_free(x);
    matrix_release(&in);
}

TEST(transform, an_int4_product_past_the_floats_is_refused)
{
    static const struct scheme int4 = INT4(8, true, SCALE_BF16, METHOD_ABSMAX), plain = PLAIN(DTYPE_F32);
    static const uint16_t scales[] = {0x7F7F, 0xFF00, 0x7D80, 0x7D00}; /* .. 2^124 and 2^123: times 15 is finite */

    for (size_t i = 0; i < 4; i++)
        for (size_t v = 0; v < kernel_count(); v++) {
            struct matrix in = {0}, out = {0};
            struct weight_error error = {0};
            struct err e = {0};
            if (!kernel_at(v)->usable())
                continue;
            ct_case("scale %04x, %s", scales[i], kernel_at(v)->name);
            ASSERT_TRUE(matrix_init(&in, &int4, 1, 16) && matrix_init(&out, &plain, 1, 16));
            memset(in.parts.part[PART_CODES], 0x88, 8); /* codes 0, but for the last: 7 */
            ((uint8_t *)in.parts.part[PART_CODES])[7] = 0xF8;
            memcpy(in.parts.part[PART_ZERO_POINT], (uint32_t[]){8, 0}, 8); /* zero points 0 and -8 */
            memcpy(in.parts.part[PART_SCALE], (uint16_t[]){0x3F80, scales[i]}, 4);
            EXPECT_TRUE(convert(kernel_at(v), &in, &out, &error, &e) == (i >= 2));
            if (i < 2)
                EXPECT_ERR(e, ERR_FORMAT, "value at row 0, column ");
            matrix_release(&in);
            matrix_release(&out);
        }
}

/* Dividing the smallest floats by 448 leaves nothing; 2^-126 takes its place. */
TEST(transform, fp8_scales_stay_normal_floats)
{
    static const struct scheme plain = PLAIN(DTYPE_F32);
    static const struct scheme to[] = {FP8_BLOCK(SCALE_F32), FP8(SCHEME_FP8_CHANNEL, SCALE_F32)};
    static const struct {
        float x, scale;
    } rows[] = {
        {0x1p-149f, 0x1p-126f}, {0x1p-120f, 0x1p-126f}, {448.0f * 0x1p-126f, 0x1p-126f}, {0x1.cp-117f, 0x1p-125f}};

    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < 4; i++) {
            struct matrix in = {0}, out = {0};
            struct weight_error error = {0};
            struct err e = {0};
            ct_case("%a", (double)rows[i].x);
            ASSERT_TRUE(matrix_init(&in, &plain, 1, 1) && matrix_init(&out, &to[t], 1, 1));
            memcpy(in.parts.part[PART_CODES], &rows[i].x, 4);
            EXPECT_OK(convert(kernel_at(0), &in, &out, &error, &e), e);
            EXPECT_EQ_F32(rows[i].scale, *(float *)out.parts.part[PART_SCALE]);
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
