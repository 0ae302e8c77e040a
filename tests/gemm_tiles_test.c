/* quant/gemm_tiles.h with its operations in C on every machine, and by AMX where there is such a unit. */
#include "quant/gemm_tiles.h"

#include <math.h>

#include "formats/base/mem.h"
#include "quant/e4m3.h"
#include "tests/gemm_support.h"
#include "tests/kernel_support.h"

#define TILE_SUMS   (TILES_SIDE * TILES_SIDE)
#define ONE         0x3F80u
#define GUARD_BYTES 65536u
#define GUARD_BYTE  0xA5u

static const struct kernel *tiles_kernel(const struct gemm_tiles *tiles)
{
    return gemm_support_tiles(kernel_at(0), tiles);
}

/* ---- one product of tiles, by hand ---- */

/* Row 0 and token 0: pairs of numbers, each with its place in the row. */
struct dot {
    const char *name;
    struct {
        size_t at;
        uint16_t a, b;
    } of[6];
    uint32_t c, want; /* bits */
};

/* 2^e in BF16 */
#define P2(e)  (uint16_t)(((e) + 127) << 7)
#define NEG(x) (uint16_t)((x) | 0x8000)

static const struct dot dots[] = {
    {"a product", {{0, P2(1), P2(2)}}, 0, 0x41000000},
    {"even and odd columns", {{0, ONE, P2(1)}, {1, ONE, P2(2)}}, 0, 0x40C00000},
    {"added to what is there", {{30, ONE, P2(1)}, {31, ONE, P2(2)}}, 0x3F800000, 0x40E00000},
    /* even: 1 + 2^-24 is 1, twice; odd: 2^-24 + 2^-24. One sum for both, or from the last pair down, has other bits. */
    {"columns ascend in two sums",
     {{0, ONE, ONE}, {1, P2(-12), P2(-12)}, {2, P2(-12), P2(-12)}, {3, P2(-12), P2(-12)}, {4, P2(-12), P2(-12)}},
     0,
     0x3F800001},
    /* From +0 and not from what is there: 1 + 2^-23, less 1. From -1 the even sum would be 2^-23, and all 2^-22. */
    {"what is there comes last",
     {{0, ONE, ONE}, {1, P2(-12), P2(-12)}, {2, P2(-12), P2(-12)}, {3, P2(-12), P2(-12)}, {4, P2(-12), P2(-12)}},
     0xBF800000,
     0x34000000},
    {"a tie goes to even", {{0, ONE, ONE}, {1, P2(-12), P2(-12)}}, 0, 0x3F800000},
    {"a factor below 2^-126 is 0", {{0, 0x007F, P2(100)}, {1, P2(100), 0x8040}}, 0, 0},
    {"what is there is 0 below 2^-126", {{0, P2(-63), P2(-63)}}, 0x007FFFFF, 0x00800000},
    {"products below 2^-126 do not add up", {{0, P2(-63), P2(-64)}, {2, P2(-63), P2(-64)}}, 0, 0},
    {"a sum of both below 2^-126 is 0", {{0, P2(-63), P2(-63)}, {1, NEG(0x2040), P2(-63)}}, 0, 0},
    {"a last sum below 2^-126 is 0 of its sign", {{0, P2(-63), P2(-63)}}, 0x80C00000, 0x80000000},
    /* 2^-126 - 2^-150 is below 2^-126 in 24 bits, though multiples of 2^-149 would round it up. */
    {"just below 2^-126 is 0", {{0, P2(-63), P2(-63)}, {2, NEG(P2(-75)), P2(-75)}}, 0, 0},
    {"-0 and +0 are +0", {{30, NEG(P2(-70)), P2(-70)}, {31, NEG(P2(-70)), P2(-70)}}, 0, 0},
    {"-0 three times is -0", {{30, NEG(P2(-70)), P2(-70)}, {31, NEG(P2(-70)), P2(-70)}}, 0x80000000, 0x80000000},
    {"+0 after -0 is +0", {{28, NEG(P2(-70)), P2(-70)}, {31, NEG(P2(-70)), P2(-70)}}, 0x80000000, 0},
    {"overflow is infinite", {{0, P2(100), P2(100)}}, 0, 0x7F800000},
};

