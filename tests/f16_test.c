#include "quant/kernel.h"

#include <math.h>

#include "tests/kernel_support.h"

/* Made with numpy 1.24: x.astype(float16), of hard cases and some random ones. */
static const struct {
    uint32_t bits;
    uint16_t code;
} golden[] = {
    {0x00000000U, 0x0000}, {0x80000000U, 0x8000}, {0x00000001U, 0x0000}, {0x80000001U, 0x8000}, {0x33000000U, 0x0000},
    {0x33000001U, 0x0001}, {0x33800000U, 0x0001}, {0x33C00000U, 0x0002}, {0x387FC000U, 0x03FF}, {0x387FE000U, 0x0400},
    {0x38800000U, 0x0400}, {0x38801000U, 0x0400}, {0x38802000U, 0x0401}, {0x38803000U, 0x0402}, {0x3F800000U, 0x3C00},
    {0x3F801000U, 0x3C00}, {0x3F803000U, 0x3C02}, {0x3F803001U, 0x3C02}, {0xBF802FFFU, 0xBC01}, {0x477FEFFFU, 0x7BFF},
    {0x477FE000U, 0x7BFF}, {0xC77FEFFFU, 0xFBFF}, {0x47000000U, 0x7800}, {0x3EBCF399U, 0x35E8}, {0x42B33F51U, 0x559A},
    {0xC2A47B93U, 0xD524}, {0xC38596BAU, 0xDC2D}, {0xC30866B7U, 0xD843}, {0xC394BF3AU, 0xDCA6}, {0x4190583BU, 0x4C83},
    {0x43C90844U, 0x5E48}, {0xC313A976U, 0xD89D},
};

TEST(f16, encodes_as_others_do)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof golden / sizeof golden[0]; i++) {
            float x[40];
            uint16_t codes[40];
            ct_case("%s, bits %08x", k->name, golden[i].bits);
            for (size_t c = 0; c < 40; c++) /* body and tail */
                x[c] = bits_float(golden[i].bits);
            EXPECT_TRUE(k->f16_encode(codes, x, 40));
            for (size_t c = 0; c < 40; c++)
                EXPECT_EQ_U64(golden[i].code, codes[c]);
        }
    }
}

/* Chunks of an odd length, so that vectors and tails both see many patterns. */
#define CHUNK 4093u

TEST(f16, all_codes_decode_as_the_reference_does_and_come_back)
{
    static uint16_t codes[65536], back[65536];
    static float want[65536], got[65536];

    for (uint32_t c = 0; c < 65536; c++)
        codes[c] = (uint16_t)c;
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (uint32_t first = 0; k && first < 65536; first += CHUNK) {
            uint32_t n = 65536 - first < CHUNK ? 65536 - first : CHUNK, finite = 0;
            (void)kernel_at(0)->f16_decode(want + first, codes + first, n);
            bool ok = k->f16_decode(got + first, codes + first, n);
            for (uint32_t c = first; c < first + n; c++)
                if (isfinite(want[c])) {
                    finite++;
                    ct_case("%s, code %04x", k->name, c);
                    ASSERT_EQ_F32(want[c], got[c]);
                    ASSERT_TRUE(k->f16_encode(back + c, got + c, 1));
                    ASSERT_EQ_U64(c, back[c]);
                }
            EXPECT_TRUE(ok == (finite == n));
        }
    }
}

TEST(f16, floats_of_every_size_encode_to_the_nearest)
{
    static double values[0x8000];
    static float x[CHUNK];
    static uint16_t want[CHUNK], got[CHUNK];

    for (uint32_t c = 0; c < 0x7C00u; c++) {
        uint32_t exponent = c >> 10, fraction = c & ((1u << 10) - 1);
        values[c] = ldexp(fraction + (exponent ? 1u << 10 : 0), (int)(exponent ? exponent : 1) - 15 - 10);
    }
    for (uint64_t first = 0; first <= UINT32_MAX; first += 3089ull * CHUNK) {
        size_t n = 0;
        for (uint64_t bits = first; n < CHUNK && bits <= UINT32_MAX; bits += 3089) {
            float f = bits_float((uint32_t)bits);
            if (isfinite(f) && fabs((double)f) < 65520.0)
                x[n++] = f;
        }
        for (size_t i = 0; i < n; i++)
            want[i] =
                (uint16_t)(support_nearest(values, 0x7C00u, fabs((double)x[i])) | (float_bits(x[i]) >> 16 & 0x8000u));
        for (size_t v = 0; v < kernel_count(); v++) {
            const struct kernel *k = kernel_at(v);
            if (!k->usable())
                continue;
            ct_case("%s, from bits %08x", k->name, (unsigned)first);
            ASSERT_TRUE(k->f16_encode(got, x, n));
            ASSERT_MEM_EQ(want, got, n * sizeof *got);
        }
    }
}

/* The midpoints between codes, and two floats to either side. */
TEST(f16, midpoints_go_to_the_even_code_and_their_neighbours_to_the_nearer)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (uint32_t c = 0; k && c + 1 < 0x7C00u; c++) {
            uint16_t pair[2] = {(uint16_t)c, (uint16_t)(c + 1)}, codes[5];
            float ends[2], x[5];
            ct_case("%s, code %04x", k->name, c);
            ASSERT_TRUE(kernel_at(0)->f16_decode(ends, pair, 2));
            x[2] = (float)(((double)ends[0] + (double)ends[1]) / 2);
            x[1] = nextafterf(x[2], 0.0f);
            x[0] = nextafterf(x[1], 0.0f);
            x[3] = nextafterf(x[2], INFINITY);
            x[4] = nextafterf(x[3], INFINITY);
            ASSERT_TRUE(k->f16_encode(codes, x, 5));
            ASSERT_EQ_U64(c, codes[1]);
            ASSERT_EQ_U64(c + (c & 1), codes[2]);
            ASSERT_EQ_U64(c + 1, codes[3]);
        }
    }
}

TEST(f16, a_value_that_rounds_past_the_largest_is_reported)
{
    static const float past[] = {65520.0f, -65520.0f, 65535.9f, 65536.0f, 1e9f, -3e38f};

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof past / sizeof past[0]; i++)
            for (size_t n = 1; n < 40; n++) {
                float x[40] = {0};
                uint16_t codes[40];
                ct_case("%s, %g last of %zu", k->name, (double)past[i], n);
                x[n - 1] = past[i];
                EXPECT_FALSE(k->f16_encode(codes, x, n));
                codes[n / 2] = 0x7C00 | (uint16_t)(i & 1);
                EXPECT_FALSE(k->f16_decode(x, codes, n));
            }
    }
}

TEST(f16, rows_of_every_length_keep_to_themselves)
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
            EXPECT_TRUE(kernel_at(0)->f16_encode(want, x, n));
            EXPECT_TRUE(k->f16_encode(got, x, n));
            EXPECT_MEM_EQ(want, got, sizeof want);

            float want_x[ROW_MAX + GUARD] = {0}, got_x[ROW_MAX + GUARD] = {0};
            EXPECT_TRUE(kernel_at(0)->f16_decode(want_x, want, n));
            EXPECT_TRUE(k->f16_decode(got_x, want, n));
            EXPECT_MEM_EQ(want_x, got_x, sizeof want_x);
        }
    }
}
