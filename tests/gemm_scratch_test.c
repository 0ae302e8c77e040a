/* The scratch of quant/gemm.h: enough of it, and no more than asked for is written. */
#include "formats/base/mem.h"
#include "tests/gemm_support.h"
#include "tests/kernel_support.h"

#define CASE_FP8  3u /* of gemm_cases */
#define CASE_INT4 7u

/* Blocks of tokens are smaller where they split; scratch for more tokens is enough for fewer all the same. */
TEST(gemm_scratch, what_is_enough_for_many_tokens_is_for_fewer)
{
    static const uint64_t cols[] = {1024, 7168, 18432};

    for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++) {
        struct coded w = {.scheme = gemm_cases[CASE_FP8].scheme, .rows = 128, .cols = cols[c]};
        size_t before = 0;
        for (size_t tokens = 1; tokens <= 2048; tokens++) {
            size_t bytes = gemm_scratch_bytes(&w, tokens);
            ct_case("%zu columns, %zu tokens", (size_t)cols[c], tokens);
            ASSERT_TRUE(bytes >= before && bytes < 6u << 20);
            before = bytes;
        }
    }
}

/* A worker has one scratch for a model's matrices, as large as the widest wants it. */
TEST(gemm_scratch, what_is_enough_for_the_widest_is_for_narrower)
{
    static const size_t tokens[] = {1, 6, 7, 64, 132, 198, 256, 2048};

    for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++) {
        size_t before = 0;
        for (uint64_t cols = 32; cols <= 20480; cols += 32) {
            struct coded w = {.scheme = gemm_cases[CASE_FP8].scheme, .rows = 128, .cols = cols};
            size_t bytes = gemm_scratch_bytes(&w, tokens[t]);
            ct_case("%zu tokens, %zu columns", tokens[t], (size_t)cols);
            ASSERT_TRUE(bytes >= before);
            before = bytes;
        }
    }
}

/* ---- what is written ---- */

#define GUARD_BYTES 65536u /* more than a row of sums, or of a strip */
#define GUARD_BYTE  0xA5u

struct guarded {
    uint8_t *scratch;
    size_t bytes;
};

static struct guarded guarded_make(size_t bytes)
{
    struct guarded g = {.scratch = mem_aligned(bytes + GUARD_BYTES), .bytes = bytes};

    memset(g.scratch, GUARD_BYTE, bytes + GUARD_BYTES);
    return g;
}

/* Whether nothing behind the scratch has changed. */
static bool guarded_whole(const struct guarded *g)
{
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (g->scratch[g->bytes + i] != GUARD_BYTE)
            return false;
    return true;
}

/* Every row of some tokens, against the rule; the tokens between the first two and the last are taken on trust. */
static void multiply(const struct kernel *k, const struct matrix_coded *m, const float *x, size_t tokens,
                     const struct guarded *g)
{
    uint64_t rows = m->coded.rows, cols = m->coded.cols;
    float *y = mem_alloc(tokens * rows * sizeof *y);
    struct err e = {0};

    EXPECT_OK(gemm(k, &m->coded, 0, rows, x, cols, tokens, y, rows, false, g->scratch, &e), e);
    EXPECT_TRUE(guarded_whole(g));
    for (size_t t = 0; t < tokens; t = t < 2 || t + 1 == tokens ? t + 1 : tokens - 1)
        for (uint64_t r = 0; r < rows; r++)
            EXPECT_EQ_F32(gemm_support_dot(x + t * cols, m->decoded + r * cols, cols), y[t * rows + r]);
    mem_free(y);
}

static float *numbers(size_t n, int low, int high)
{
    float *x = mem_alloc(n * sizeof *x);
    uint64_t seed = n;

    support_floats(x, n, &seed, low, high);
    return x;
}

/* DeepSeek-V3's matrices with a crew's scratch (verify/crew.c): that of the widest, in the scheme that takes most. The
 * tokens are those that fill a block of strips for some of the widths, one more, and one less. */
TEST(gemm_scratch, nothing_behind_it_is_written_at_the_widths_of_v3)
{
    static const uint64_t widths[] = {18432, 16384, 7168, 2048, 1536, 512};
    static const size_t tokens[] = {1, 5, 6, 54, 60, 131, 132, 143, 144, 145, 197, 198, 199, 288};
    static const size_t cases[] = {1, CASE_FP8, CASE_INT4, 11};

    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
        float *x = numbers(288 * widths[w], -6, 3);
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            struct scheme scheme = gemm_cases[cases[c]].scheme;
            struct coded widest = {.scheme = gemm_cases[11].scheme, .rows = 1, .cols = widths[0]};
            struct matrix_coded m;
            widest.scheme.group_cols = 1;
            widest.scheme.scale = SCALE_F32;
            struct guarded g = guarded_make(gemm_scratch_bytes(&widest, 1u << 20));
            matrix_coded_make(&m, &scheme, 4, widths[w], w + c);
            for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++) {
                ct_case("%s, %zu columns, %zu tokens", gemm_cases[cases[c]].name, (size_t)widths[w], tokens[t]);
                multiply(support_best(), &m, x, tokens[t], &g);
            }
            matrix_coded_release(&m);
            mem_free(g.scratch);
        }
        mem_free(x);
    }
}

/* Rows whose scales no variant takes as they are, so that their tokens are packed, beside rows whose few tokens are
 * not: the sums of these lie where the others' packed x does, where rows are long. Scratch for just these tokens. */
TEST(gemm_scratch, few_tokens_and_packed_ones_share_it)
{
    enum { ROWS = 70, COLS = 16384, GROUPS = COLS / 128, TOKENS = 6 };

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_exact(v);
        struct matrix_coded m;
        float *x = numbers(TOKENS * COLS, -40, -30);
        matrix_coded_make(&m, &gemm_cases[CASE_INT4].scheme, ROWS, COLS, 1);
        for (size_t r = 0; r < ROWS; r++) {
            uint16_t *scale = (uint16_t *)m.parts[PART_SCALE] + r * GROUPS + r % GROUPS;
            if (r / 32 % 2 == 0)
                *scale = (uint16_t)((*scale & 0x7F) | (127 + 119) << 7);
        }
        matrix_coded_decode(&m);
        for (size_t tokens = 1; k && tokens <= TOKENS; tokens++) {
            struct guarded g = guarded_make(gemm_scratch_bytes(&m.coded, tokens));
            ct_case("%s, %zu tokens", k->name, tokens);
            multiply(k, &m, x, tokens, &g);
            mem_free(g.scratch);
        }
        mem_free(x);
        matrix_coded_release(&m);
    }
}