TEST(gemm_tiles, a_product_of_tiles_has_the_two_sums_of_the_manual)
{
    for (size_t i = 0; i < sizeof dots / sizeof dots[0]; i++) {
        uint16_t a[TILES_CODES] = {0}, b[TILES_CODES] = {0};
        float c[TILE_SUMS] = {0};
        ct_case("%s", dots[i].name);
        for (size_t n = 0; n < sizeof dots[i].of / sizeof dots[i].of[0]; n++)
            if (dots[i].of[n].a != 0) {
                size_t at = dots[i].of[n].at;
                a[at] = dots[i].of[n].a;
                b[at / 2 * TILES_COLS + at % 2] = dots[i].of[n].b;
            }
        c[0] = bits_float(dots[i].c);
        tiles_dot_ref(c, a, b);
        EXPECT_EQ_U64(dots[i].want, float_bits(c[0]));
        for (size_t n = 1; n < TILE_SUMS; n++)
            EXPECT_EQ_U64(0, float_bits(c[n]));
    }
}

TEST(gemm_tiles, every_row_meets_every_token)
{
    uint16_t a[TILES_CODES], b[TILES_CODES];
    float c[TILE_SUMS] = {0};

    for (size_t r = 0; r < TILES_SIDE; r++)
        for (size_t k = 0; k < TILES_COLS; k++) {
            float w = (float)(r + 1) * (k == r ? 1.0f : 0.0f), x = (float)k + 0.25f * (float)r;
            a[r * TILES_COLS + k] = (uint16_t)(float_bits(w) >> 16);
            b[k / 2 * TILES_COLS + r * 2 + k % 2] = (uint16_t)(float_bits(x) >> 16);
        }
    tiles_dot_ref(c, a, b);
    for (size_t r = 0; r < TILES_SIDE; r++)
        for (size_t t = 0; t < TILES_SIDE; t++)
            EXPECT_EQ_F32((float)(r + 1) * ((float)r + 0.25f * (float)t), c[r * TILES_SIDE + t]);
}

/* ---- matrices ---- */

struct product {
    struct matrix_coded m;
    float *x, *y;
    size_t tokens;
    void *scratch;
};

static void product_make(struct product *p, const struct scheme *scheme, uint64_t rows, uint64_t cols, size_t tokens,
                         uint64_t seed)
{
    *p = (struct product){.tokens = tokens};
    matrix_coded_make(&p->m, scheme, rows, cols, seed);
    p->x = mem_alloc(tokens * cols * sizeof *p->x);
    p->y = mem_alloc(tokens * rows * sizeof *p->y);
    support_floats(p->x, tokens * cols, &seed, -6, 3);
    p->scratch = mem_aligned(gemm_scratch_bytes(&p->m.coded, tokens));
}

static void product_release(struct product *p)
{
    matrix_coded_release(&p->m);
    mem_free(p->x);
    mem_free(p->y);
    mem_free(p->scratch);
}

static void run(const struct gemm_tiles *tiles, struct product *p, bool add)
{
    const struct coded *w = &p->m.coded;
    struct err e = {0};

    EXPECT_OK(gemm(tiles_kernel(tiles), w, 0, w->rows, p->x, w->cols, p->tokens, p->y, w->rows, add, p->scratch, &e),
              e);
}

/* ---- the written order, written a second time ---- */

