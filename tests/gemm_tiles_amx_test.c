/* The matrix unit against gemm_tiles_ref, bit for bit; skipped where there is none. */
#include <math.h>

#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "tests/gemm_support.h"
#include "tests/kernel_support.h"

#define PACKED (TILES_SPANS * 4 * TILES_CODES)

static const struct kernel *find_unit(void)
{
    for (size_t i = 0; i < kernel_count(); i++)
        if (strcmp(kernel_at(i)->name, "amx") == 0 && kernel_at(i)->usable())
            return kernel_at(i);
    return NULL;
}

static uint16_t *codes_make(size_t n)
{
    uint16_t *codes = mem_aligned(n * sizeof *codes);

    memset(codes, 0, n * sizeof *codes);
    return codes;
}

/* Any finite number, and those about the largest and the least. */
static float awkward(uint64_t *seed)
{
    switch (support_random(seed) % 4) {
    case 0:
        return support_float(seed, 120, 128);
    case 1:
        return support_float(seed, -126, -115);
    default:
        return support_any_float(seed);
    }
}

TEST(gemm_tiles_amx, packed_numbers_are_those_of_the_reference)
{
    const struct kernel *k = find_unit();
    uint64_t seed = 1;

    if (!k)
        ct_skip("no AMX on this machine");
    for (size_t tokens = 1; tokens <= TILES_BLOCK; tokens++) {
        size_t cols = 32 * (1 + tokens % TILES_SPANS), x_stride = cols + 3;
        uint16_t *want = codes_make(PACKED), *got = codes_make(PACKED);
        float *x = mem_alloc(tokens * x_stride * sizeof *x);
        for (size_t i = 0; i < tokens * x_stride; i++) {
            x[i] = tokens % 2 ? awkward(&seed) : support_float(&seed, -6, 3);
            x[i] = tokens % 5 == 0 ? support_bf16(support_float(&seed, -6, 3)) : x[i];
        }
        ct_case("%zu tokens, %zu columns", tokens, cols);
        bool some = gemm_tiles_ref.pack(want, x, x_stride, tokens, cols);
        EXPECT_TRUE(some == (tokens % 5 != 0));
        k->gemm->tiles->begin();
        EXPECT_TRUE(k->gemm->tiles->pack(got, x, x_stride, tokens, cols) == some);
        k->gemm->tiles->end();
        ASSERT_MEM_EQ(want, got, PACKED * sizeof *want);
        mem_free(x);
        mem_free(want);
        mem_free(got);
    }
}

/* All codes of a coding, from an odd place on. A bad one anywhere is seen. */
TEST(gemm_tiles_amx, decoded_codes_are_those_of_the_reference)
{
    static const size_t code_bits[GEMM_CODING_COUNT] = {[GEMM_BF16] = 16, [GEMM_E4M3] = 8, [GEMM_INT4] = 4};
    const struct kernel *k = find_unit();
    uint64_t seed = 2;

    if (!k)
        ct_skip("no AMX on this machine");
    for (enum gemm_coding coding = GEMM_BF16; coding < GEMM_CODING_COUNT; coding++)
        for (size_t rows = 1; rows <= TILES_SIDE; rows++) {
            enum { COLS = 256, STEPS = COLS / 32, NUMBERS = STEPS * 2 * TILES_CODES };
            uint8_t bytes[TILES_SIDE * (COLS * 2 + 4) + 1];
            struct gemm_codes w = {.coding = coding, .codes = bytes + 1, .row_bytes = COLS * code_bits[coding] / 8 + 4};
            uint16_t *want = codes_make(NUMBERS), *got = codes_make(NUMBERS);
            for (size_t i = 0; i < sizeof bytes; i++) {
                bytes[i] = (uint8_t)support_random(&seed);
                if (coding == GEMM_E4M3 && (bytes[i] & 0x7F) == 0x7F)
                    bytes[i] ^= 1;
                if (coding == GEMM_BF16 && (bytes[i] & 0x7F) == 0x7F)
                    bytes[i] ^= 0x40; /* whichever half it is: never an exponent of ones */
            }
            ct_case("coding %d, %zu rows", (int)coding, rows);
            EXPECT_TRUE(gemm_tiles_ref.decode(want, &w, rows, COLS));
            EXPECT_TRUE(k->gemm->tiles->decode(got, &w, rows, COLS));
            ASSERT_MEM_EQ(want, got, NUMBERS * sizeof *want);
            for (size_t c = 0; coding != GEMM_INT4 && c < COLS; c += 7) {
                size_t each = code_bits[coding] / 8;
                uint8_t *at = bytes + 1 + (rows - 1) * w.row_bytes + c * each, was[2];
                memcpy(was, at, each);
                memset(at, c % 2 ? 0x7F : 0xFF, each);
                if (each == 2)
                    at[0] = 0x80; /* an infinity */
                EXPECT_FALSE(k->gemm->tiles->decode(got, &w, rows, COLS));
                memcpy(at, was, each);
            }
            mem_free(want);
            mem_free(got);
        }
}

