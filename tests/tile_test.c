#include "quant/tile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/nearest.h"
#include "tests/kernel_support.h"

#define STEPS  70
#define STRIDE (TILE_COLS + 32)

struct tile {
    float *c, *a, *b;
};

static struct tile tile_new(uint64_t *seed)
{
    struct tile t = {mem_aligned(TILE_ROWS * STRIDE * sizeof(float)), mem_aligned(STEPS * TILE_COLS * sizeof(float)),
                     mem_aligned(STEPS * TILE_COLS * sizeof(float))};

    support_floats(t.c, TILE_ROWS * STRIDE, seed, -6, 6);
    support_floats(t.a, STEPS * TILE_COLS, seed, -6, 6);
    support_floats(t.b, STEPS * TILE_COLS, seed, -6, 6);
    return t;
}

static void tile_free(struct tile *t)
{
    mem_free(t->c);
    mem_free(t->a);
    mem_free(t->b);
}

/* One product, one rounding: what a float64 sum of an exact product rounds to, when it is exact itself. */
TEST(tile, a_step_is_one_fused_multiply_add)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        struct tile t;
        uint64_t seed = 3;

        if (!k)
            continue;
        t = tile_new(&seed);
        /* (1 + 2^-23)^2 - 1 - 2^-22 is 2^-46: a product rounded by itself gives 0. */
        for (size_t j = 0; j < TILE_ROWS * STRIDE; j++)
            t.c[j] = -1 - 0x1p-22f;
        for (size_t j = 0; j < TILE_ROWS; j++)
            t.a[j] = 1 + 0x1p-23f;
        for (size_t j = 0; j < TILE_COLS; j++)
            t.b[j] = 1 + 0x1p-23f;
        k->tile_fma(t.c, STRIDE, t.a, 1, TILE_ROWS, t.b, 1);
        for (size_t r = 0; r < TILE_ROWS; r++)
            for (size_t v = 0; v < STRIDE; v++)
                EXPECT_EQ_F32(v < TILE_COLS ? 0x1p-46f : -1 - 0x1p-22f, t.c[r * STRIDE + v]);
        t.c[0] = -1 - 0x1p-22f;
        k->tile_row_fma(t.c, t.a, t.b, 1);
        EXPECT_EQ_F32(0x1p-46f, t.c[0]);
        tile_free(&t);
    }
}

/* As the rows of a triangle lie, as tokens of a panel, and close together. */
TEST(tile, every_variant_is_exact_for_rows_and_for_columns_of_a)
{
    static const size_t rows_apart[] = {STEPS, 1, 1}, steps_apart[] = {1, TILE_COLS, TILE_ROWS};
    uint64_t seed = 4;

    for (size_t round = 0; round < 40; round++) {
        struct tile want = tile_new(&seed), got = tile_new(&seed);
        size_t steps = round % 2 ? round : STEPS, a_row = rows_apart[round % 3], a_step = steps_apart[round % 3];
        float *c = mem_aligned(TILE_ROWS * STRIDE * sizeof *c);

        memcpy(c, want.c, TILE_ROWS * STRIDE * sizeof *c);
        tile_fma_ref(want.c, STRIDE, want.a, a_row, a_step, want.b, steps);
        for (size_t i = 1; i < kernel_count(); i++) {
            const struct kernel *k = support_kernel(i);

            if (!k)
                continue;
            ct_case("%s, %zu steps %zu apart, rows %zu apart", k->name, steps, a_step, a_row);
            memcpy(got.c, c, TILE_ROWS * STRIDE * sizeof *c);
            k->tile_fma(got.c, STRIDE, want.a, a_row, a_step, want.b, steps);
            EXPECT_MEM_EQ(want.c, got.c, TILE_ROWS * STRIDE * sizeof *c);
            memcpy(got.c, c, TILE_ROWS * STRIDE * sizeof *c);
            for (size_t r = 0; a_step == 1 && r < TILE_ROWS; r++)
                k->tile_row_fma(got.c + r * STRIDE, want.a + r * a_row, want.b, steps);
            if (a_step == 1)
                EXPECT_MEM_EQ(want.c, got.c, TILE_ROWS * STRIDE * sizeof *c);
        }
        mem_free(c);
        tile_free(&want);
        tile_free(&got);
    }
}