static float scale_of(const struct coded *w, uint64_t r, uint64_t c)
{
    const struct scheme *s = &w->scheme;
    const void *scales = w->parts.part[PART_SCALE];
    uint64_t at = 0;
    float scale;

    if (s->scale == SCALE_NONE)
        return 1.0f;
    if (s->kind == SCHEME_FP8_BLOCK)
        at = r / s->block_rows * ((w->cols + s->block_cols - 1) / s->block_cols) + c / s->block_cols;
    else if (s->kind == SCHEME_INT4 && s->group_cols)
        at = r * (w->cols / s->group_cols) + c / s->group_cols;
    else if (s->kind != SCHEME_FP8_TENSOR)
        at = r;
    if (s->scale == SCALE_F32)
        return ((const float *)scales)[at];
    if (s->scale == SCALE_E8M0)
        EXPECT_TRUE(kernel_at(0)->e8m0_decode(&scale, (const uint8_t *)scales + at, 1));
    else if (s->scale == SCALE_F16)
        EXPECT_TRUE(kernel_at(0)->f16_decode(&scale, (const uint16_t *)scales + at, 1));
    else
        EXPECT_TRUE(kernel_at(0)->bf16_decode(&scale, (const uint16_t *)scales + at, 1));
    return scale;
}

static float code_of(const struct coded *w, uint64_t r, uint64_t c)
{
    const void *codes = w->parts.part[PART_CODES];
    uint64_t words = (w->cols + 7) / 8;

    if (w->scheme.kind == SCHEME_INT4)
        return (float)(((const uint32_t *)codes)[r * words + c / 8] >> c % 8 * 4 & 15) - 8.0f;
    if (w->scheme.kind == SCHEME_PLAIN)
        return bits_float((uint32_t)((const uint16_t *)codes)[r * w->cols + c] << 16);
    return e4m3_value(((const uint8_t *)codes)[r * w->cols + c]);
}

static float step_of(const struct coded *w, uint64_t r, uint64_t col, const float *x)
{
    float even = 0.0f, odd = 0.0f;

    for (uint64_t p = 0; p < 32; p += 2) {
        even = fmaf(code_of(w, r, col + p), x[p], even);
        odd = fmaf(code_of(w, r, col + p + 1), x[p + 1], odd);
    }
    return even + odd;
}

/* Where no number is near 2^-126. */
static float dot_of(const struct coded *w, uint64_t r, const float *x)
{
    uint64_t group = w->scheme.kind == SCHEME_FP8_BLOCK ? w->scheme.block_cols : w->scheme.group_cols;
    float acc = 0.0f, sum = 0.0f;

    for (uint64_t c = 0; c < w->cols; c += 32) {
        float hi[32], lo[32];
        for (size_t i = 0; i < 32; i++) {
            hi[i] = support_bf16(x[c + i]);
            lo[i] = support_bf16(x[c + i] - hi[i]);
        }
        uint64_t in_group = group > 0 ? c % group : c, end = in_group + 32;
        sum = in_group % 256 == 0 ? 0.0f : sum;
        sum += step_of(w, r, c, hi);
        sum += step_of(w, r, c, lo);
        if (end == group || end % 256 == 0 || c + 32 == w->cols)
            acc = fmaf(scale_of(w, r, c), sum, acc);
    }
    return acc + 0.0f;
}

/* By scheme and columns; where not, the order is that of quant/gemm.h. */
static bool taken(const struct scheme *s, uint64_t cols)
{
    if (s->asymmetric || cols % 32 != 0 || (s->kind == SCHEME_PLAIN && s->dtype != DTYPE_BF16))
        return false;
    return s->group_cols % 32 == 0 && s->block_cols % 32 == 0;
}

static void expect_order(const struct product *p, size_t token)
{
    const struct coded *w = &p->m.coded;
    const float *x = p->x + token * w->cols;

    for (uint64_t r = 0; r < w->rows; r++) {
        float want =
            taken(&w->scheme, w->cols) ? dot_of(w, r, x) : gemm_support_dot(x, p->m.decoded + r * w->cols, w->cols);
        ASSERT_EQ_F32(want, p->y[token * w->rows + r]);
    }
}

static const struct {
    uint64_t rows, cols;
    size_t tokens;
} shapes[] = {{1, 32, 1}, {7, 640, 3}, {16, 256, 16}, {17, 960, 17}, {40, 1280, 20}, {137, 320, 37}, {20, 328, 5}};

static uint64_t cols_for(const struct scheme *s, uint64_t cols)
{
    uint64_t group = s->kind == SCHEME_INT4 && s->group_cols ? s->group_cols : 1;

    return cols < group ? group : cols / group * group;
}