/* A BF16 of either sign with an exponent in [low, high), or a zero, or a number below the normal ones. */
static uint16_t code_of(uint64_t *seed, int low, int high)
{
    uint64_t r = support_random(seed);

    if (r % 16 == 0)
        return (uint16_t)(r >> 32 & 0x807F);
    return (uint16_t)((r >> 16 & 0x807F) | (uint64_t)(low + 127 + (int)((r >> 40) % (uint64_t)(high - low))) << 7);
}

static void compare_products(const struct gemm_tiles *unit, struct tiles_product *p, int low, int high, uint64_t *seed)
{
    uint16_t *weights = codes_make(TILES_SPANS * 2 * TILES_CODES), *x = codes_make(PACKED);
    float *want = mem_aligned(TILES_SUMS * sizeof *want), *got = mem_aligned(TILES_SUMS * sizeof *got);
    float *scales = mem_aligned(TILES_SPANS * TILES_BLOCK * sizeof *scales);

    for (size_t i = 0; i < TILES_SPANS * 2 * TILES_CODES; i++)
        weights[i] = code_of(seed, low, high);
    for (size_t i = 0; i < PACKED; i++)
        x[i] = code_of(seed, low, high);
    for (size_t i = 0; i < TILES_SPANS * TILES_BLOCK; i++)
        scales[i] = support_float(seed, -8, 0);
    for (size_t i = 0; i < TILES_SUMS; i++)
        want[i] = got[i] = support_float(seed, 2 * low, 2 * low + 8);
    p->weights = weights;
    p->x = x;
    p->scales = scales;
    gemm_tiles_ref.multiply(want, p);
    unit->begin();
    unit->multiply(got, p);
    unit->end();
    for (size_t i = 0; i < TILES_SUMS; i++)
        ASSERT_EQ_F32(want[i], got[i]);
    mem_free(weights);
    mem_free(x);
    mem_free(scales);
    mem_free(want);
    mem_free(got);
}

TEST(gemm_tiles_amx, products_are_those_of_the_reference)
{
    static const struct {
        int low, high;
    } ranges[] = {{-6, 3}, {-63, -57}, {-66, -60}, {-3, 1}};
    const struct kernel *k = find_unit();
    uint64_t seed = 3;

    if (!k)
        ct_skip("no AMX on this machine");
    for (size_t i = 0; i < 4 * 64; i++) {
        struct tiles_product p = {.steps = 1 + i / 4 % 8,
                                  .span_steps = (size_t[]){1, 3, 4, 8}[i / 32 % 4],
                                  .token_tiles = 1 + i / 2 % 2,
                                  .terms2 = i % 2,
                                  .first = i / 8 % 3 == 0};
        ct_case("%zu steps in spans of %zu, %zu tiles of tokens, %d terms, from 2^%d", p.steps, p.span_steps,
                p.token_tiles, 1 + (int)p.terms2, ranges[i / 64].low);
        compare_products(k->gemm->tiles, &p, ranges[i / 64].low, ranges[i / 64].high, &seed);
    }
}