TEST(tile, steps_may_be_cut_anywhere)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        uint64_t seed = 5;
        struct tile t;
        float *c;

        if (!k)
            continue;
        t = tile_new(&seed);
        c = mem_aligned(TILE_ROWS * STRIDE * sizeof *c);
        memcpy(c, t.c, TILE_ROWS * STRIDE * sizeof *c);
        k->tile_fma(c, STRIDE, t.a, 1, TILE_ROWS, t.b, STEPS);
        for (size_t at = 0, n = 1; at<STEPS; at += n, n = at + n + 3> STEPS ? STEPS - at : n + 3)
            k->tile_fma(t.c, STRIDE, t.a + at * TILE_ROWS, 1, TILE_ROWS, t.b + at * TILE_COLS, n);
        EXPECT_MEM_EQ(c, t.c, TILE_ROWS * STRIDE * sizeof *c);
        mem_free(c);
        tile_free(&t);
    }
}

TEST(nearest, every_variant_is_exact)
{
    static _Alignas(MEM_ALIGN) float t[TILE_COLS], s[TILE_COLS], zero[TILE_COLS], want_q[TILE_COLS], q[TILE_COLS];
    static _Alignas(MEM_ALIGN) uint8_t want[TILE_COLS], codes[TILE_COLS];
    uint64_t seed = 8;

    for (size_t round = 0; round < 2000; round++) {
        for (size_t i = 0; i < TILE_COLS; i++) {
            s[i] = support_float(&seed, -20, 4);
            /* Halves, which are ties, every other time. */
            t[i] = round % 2 ? (float)((int)(support_random(&seed) % 40) - 20) * 0.5f * s[i] : support_any_float(&seed);
            zero[i] = round % 3 ? (float)((int)(support_random(&seed) % 16) - 8) : 0;
        }
        int4_nearest_ref(want, want_q, t, s, zero);
        for (size_t i = 1; i < kernel_count(); i++) {
            if (!kernel_at(i)->usable())
                continue;
            ct_case("%s, round %zu", kernel_at(i)->name, round);
            kernel_at(i)->int4_nearest(codes, q, t, s, zero);
            EXPECT_MEM_EQ(want, codes, sizeof codes);
            EXPECT_MEM_EQ(want_q, q, sizeof q);
        }
    }
}

TEST(nearest, a_step_of_feedback_is_exact_on_every_cpu)
{
    static _Alignas(MEM_ALIGN) float t[TILE_COLS], q[TILE_COLS], w[TILE_COLS], e[2][TILE_COLS], sums[2][3 * TILE_COLS];
    uint64_t seed = 9;

    for (size_t i = 1; i < kernel_count(); i++) {
        if (!support_kernel(i))
            continue;
        support_floats(sums[0], 3 * TILE_COLS, &seed, -4, 4);
        memcpy(sums[1], sums[0], sizeof sums[0]);
        for (size_t round = 0; round < 200; round++) {
            support_floats(t, TILE_COLS, &seed, -4, 4);
            support_floats(q, TILE_COLS, &seed, -4, 4);
            support_floats(w, TILE_COLS, &seed, -4, 4);
            feedback_step_ref(e[0], sums[0], t, q, w, 1.7f);
            kernel_at(i)->feedback_step(e[1], sums[1], t, q, w, 1.7f);
            EXPECT_MEM_EQ(e[0], e[1], sizeof e[0]);
            EXPECT_MEM_EQ(sums[0], sums[1], sizeof sums[0]);
        }
        EXPECT_EQ_F32(w[3] - q[3], e[1][3]);
    }
}