TEST(gemm_tiles, every_scheme_and_shape_has_the_written_order)
{
    for (size_t c = 0; c < gemm_case_count; c++)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            const struct scheme *scheme = &gemm_cases[c].scheme;
            struct product p;
            product_make(&p, scheme, shapes[s].rows, cols_for(scheme, shapes[s].cols), shapes[s].tokens, 13 * c + s);
            ct_case("%s, %zu x %zu, %zu tokens", gemm_cases[c].name, (size_t)p.m.coded.rows, (size_t)p.m.coded.cols,
                    p.tokens);
            EXPECT_TRUE(gemm_tiles_takes(&p.m.coded) == taken(scheme, p.m.coded.cols));
            run(&gemm_tiles_ref, &p, false);
            expect_order(&p, 0);
            expect_order(&p, p.tokens / 2);
            expect_order(&p, p.tokens - 1);
            product_release(&p);
        }
}

/* A group that is no power of two, and one that ends within a span. */
TEST(gemm_tiles, groups_of_96_and_of_352_have_the_written_order)
{
    static const uint32_t groups[] = {96, 352};

    for (size_t i = 0; i < 2; i++) {
        struct scheme s = gemm_cases[7].scheme;
        struct product p;
        s.group_cols = groups[i];
        product_make(&p, &s, 20, 1056, 2, i);
        ct_case("%u", groups[i]);
        EXPECT_TRUE(gemm_tiles_takes(&p.m.coded));
        run(&gemm_tiles_ref, &p, false);
        expect_order(&p, 0);
        expect_order(&p, 1);
        product_release(&p);
    }
}

TEST(gemm_tiles, the_error_against_float64_is_below_five_millionths)
{
    static const size_t cases[] = {1, 3, 6, 7, 8, 13};

    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct product p;
        double error2 = 0.0, energy2 = 0.0;
        ct_case("%s", gemm_cases[cases[c]].name);
        product_make(&p, &gemm_cases[cases[c]].scheme, 32, 7168, 16, 5);
        run(&gemm_tiles_ref, &p, false);
        uint64_t cols = p.m.coded.cols;
        for (size_t i = 0; i < 16 * 32; i++) {
            double exact = 0.0;
            for (size_t k = 0; k < cols; k++)
                exact += (double)p.x[i / 32 * cols + k] * (double)p.m.decoded[i % 32 * cols + k];
            error2 += ((double)p.y[i] - exact) * ((double)p.y[i] - exact);
            energy2 += exact * exact;
        }
        EXPECT_TRUE(sqrt(error2 / energy2) < 5e-6);
        EXPECT_TRUE(energy2 > 0.0);
        product_release(&p);
    }
}

/* ---- what must not matter ---- */

/* All tokens at once, and any number of them from the first or the last on; rows in slices. */
TEST(gemm_tiles, tokens_and_rows_may_be_cut_anywhere)
{
    static const size_t cases[] = {1, 3, 5, 8};

    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct product p;
        enum { TOKENS = 70, COLS = 288 };
        const uint64_t rows = 144;
        struct err e = {0};
        product_make(&p, &gemm_cases[cases[c]].scheme, rows, COLS, TOKENS, c);
        run(&gemm_tiles_ref, &p, false);
        const struct kernel *k = tiles_kernel(&gemm_tiles_ref);
        float *some = mem_alloc(TOKENS * rows * sizeof *some);
        for (size_t tokens = 1; tokens <= TOKENS; tokens += 1 + tokens / 4) {
            size_t first = tokens % 2 ? 0 : TOKENS - tokens;
            uint64_t each = scheme_row_multiple(&p.m.coded.scheme);
            uint64_t cut = each > 1 ? each : tokens * 2;
            ct_case("%s, %zu tokens", gemm_cases[cases[c]].name, tokens);
            EXPECT_OK(gemm(k, &p.m.coded, cut, rows - cut, p.x + first * COLS, COLS, tokens, some, rows, false,
                           p.scratch, &e),
                      e);
            EXPECT_OK(gemm(k, &p.m.coded, 0, cut, p.x + first * COLS, COLS, tokens, some, rows, false, p.scratch, &e),
                      e);
            ASSERT_MEM_EQ(p.y + first * rows, some, tokens * rows * sizeof *some);
        }
        mem_free(some);
        product_release(&p);
    }
}

