#include "quant/kernel.h"

#include <math.h>

#include "tests/kernel_support.h"

/* Made with PyTorch 1.13: x.to(torch.bfloat16), of hard cases and some random ones. */
static const struct {
    uint32_t bits;
    uint16_t code;
} golden[] = {
    {0x00000000U, 0x0000}, {0x80000000U, 0x8000}, {0x00000001U, 0x0000}, {0x00008000U, 0x0000}, {0x00008001U, 0x0001},
    {0x00018000U, 0x0002}, {0x007FFFFFU, 0x0080}, {0x007F8000U, 0x0080}, {0x3F800000U, 0x3F80}, {0x3F808000U, 0x3F80},
    {0x3F808001U, 0x3F81}, {0x3F807FFFU, 0x3F80}, {0x3F818000U, 0x3F82}, {0x3F817FFFU, 0x3F81}, {0xBF818000U, 0xBF82},
    {0x7F7F0000U, 0x7F7F}, {0x7F7F7FFFU, 0x7F7F}, {0xFF7F7FFFU, 0xFF7F}, {0xBF1ED771U, 0xBF1F}, {0x3EFACC94U, 0x3EFB},
    {0x3EB6B9E5U, 0x3EB7}, {0x3DD7E36DU, 0x3DD8}, {0xBF6E3327U, 0xBF6E}, {0xBCEFA185U, 0xBCF0}, {0x3F31FF64U, 0x3F32},
    {0xBFAC0F39U, 0xBFAC},
};

TEST(bf16, encodes_as_others_do)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof golden / sizeof golden[0]; i++) {
            float x[40];
            uint16_t codes[40];
            ct_case("%s, bits %08x", k->name, golden[i].bits);
            for (size_t c = 0; c < 40; c++) /* body and tail */
                x[c] = bits_float(golden[i].bits);
            EXPECT_TRUE(k->bf16_encode(codes, x, 40));
            for (size_t c = 0; c < 40; c++)
                EXPECT_EQ_U64(golden[i].code, codes[c]);
        }
    }
}

/* Chunks of an odd length, so that vectors and tails both see many patterns. */
#define CHUNK 4093u

TEST(bf16, all_codes_decode_as_the_reference_does_and_come_back)
{
    static uint16_t codes[65536], back[65536];
    static float want[65536], got[65536];

    for (uint32_t c = 0; c < 65536; c++)
        codes[c] = (uint16_t)c;
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (uint32_t first = 0; k && first < 65536; first += CHUNK) {
            uint32_t n = 65536 - first < CHUNK ? 65536 - first : CHUNK, finite = 0;
            (void)kernel_at(0)->bf16_decode(want + first, codes + first, n);
            bool ok = k->bf16_decode(got + first, codes + first, n);
            for (uint32_t c = first; c < first + n; c++)
                if (isfinite(want[c])) {
                    finite++;
                    ct_case("%s, code %04x", k->name, c);
                    ASSERT_EQ_F32(want[c], got[c]);
                    ASSERT_TRUE(k->bf16_encode(back + c, got + c, 1));
                    ASSERT_EQ_U64(c, back[c]);
                }
            EXPECT_TRUE(ok == (finite == n));
        }
    }
}

TEST(bf16, floats_of_every_size_encode_to_the_nearest)
{
    static double values[0x8000];
    static float x[CHUNK];
    static uint16_t want[CHUNK], got[CHUNK];

    for (uint32_t c = 0; c < 0x7F80u; c++) {
        uint32_t exponent = c >> 7, fraction = c & ((1u << 7) - 1);
        values[c] = ldexp(fraction + (exponent ? 1u << 7 : 0), (int)(exponent ? exponent : 1) - 127 - 7);
    }
    for (uint64_t first = 0; first <= UINT32_MAX; first += 3089ull * CHUNK) {
        size_t n = 0;
        for (uint64_t bits = first; n < CHUNK && bits <= UINT32_MAX; bits += 3089) {
            float f = bits_float((uint32_t)bits);
            if (isfinite(f) && fabs((double)f) < 0x1.ffp127)
                x[n++] = f;
        }
        for (size_t i = 0; i < n; i++)
            want[i] =
                (uint16_t)(support_nearest(values, 0x7F80u, fabs((double)x[i])) | (float_bits(x[i]) >> 16 & 0x8000u));
        for (size_t v = 0; v < kernel_count(); v++) {
            const struct kernel *k = kernel_at(v);
            if (!k->usable())
                continue;
            ct_case("%s, from bits %08x", k->name, (unsigned)first);
            ASSERT_TRUE(k->bf16_encode(got, x, n));
            ASSERT_MEM_EQ(want, got, n * sizeof *got);
        }
    }
}

/* The midpoints between codes, and two floats to either side. */
TEST(bf16, midpoints_go_to_the_even_code_and_their_neighbours_to_the_nearer)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (uint32_t c = 0; k && c + 1 < 0x7F80u; c++) {
            uint16_t pair[2] = {(uint16_t)c, (uint16_t)(c + 1)}, codes[5];
            float ends[2], x[5];
            ct_case("%s, code %04x", k->name, c);
            ASSERT_TRUE(kernel_at(0)->bf16_decode(ends, pair, 2));
            x[2] = (float)(((double)ends[0] + (double)ends[1]) / 2);
            x[1] = nextafterf(x[2], 0.0f);
            x[0] = nextafterf(x[1], 0.0f);
            x[3] = nextafterf(x[2], INFINITY);
            x[4] = nextafterf(x[3], INFINITY);
            ASSERT_TRUE(k->bf16_encode(codes, x, 5));
            ASSERT_EQ_U64(c, codes[1]);
            ASSERT_EQ_U64(c + (c & 1), codes[2]);
            ASSERT_EQ_U64(c + 1, codes[3]);
        }
    }
}

TEST(bf16, a_value_that_rounds_past_the_largest_is_reported)
{
    static const float past[] = {0x1.ffp127f, -0x1.ffp127f, 0x1.fffffep127f};

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof past / sizeof past[0]; i++)
            for (size_t n = 1; n < 40; n++) {
                float x[40] = {0};
                uint16_t codes[40];
                ct_case("%s, %g last of %zu", k->name, (double)past[i], n);
                x[n - 1] = past[i];
                EXPECT_FALSE(k->bf16_encode(codes, x, n));
                codes[n / 2] = 0x7F80 | (uint16_t)(i & 1);
                EXPECT_FALSE(k->bf16_decode(x, codes, n));
            }
    }
}

TEST(bf16, rows_of_every_length_keep_to_themselves)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint64_t seed = 5;
        for (size_t n = 0; k && n <= ROW_MAX; n++) {
            float x[ROW_MAX + GUARD];
            uint16_t want[ROW_MAX + GUARD], got[ROW_MAX + GUARD];
            ct_case("%s, %zu", k->name, n);
            support_floats(x, n, &seed, -20, 15);
            memset(want, 0x5A, sizeof want);
            memset(got, 0x5A, sizeof got);
            EXPECT_TRUE(kernel_at(0)->bf16_encode(want, x, n));
            EXPECT_TRUE(k->bf16_encode(got, x, n));
            EXPECT_MEM_EQ(want, got, sizeof want);

            float want_x[ROW_MAX + GUARD] = {0}, got_x[ROW_MAX + GUARD] = {0};
            EXPECT_TRUE(kernel_at(0)->bf16_decode(want_x, want, n));
            EXPECT_TRUE(k->bf16_decode(got_x, want, n));
            EXPECT_MEM_EQ(want_x, got_x, sizeof want_x);
        }
    }
}
