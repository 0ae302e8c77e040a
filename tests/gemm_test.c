#include "quant/gemm.h"

#include <math.h>

#include "formats/base/mem.h"
#include "tests/gemm_support.h"
#include "tests/kernel_support.h"

/* More tokens than the sums of one pass hold, more columns than a panel, rows past whole panels and tiles. */
#define TOKENS_MAX 269u
#define X_EXTRA    3u /* x and y have strides of their own */

struct product {
    float *x, *y, *want;
    size_t x_stride, y_stride, tokens;
    void *scratch;
};

static void product_make(struct product *p, const struct matrix_coded *m, size_t tokens, uint64_t seed)
{
    uint64_t cols = m->coded.cols, rows = m->coded.rows;

    p->x_stride = cols + X_EXTRA;
    p->y_stride = rows + X_EXTRA;
    p->tokens = tokens;
    p->x = mem_alloc(tokens * p->x_stride * sizeof *p->x);
    p->y = mem_alloc(tokens * p->y_stride * sizeof *p->y);
    p->want = mem_alloc(tokens * p->y_stride * sizeof *p->want);
    p->scratch = mem_aligned(gemm_scratch_bytes(&m->coded, tokens));
    for (size_t i = 0; i < tokens * p->x_stride; i++)
        p->x[i] = NAN; /* what is past the columns must not be read into a sum */
    for (size_t t = 0; t < tokens; t++)
        support_floats(p->x + t * p->x_stride, cols, &seed, -6, 3);
    for (size_t i = 0; i < tokens * p->y_stride; i++)
        p->y[i] = p->want[i] = support_float(&seed, -3, 3);
}

static void product_release(struct product *p)
{
    mem_free(p->x);
    mem_free(p->y);
    mem_free(p->want);
    mem_free(p->scratch);
}

/* The reference's columns [row, row + count) of want. */
static void product_expect(struct product *p, const struct matrix_coded *m, uint64_t row, uint64_t count, bool add)
{
    for (size_t t = 0; t < p->tokens; t++)
        for (uint64_t r = row; r < row + count; r++) {
            float *y = p->want + t * p->y_stride + r;
            float product = gemm_support_dot(p->x + t * p->x_stride, m->decoded + r * m->coded.cols, m->coded.cols);
            *y = add ? *y + product : product;
        }
}

static bool run(const struct kernel *k, const struct matrix_coded *m, const struct product *p, uint64_t row,
                uint64_t count, size_t token, size_t tokens, bool add, struct err *e)
{
    return gemm(k, &m->coded, row, count, p->x + token * p->x_stride, p->x_stride, tokens, p->y + token * p->y_stride,
                p->y_stride, add, p->scratch, e);
}

static void compare(const struct product *p)
{
    ASSERT_MEM_EQ(p->want, p->y, p->tokens * p->y_stride * sizeof *p->y);
}

static const struct {
    uint64_t rows, cols;
    size_t tokens;
} shapes[] = {
    {16, 16, 1},
    {5, 120, 2},
    {40, 240, 3},
    {33, 1920, 4},
    {37, 1080, 5},
    {71, 240, 6},
    {9, 840, 7},
    {50, 2160, 9},
    {64, 256, 13},
    {23, 1160, 24},
    {40, 120, TOKENS_MAX},
    /* whole tiles and groups: what a variant may decode in registers, for few tokens and beside a panel */
    {64, 2176, 5},
    {20, 1056, 24},
    {132, 1120, 31},
    {36, 1120, 265},
};

/* The largest divisor-friendly number of columns a scheme can store. */
static uint64_t cols_for(const struct scheme *s, uint64_t cols)
{
    uint64_t group = s->kind == SCHEME_INT4 && s->group_cols ? s->group_cols : 1;

    return cols < group ? group : cols / group * group;
}

TEST(gemm, every_scheme_and_shape_has_the_written_order_on_every_cpu)
{
    for (size_t c = 0; c < gemm_case_count; c++)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            const struct scheme *scheme = &gemm_cases[c].scheme;
            uint64_t rows = shapes[s].rows, cols = cols_for(scheme, shapes[s].cols);
            struct matrix_coded m;
            struct product p;
            matrix_coded_make(&m, scheme, rows, cols, 17 * c + s);
            product_make(&p, &m, shapes[s].tokens, c + s);
            product_expect(&p, &m, 0, rows, false);
            for (size_t v = 0; v < kernel_count(); v++) {
                const struct kernel *k = kernel_at(v);
                struct err e = {0};
                if (!support_is_exact(k) || !k->usable())
                    continue;
                ct_case("%s, %s, %zu x %zu, %zu tokens", k->name, gemm_cases[c].name, (size_t)rows, (size_t)cols,
                        p.tokens);
                EXPECT_OK(run(k, &m, &p, 0, rows, 0, p.tokens, false, &e), e);
                compare(&p);
            }
            product_release(&p);
            matrix_coded_release(&m);
        }
}