/* More tokens than are packed at once. */
TEST(gemm_tiles, blocks_of_tokens_give_what_one_token_gives)
{
    struct product p;
    struct err e = {0};
    float y[3];

    product_make(&p, &gemm_cases[7].scheme, 3, 128, 600, 1);
    run(&gemm_tiles_ref, &p, false);
    for (size_t t = 0; t < p.tokens; t++) {
        ct_case("token %zu", t);
        EXPECT_OK(
            gemm(tiles_kernel(&gemm_tiles_ref), &p.m.coded, 0, 3, p.x + t * 128, 128, 1, y, 3, false, p.scratch, &e),
            e);
        ASSERT_MEM_EQ(p.y + t * 3, y, sizeof y);
    }
    product_release(&p);
}

/* The second term, though it is 0. */
static bool pack_and_insist(uint16_t *packed, const float *x, size_t x_stride, size_t tokens, size_t cols)
{
    gemm_tiles_ref.pack(packed, x, x_stride, tokens, cols);
    return true;
}

static bool pack_and_ask(uint16_t *packed, const float *x, size_t x_stride, size_t tokens, size_t cols)
{
    EXPECT_FALSE(gemm_tiles_ref.pack(packed, x, x_stride, tokens, cols));
    return false;
}

/* Numbers so small that sums end below 2^-126 and as zeros of both signs, too. */
TEST(gemm_tiles, a_second_term_of_zeros_changes_no_bit)
{
    static const int low[] = {-6, -126, -121};

    struct gemm_tiles insisting = gemm_tiles_ref, asking = gemm_tiles_ref;
    insisting.pack = pack_and_insist;
    asking.pack = pack_and_ask;
    for (size_t c = 0; c < gemm_case_count; c++)
        for (size_t i = 0; i < sizeof low / sizeof low[0]; i++) {
            struct product p;
            uint64_t seed = c;
            product_make(&p, &gemm_cases[c].scheme, 16, cols_for(&gemm_cases[c].scheme, 640), 17, c);
            size_t numbers = p.tokens * p.m.coded.cols, ys = p.tokens * 16;
            if (!gemm_tiles_takes(&p.m.coded)) {
                product_release(&p);
                continue;
            }
            ct_case("%s from 2^%d", gemm_cases[c].name, low[i]);
            support_floats(p.x, numbers, &seed, low[i], low[i] + 6);
            for (size_t n = 0; n < numbers; n++)
                p.x[n] = support_bf16(p.x[n]) * (n % 7 == 0 ? -0.0f : 1.0f);
            run(&asking, &p, false);
            float *once = mem_alloc(ys * sizeof *once);
            memcpy(once, p.y, ys * sizeof *once);
            run(&insisting, &p, false);
            ASSERT_MEM_EQ(once, p.y, ys * sizeof *once);
            for (size_t n = 0; n < ys; n++)
                EXPECT_TRUE(float_bits(p.y[n]) != 0x80000000u);
            mem_free(once);
            product_release(&p);
        }
}

/* What is left over is -0 with one term and +0 with two: a first group whose product is below 2^-150, and a second
 * whose sum ends below 2^-126. */
TEST(gemm_tiles, no_zero_is_negative)
{
    struct gemm_tiles insisting = gemm_tiles_ref;
    struct product p;

    insisting.pack = pack_and_insist;
    product_make(&p, &gemm_cases[7].scheme, 1, 256, 1, 1);
    uint32_t *words = p.m.parts[PART_CODES];
    for (size_t i = 0; i < 32; i++)
        words[i] = 0x99999999u; /* 1 */
    ((uint16_t *)p.m.parts[PART_SCALE])[0] = ((uint16_t *)p.m.parts[PART_SCALE])[1] = P2(-30);
    memset(p.x, 0, 256 * sizeof *p.x);
    p.x[128] = -0x1p-125f;
    run(&gemm_tiles_ref, &p, false);
    EXPECT_EQ_U64(0, float_bits(p.y[0]));
    p.x[0] = -0x1p-125f;
    p.x[128] = -0x1.8p-126f;
    p.x[224] = 0x1p-126f;
    run(&gemm_tiles_ref, &p, false);
    EXPECT_EQ_U64(0, float_bits(p.y[0]));
    run(&insisting, &p, false);
    EXPECT_EQ_U64(0, float_bits(p.y[0]));
    product_release(&p);
}

