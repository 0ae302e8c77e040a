#include "quant/kernel.h"

#include <math.h>

#include "tests/kernel_support.h"

/* Ties go to the even code; a negative that rounds to zero keeps its sign, as compressed-tensors has it. */
static const struct {
    float x;
    uint8_t code;
} ties[] = {
    {0.25f, 0},  {0x1.000002p-2f, 1}, {0.75f, 2},   {0x1.7ffffep-1f, 1}, {1.25f, 2},  {0x1.400002p0f, 3},
    {1.75f, 4},  {0x1.bffffep0f, 3},  {2.5f, 4},    {0x1.400002p1f, 5},  {3.5f, 6},   {0x1.bffffep1f, 5},
    {5.0f, 6},   {0x1.400002p2f, 7},  {6.0f, 7},    {1e30f, 7},          {0.0f, 0},   {0x1p-149f, 0},
    {-0.25f, 8}, {-0.0f, 8},          {-0.75f, 10}, {-5.0f, 14},         {-7.0f, 15}, {-0x1p-149f, 8},
};

TEST(e2m1, ties_go_to_the_even_code)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof ties / sizeof ties[0]; i++) {
            float x[40];
            uint8_t packed[20];
            ct_case("%s, %a", k->name, (double)ties[i].x);
            for (size_t c = 0; c < 40; c++) /* body and tail */
                x[c] = ties[i].x;
            k->e2m1_encode(packed, x, 40, 1.0f);
            for (size_t c = 0; c < 20; c++)
                EXPECT_EQ_U64((unsigned)ties[i].code * 0x11u, packed[c]);
        }
    }
}

/* Bytes of the Hugging Face library's own packing, from the format notes: scale byte 0x7E is 2^-1. */
TEST(e2m1, the_mxfp4_example_has_its_bytes)
{
    static const uint8_t want[16] = {0xBF, 0xE5, 0x69, 0x2E, 0xC7, 0xF4, 0x5A, 0x0E,
                                     0xD6, 0x72, 0x4C, 0xAF, 0xE6, 0x61, 0x3D, 0xC7};
    const uint8_t scale_byte = 0x7E;
    float x[32];

    for (int j = 0; j < 32; j++)
        x[j] = (float)((37 * j) % 101 - 50) / 16.0f;
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint8_t got[16];
        float scale;
        if (!k)
            continue;
        EXPECT_TRUE(k->e8m0_decode(&scale, &scale_byte, 1));
        k->e2m1_encode(got, x, 32, scale);
        EXPECT_MEM_EQ(want, got, 16);
    }
}

/* The worked NVFP4 block: tensor scale 3 / (6 * 448), block scale code 0x73 = 176. */
TEST(e2m1, the_nvfp4_example_has_its_bytes)
{
    static const float x[16] = {0.1f, -0.2f, 0.3f,  0.4f,  -0.5f,  0.6f,  0.05f, 0.0f,
                                1.2f, -0.9f, 0.75f, 0.33f, -0.12f, 0.24f, 0.48f, -1.0f};
    static const uint8_t want[8] = {0xA1, 0x43, 0x5D, 0x01, 0xE7, 0x36, 0x29, 0xF4};
    const float scale = 176.0f * (3.0f / (6.0f * 448.0f));

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint8_t got[8];
        if (!k)
            continue;
        k->e2m1_encode(got, x, 16, scale);
        EXPECT_MEM_EQ(want, got, 8);
    }
}

TEST(e2m1, every_code_comes_back)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint8_t packed[256], back[256];
        float x[512];
        if (!k)
            continue;
        for (uint32_t b = 0; b < 256; b++)
            packed[b] = (uint8_t)b;
        k->e2m1_decode(x, packed, 512, 0.375f);
        EXPECT_EQ_F32(0.375f * 0.5f, x[2]);
        EXPECT_EQ_F32(-0.375f * 6.0f, x[511]);
        k->e2m1_encode(back, x, 512, 0.375f);
        EXPECT_MEM_EQ(packed, back, 256);
    }
}

TEST(e2m1, rows_of_every_length_are_the_reference)
{
    const struct kernel *ref = kernel_at(0);

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint64_t seed = 21;
        for (size_t n = 0; k && n <= ROW_MAX; n++) {
            float scale = fabsf(support_float(&seed, -20, 20)), x[ROW_MAX];
            float want_x[ROW_MAX + GUARD] = {0}, got_x[ROW_MAX + GUARD] = {0};
            uint8_t want[ROW_MAX + GUARD] = {0}, got[ROW_MAX + GUARD] = {0};

            for (size_t i = 0; i < n; i++)
                x[i] = n % 4 == 0 ? support_any_float(&seed) : support_float(&seed, -4, 4) * scale;
            memset(want, 0x5A, sizeof want);
            memset(got, 0x5A, sizeof got);
            ct_case("%s, %zu", k->name, n);
            ref->e2m1_encode(want, x, n, scale);
            k->e2m1_encode(got, x, n, scale);
            EXPECT_MEM_EQ(want, got, sizeof want);
            ref->e2m1_decode(want_x, want, n, scale);
            k->e2m1_decode(got_x, want, n, scale);
            EXPECT_MEM_EQ(want_x, got_x, sizeof want_x);
        }
    }
}