TEST(gemm_tiles_amx, stored_sums_are_those_of_the_reference)
{
    const struct kernel *k = find_unit();
    uint64_t seed = 4;

    if (!k)
        ct_skip("no AMX on this machine");
    for (size_t i = 0; i < 64; i++) {
        enum { STRIDE = 35, NUMBERS = TILES_BLOCK * STRIDE };
        size_t rows = 1 + support_random(&seed) % 32, tokens = 1 + support_random(&seed) % 32;
        float *sums = mem_aligned(TILES_SUMS * sizeof *sums), want[NUMBERS], got[NUMBERS];
        for (size_t n = 0; n < TILES_SUMS; n++)
            sums[n] = n % 9 == 0 ? -0.0f : support_float(&seed, -3, 3);
        for (size_t n = 0; n < NUMBERS; n++)
            want[n] = got[n] = n % 5 == 0 ? -0.0f : support_float(&seed, -3, 3);
        ct_case("%zu rows, %zu tokens", rows, tokens);
        gemm_tiles_ref.store(want, STRIDE, sums, rows, tokens, i % 2);
        k->gemm->tiles->store(got, STRIDE, sums, rows, tokens, i % 2);
        ASSERT_MEM_EQ(want, got, sizeof want);
        mem_free(sums);
    }
}

/* ---- whole products ---- */

struct scene {
    const struct kernel *k;
    struct matrix_coded m;
    size_t tokens;
    float *x, *want, *got;
};

#define ROWS 150u
#define COLS 480u /* whole groups of every case */

static bool multiply(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct scene *s = ctx;
    void *scratch = mem_aligned(gemm_scratch_bytes(&s->m.coded, s->tokens));
    uint64_t multiple = scheme_row_multiple(&s->m.coded.scheme);
    uint64_t each = (30 + multiple - 1) / multiple * multiple, row = job * each;
    uint64_t count = row >= ROWS ? 0 : ROWS - row < each ? ROWS - row : each;

    (void)worker;
    bool ok = count == 0 || gemm(s->k, &s->m.coded, row, count, s->x, COLS, s->tokens, s->got, ROWS, false, scratch, e);
    mem_free(scratch);
    return ok;
}

static void compare_matrices(const struct kernel *k, const struct scheme *scheme, size_t tokens, bool one_term)
{
    struct scene s = {.k = k, .tokens = tokens};
    uint64_t seed = tokens;
    struct err e = {0};

    matrix_coded_make(&s.m, scheme, ROWS, COLS, tokens);
    s.x = mem_alloc(tokens * COLS * sizeof *s.x);
    s.want = mem_alloc(tokens * ROWS * sizeof *s.want);
    s.got = mem_alloc(tokens * ROWS * sizeof *s.got);
    support_floats(s.x, tokens * COLS, &seed, -6, 3);
    for (size_t i = 0; one_term && i < tokens * COLS; i++)
        s.x[i] = support_bf16(s.x[i]);
    void *scratch = mem_aligned(gemm_scratch_bytes(&s.m.coded, tokens));
    EXPECT_OK(gemm(gemm_support_tiles(kernel_at(0), &gemm_tiles_ref), &s.m.coded, 0, ROWS, s.x, COLS, tokens, s.want,
                   ROWS, false, scratch, &e),
              e);
    EXPECT_OK(pool_run(3, 5, multiply, &s, &e), e);
    ASSERT_MEM_EQ(s.want, s.got, tokens * ROWS * sizeof *s.got);
    mem_free(scratch);
    mem_free(s.x);
    mem_free(s.want);
    mem_free(s.got);
    matrix_coded_release(&s.m);
}

/* In slices of rows, by three threads at once. */
TEST(gemm_tiles_amx, every_scheme_gives_the_bits_of_the_reference_in_any_thread)
{
    static const size_t tokens[] = {1, 16, 45};
    const struct kernel *k = find_unit();

    if (!k)
        ct_skip("no AMX on this machine");
    for (size_t c = 0; c < gemm_case_count; c++)
        for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++) {
            struct scheme s = gemm_cases[c].scheme;
            s.group_cols = s.group_cols == 128 ? 96 : s.group_cols == 64 ? 480 : s.group_cols;
            ct_case("%s, %zu tokens", gemm_cases[c].name, tokens[t]);
            compare_matrices(k, &s, tokens[t], tokens[t] == 16);
        }
}