TEST(gemm_tiles, add_adds_the_product_and_other_rows_stay)
{
    struct product p;
    struct err e = {0};
    enum { ROWS = 90, COLS = 256, TOKENS = 19 };
    float *was = mem_alloc(TOKENS * ROWS * sizeof *was), *y = mem_alloc(TOKENS * ROWS * sizeof *y);
    uint64_t seed = 9;

    product_make(&p, &gemm_cases[7].scheme, ROWS, COLS, TOKENS, 3);
    support_floats(was, TOKENS * ROWS, &seed, -3, 3);
    memcpy(y, was, TOKENS * ROWS * sizeof *y);
    run(&gemm_tiles_ref, &p, false);
    EXPECT_OK(gemm(tiles_kernel(&gemm_tiles_ref), &p.m.coded, 24, 41, p.x, COLS, TOKENS, y, ROWS, true, p.scratch, &e),
              e);
    for (size_t i = 0; i < TOKENS * ROWS; i++)
        EXPECT_EQ_F32(i % ROWS < 24 || i % ROWS >= 65 ? was[i] : was[i] + p.y[i], y[i]);
    mem_free(was);
    mem_free(y);
    product_release(&p);
}

TEST(gemm_tiles, a_nan_stays_with_its_token_and_the_largest_numbers_are_finite)
{
    struct product p;

    product_make(&p, &gemm_cases[3].scheme, 20, 128, 20, 3);
    run(&gemm_tiles_ref, &p, false);
    float *without = mem_alloc(20 * 20 * sizeof *without);
    memcpy(without, p.y, 20 * 20 * sizeof *without);
    p.x[7 * 128 + 5] = NAN;
    run(&gemm_tiles_ref, &p, false);
    for (size_t i = 0; i < 20 * 20; i++)
        if (i / 20 == 7)
            EXPECT_TRUE(isnan(p.y[i]));
        else
            EXPECT_EQ_F32(without[i], p.y[i]);
    mem_free(without);
    product_release(&p);

    product_make(&p, &gemm_cases[1].scheme, 1, 32, 2, 3);
    memset(p.m.parts[PART_CODES], 0, 64);
    ((uint16_t *)p.m.parts[PART_CODES])[3] = P2(-4);
    p.x[3] = 0x1.FFFFFEp127f;
    p.x[32 + 3] = -0x1.FF0000p127f;
    run(&gemm_tiles_ref, &p, false);
    EXPECT_EQ_F32(0x1p124f, p.y[0]); /* its terms are 0x1.FEp127 and 0x1p120 */
    EXPECT_EQ_F32(-0x1.FFp123f, p.y[1]);
    product_release(&p);
}

/* ---- memory ---- */

/* Reaches for the ends of all that it is given. */
static void touch(float *sums, const struct tiles_product *p)
{
    size_t last = p->token_tiles > 1 ? TILES_SUMS - 1 : 3 * TILE_SUMS - 1;
    float seen = (float)(p->weights[0] + p->weights[p->steps * 2 * TILES_CODES - 1] + p->x[0] +
                         p->x[p->steps * 4 * TILES_CODES - 1]) *
                 p->scales[0];

    sums[0] = sums[last] = seen;
}