/* One token after another, and rows in slices, in any order: the same bits as all at once. */
TEST(gemm, tokens_and_rows_may_be_cut_anywhere)
{
    for (size_t c = 0; c < gemm_case_count; c++) {
        const struct scheme *scheme = &gemm_cases[c].scheme;
        uint64_t rows = 152, cols = cols_for(scheme, 1216), each = scheme_row_multiple(scheme);
        struct matrix_coded m;
        struct product p;
        matrix_coded_make(&m, scheme, rows, cols, c);
        product_make(&p, &m, 29, c);
        product_expect(&p, &m, 0, rows, false);
        for (size_t v = 0; v < kernel_count(); v++) {
            const struct kernel *k = kernel_at(v);
            struct err e = {0};
            if (!support_is_exact(k) || !k->usable())
                continue;
            for (size_t tokens = 1; tokens <= 29; tokens += tokens) {
                ct_case("%s, %s, %zu tokens", k->name, gemm_cases[c].name, tokens);
                for (size_t t = 0; t < 29; t += tokens) {
                    size_t some = 29 - t < tokens ? 29 - t : tokens;
                    uint64_t cut = (t + 1) * 8 / each * each;
                    cut = cut < rows ? cut : 0;
                    EXPECT_OK(run(k, &m, &p, cut, rows - cut, t, some, false, &e), e);
                    EXPECT_OK(run(k, &m, &p, 0, cut, t, some, false, &e), e);
                }
                compare(&p);
            }
        }
        product_release(&p);
        matrix_coded_release(&m);
    }
}

TEST(gemm, add_adds_the_folded_product_and_other_rows_stay)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_exact(v);
        struct matrix_coded m;
        struct product p;
        struct err e = {0};
        for (size_t tokens = 1; k && tokens <= 8; tokens++) {
            ct_case("%s, %zu tokens", k->name, tokens);
            matrix_coded_make(&m, &gemm_cases[7].scheme, 90, 256, 3);
            product_make(&p, &m, tokens, 4);
            product_expect(&p, &m, 24, 41, true);
            EXPECT_OK(run(k, &m, &p, 24, 41, 0, tokens, true, &e), e);
            compare(&p);
            product_release(&p);
            matrix_coded_release(&m);
        }
    }
}

/* Sixteen short sums instead of one long one; normal-like numbers. */
TEST(gemm, the_error_against_float64_is_a_few_millionths)
{
    static const size_t cases[] = {0, 3, 7, 8};

    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const struct kernel *k = kernel_get();
        struct matrix_coded m;
        struct product p;
        struct err e = {0};
        double error2 = 0.0, energy2 = 0.0;
        ct_case("%s", gemm_cases[cases[c]].name);
        matrix_coded_make(&m, &gemm_cases[cases[c]].scheme, 64, 7168, 5);
        product_make(&p, &m, 16, 6);
        EXPECT_OK(run(k, &m, &p, 0, 64, 0, 16, false, &e), e);
        for (size_t t = 0; t < 16; t++)
            for (size_t r = 0; r < 64; r++) {
                double exact = 0.0;
                for (size_t i = 0; i < 7168; i++)
                    exact += (double)p.x[t * p.x_stride + i] * (double)m.decoded[r * 7168 + i];
                double off = (double)p.y[t * p.y_stride + r] - exact;
                error2 += off * off;
                energy2 += exact * exact;
            }
        EXPECT_TRUE(sqrt(error2 / energy2) < 5e-6);
        EXPECT_TRUE(energy2 > 0.0);
        product_release(&p);
        matrix_coded_release(&m);
    }
}

/* ---- refusals ---- */

struct planted {
    size_t gemm_case;
    enum part part;
    size_t at, bytes; /* element, and bytes of one */
    uint32_t bits;
    const char *message;
};

static const struct planted planted[] = {
    {0, PART_CODES, 70 * 1280 + 1111, 4, 0x7FC00000u, "row 70, column 1111"},
    {1, PART_CODES, 3 * 1280 + 5, 2, 0x7F80u, "row 3, column 5"},
    {2, PART_CODES, 71 * 1280 + 1279, 2, 0xFC00u, "row 71, column 1279"},
    {3, PART_CODES, 66 * 1280 + 1030, 1, 0x7Fu, "row 66, column 1030"},
    {3, PART_CODES, 0, 1, 0xFFu, "row 0, column 0"},
    {3, PART_SCALE, 9, 4, 0x7F800000u, "scale of block (0, 9)"},
    {5, PART_SCALE, 70, 2, 0x7F80u, "scale of row 70"},
    {7, PART_SCALE, 69 * 10 + 9, 2, 0x7FC0u, "scale of row 69, group 9"},
    {8, PART_SCALE, 70 * 40 + 39, 2, 0xFF80u, "scale of row 70, group 39"},
    {8, PART_SCALE, 2 * 40 + 38, 2, 0x7F7Fu, "row 2, column 12"},
};

TEST(gemm, a_weight_that_is_not_finite_is_refused_by_row_and_column)
{
    for (size_t i = 0; i < sizeof planted / sizeof planted[0]; i++)
        for (size_t v = 0; v < kernel_count(); v++) {
            const struct planted *bad = &planted[i];
            const struct kernel *k = support_kernel(v);
            struct matrix_coded m;
            struct product p;
            matrix_coded_make(&m, &gemm_cases[bad->gemm_case].scheme, 72, 1280, 8);
            memcpy((uint8_t *)m.parts[bad->part] + bad->at * bad->bytes, &bad->bits, bad->bytes);
            product_make(&p, &m, 33, 9);
            for (size_t tokens = 1; k && tokens <= 33; tokens += 8) {
                struct err e = {0};
                ct_case("%s, %s, '%s', %zu tokens", k->name, gemm_cases[bad->gemm_case].name, bad->message, tokens);
                EXPECT_FALSE(run(k, &m, &p, 0, 72, 0, tokens, false, &e));
                EXPECT_ERR(e, ERR_FORMAT, bad->message);
            }
            product_release(&p);
            matrix_coded_release(&m);
        }
}