TEST(gemm_tiles, nothing_behind_its_scratch_is_written_at_the_widths_of_v3)
{
    static const uint64_t widths[] = {18432, 7168, 512};
    static const size_t tokens[] = {1, 33, 65, 161, 513};
    static const size_t cases[] = {1, 8};
    struct gemm_tiles touching = gemm_tiles_ref;

    touching.multiply = touch;
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
            for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++) {
                struct matrix_coded m;
                struct err e = {0};
                ct_case("%s, %zu columns, %zu tokens", gemm_cases[cases[c]].name, (size_t)widths[w], tokens[t]);
                matrix_coded_make(&m, &gemm_cases[cases[c]].scheme, 2, widths[w], w);
                size_t bytes = gemm_tiles_scratch_bytes(&m.coded, tokens[t]);
                uint8_t *scratch = mem_aligned(bytes + GUARD_BYTES);
                float *x = mem_alloc(widths[w] * sizeof *x), *y = mem_alloc(tokens[t] * 2 * sizeof *y);
                memset(scratch, GUARD_BYTE, bytes + GUARD_BYTES);
                /* Every token is the same one. */
                EXPECT_OK(
                    gemm_tiles(tiles_kernel(&touching), &m.coded, 0, 2, x, 0, tokens[t], y, 2, false, scratch, &e), e);
                for (size_t i = 0; i < GUARD_BYTES; i++)
                    ASSERT_TRUE(scratch[bytes + i] == GUARD_BYTE);
                EXPECT_TRUE(bytes < 6u << 20);
                mem_free(y);
                mem_free(x);
                mem_free(scratch);
                matrix_coded_release(&m);
            }
}

/* ---- refusals ---- */

static const struct {
    size_t gemm_case;
    enum part part;
    size_t at, bytes;
    uint32_t bits;
    const char *message;
} planted[] = {
    {1, PART_CODES, 3 * 1280 + 5, 2, 0x7F80u, "row 3, column 5"},
    {3, PART_CODES, 66 * 1280 + 1030, 1, 0x7Fu, "row 66, column 1030"},
    {3, PART_CODES, 0, 1, 0xFFu, "row 0, column 0"},
    {3, PART_SCALE, 9, 4, 0x7F800000u, "scale of block (0, 9)"},
    {3, PART_SCALE, 9, 4, 0x7F7FFFFFu, "row 0, column 115"},
    {5, PART_SCALE, 70, 2, 0x7F80u, "scale of row 70"},
    {7, PART_SCALE, 69 * 10 + 9, 2, 0x7FC0u, "scale of row 69, group 9"},
    {8, PART_SCALE, 2 * 40 + 38, 2, 0x7F7Fu, "row 2, column 12"},
};

TEST(gemm_tiles, a_weight_that_is_not_finite_is_refused_by_row_and_column)
{
    for (size_t i = 0; i < sizeof planted / sizeof planted[0]; i++)
        for (size_t tokens = 1; tokens <= 33; tokens += 32) {
            struct product p;
            struct err e = {0};
            ct_case("%s, '%s', %zu tokens", gemm_cases[planted[i].gemm_case].name, planted[i].message, tokens);
            product_make(&p, &gemm_cases[planted[i].gemm_case].scheme, 72, 1280, tokens, 8);
            memcpy((uint8_t *)p.m.parts[planted[i].part] + planted[i].at * planted[i].bytes, &planted[i].bits,
                   planted[i].bytes);
            EXPECT_FALSE(gemm(tiles_kernel(&gemm_tiles_ref), &p.m.coded, 0, 72, p.x, 1280, tokens, p.y, 72, false,
                              p.scratch, &e));
            EXPECT_ERR(e, ERR_FORMAT, planted[i].message);
            product_release(&p);
        }
}

/* Past GEMM_SCALE_MAX, and every weight finite: the order is the same. */
TEST(gemm_tiles, scales_of_any_magnitude_are_taken)
{
    struct product p;

    product_make(&p, &gemm_cases[7].scheme, 40, 512, 3, 8);
    for (size_t r = 0; r < 40; r += 3)
        ((uint16_t *)p.m.parts[PART_SCALE])[r * 4 + r % 4] = P2(119);
    for (size_t i = 0; i < 3 * 512; i++)
        p.x[i] *= 0x1p-30f;
    run(&gemm_tiles_ref, &p, false);
    for (size_t t = 0; t < 3; t++)
        expect_order(&p, t);
    product_release(&p);
}
