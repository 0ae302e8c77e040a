#include "quant/e4m3.h"

#include <math.h>

#include "tests/kernel_support.h"

/* Made with dsv3.py's e4m3_encode, which rounds in float64 and saturates: hard cases and some random ones. */
static const struct {
    float x;
    uint8_t code;
} golden[] = {
    {0.0f, 0x00},
    {-0.0f, 0x80},
    {0x1p-10f, 0x00},
    {0x1.8p-9f, 0x02},
    {0x1.4p-8f, 0x02},
    {0x1p-9f, 0x01},
    {0x1.cp-8f, 0x04},
    {-0x1.ep-7f, 0x88},
    {0x1p-6f, 0x08},
    {0x1.1p+4f, 0x58},
    {0x1.3p+4f, 0x5A},
    {0x1.5p+4f, 0x5A},
    {-0x1.1p+4f, 0xD8},
    {0x1.cp-2f, 0x2E},
    {0x1.a66666p+1f, 0x45},
    {0x1.bfp+8f, 0x7E},
    {0x1.cp+8f, 0x7E},
    {0x1.dp+8f, 0x7E},
    {0x1.ep+8f, 0x7E},
    {0x1.93e594p+99f, 0x7E},
    {-0x1.93e594p+99f, 0xFE},
    {0x1p-11f, 0x00},
    {-0x1.6e17b6p+4f, 0xDB},
    {-0x1.7c3e9ap+6f, 0xEC},
    {-0x1.01e856p+6f, 0xE8},
    {-0x1.7058d6p+6f, 0xEC},
    {-0x1.782554p+3f, 0xD4},
    {-0x1.fafa86p+5f, 0xE8},
    {0x1.b205e2p+3f, 0x56},
    {0x1.f59a7ep+2f, 0x50},
    {-0x1.2b16eap+3f, 0xD1},
    {-0x1.f75a18p+6f, 0xF0},
};

TEST(e4m3, encodes_as_others_do)
{
    const float one = 1.0f;

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof golden / sizeof golden[0]; i++) {
            float x[70];
            uint8_t codes[70];
            ct_case("%s, %g", k->name, (double)golden[i].x);
            for (size_t c = 0; c < 70; c++) /* body and tail */
                x[c] = golden[i].x;
            k->e4m3_encode(codes, x, 70, &one, 70);
            for (size_t c = 0; c < 70; c++)
                EXPECT_EQ_U64(golden[i].code, codes[c]);
        }
    }
}

/* The worked block of the format notes; its bytes were computed independently. */
TEST(e4m3, the_worked_block_has_its_bytes)
{
    static const float w[8] = {0.5f, -1.0f, 0.25f, 0.03f, 2.0f, -0.7f, 0.001f, 0.0f};
    static const uint8_t plain[8] = {0x6E, 0xF6, 0x66, 0x4D, 0x7E, 0xF2, 0x26, 0x00};
    static const uint8_t pow2[8] = {0x68, 0xF0, 0x60, 0x47, 0x78, 0xEB, 0x20, 0x00};
    const float scale = 2.0f / 448.0f, scale2 = 0x1p-7f;

    EXPECT_EQ_U64(0x3B924925u, float_bits(scale));
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint8_t codes[8];
        float back[8];
        if (!k)
            continue;
        k->e4m3_encode(codes, w, 8, &scale, 8);
        EXPECT_MEM_EQ(plain, codes, 8);
        EXPECT_TRUE(k->e4m3_decode(back, codes, 8, &scale, 8));
        EXPECT_NEAR_F64(0.029018, (double)back[3], 1e-6);
        EXPECT_NEAR_F64(-0.714286, (double)back[5], 1e-6);
        EXPECT_NEAR_F64(0.00097656, (double)back[6], 1e-8);
        k->e4m3_encode(codes, w, 8, &scale2, 8);
        EXPECT_MEM_EQ(pow2, codes, 8);
    }
}

struct format {
    const char *name;
    uint32_t fraction, count; /* bits of it; codes of finite magnitudes */
    int bias;
    void (*encode)(const struct kernel *k, uint8_t *codes, const float *x, size_t n, float scale);
};

static void e4m3(const struct kernel *k, uint8_t *codes, const float *x, size_t n, float scale)
{
    k->e4m3_encode(codes, x, n, &scale, n);
}

static void e5m2(const struct kernel *k, uint8_t *codes, const float *x, size_t n, float scale)
{
    k->e5m2_encode(codes, x, n, scale);
}

static const struct format formats[] = {
    {"e4m3", 3, 0x7F, 7, e4m3},
    {"e5m2", 2, 0x7C, 15, e5m2},
};
#define FORMATS (sizeof formats / sizeof formats[0])

/* Straight from the definition of the format. */
static void fill_values(const struct format *f, double values[128])
{
    for (uint32_t c = 0; c < f->count; c++) {
        uint32_t exponent = c >> f->fraction, fraction = c & ((1u << f->fraction) - 1);
        values[c] = ldexp(fraction + (exponent ? 1u << f->fraction : 0),
                          (int)(exponent ? exponent : 1) - f->bias - (int)f->fraction);
    }
}

static uint8_t nearest(const struct format *f, const double *values, float x)
{
    return (uint8_t)(support_nearest(values, f->count, fabs((double)x)) | (signbit(x) ? 0x80u : 0));
}

#define CHUNK  4093u
#define STRIDE 3089u

TEST(fp8, floats_of_every_size_encode_to_the_nearest)
{
    static float x[CHUNK];
    static uint8_t want[CHUNK], got[CHUNK];
    double values[128];

    for (size_t i = 0; i < FORMATS; i++) {
        const struct format *f = &formats[i];
        fill_values(f, values);
        for (uint64_t first = 0; first <= UINT32_MAX; first += (uint64_t)STRIDE * CHUNK) {
            size_t n = 0;
            for (uint64_t bits = first; n < CHUNK && bits <= UINT32_MAX; bits += STRIDE)
                if (isfinite(bits_float((uint32_t)bits)))
                    x[n++] = bits_float((uint32_t)bits);
            for (size_t c = 0; c < n; c++)
                want[c] = nearest(f, values, x[c]);
            for (size_t v = 0; v < kernel_count(); v++) {
                if (!kernel_at(v)->usable())
                    continue;
                ct_case("%s, %s, from bits %08x", f->name, kernel_at(v)->name, (unsigned)first);
                f->encode(kernel_at(v), got, x, n, 1.0f);
                ASSERT_MEM_EQ(want, got, n);
            }
        }
    }
}

TEST(fp8, midpoints_and_their_neighbours_encode_to_the_nearest)
{
    double values[128];

    for (size_t i = 0; i < FORMATS; i++) {
        const struct format *f = &formats[i];
        fill_values(f, values);
        for (size_t v = 0; v < kernel_count(); v++) {
            const struct kernel *k = support_kernel(v);
            for (uint32_t c = 0; k && c + 1 < f->count; c++) {
                float middle = (float)((values[c] + values[c + 1]) / 2);
                for (int step = -2; step <= 2; step++)
                    for (int sign = 0; sign < 2; sign++) {
                        float x[40];
                        uint8_t codes[40];
                        uint32_t bits = float_bits(middle) + (uint32_t)step;
                        for (size_t at = 0; at < 40; at++)
                            x[at] = bits_float(bits | (uint32_t)sign << 31);
                        ct_case("%s, %s, code %02x, %+d ulp", f->name, k->name, c, step);
                        f->encode(k, codes, x, 40, 1.0f);
                        ASSERT_EQ_U64(nearest(f, values, x[0]), codes[0]);
                        ASSERT_EQ_U64(codes[0], codes[39]);
                    }
            }
        }
    }
}

/* scales[i / block_cols] for blocks of every size, with tails; scales of every size, the wild ones too. */
TEST(e4m3, rows_and_blocks_of_every_length_are_the_reference)
{
    const struct kernel *ref = kernel_at(0);

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint64_t seed = 11;
        for (size_t n = 0; k && n <= ROW_MAX; n++) {
            size_t each = 1 + support_random(&seed) % (n + 40);
            float scales[ROW_MAX + 1], x[ROW_MAX], want_x[ROW_MAX + GUARD] = {0}, got_x[ROW_MAX + GUARD] = {0};
            uint8_t codes[ROW_MAX], want[ROW_MAX + GUARD] = {0}, got[ROW_MAX + GUARD] = {0};
            uint16_t want_b[ROW_MAX + GUARD] = {0}, got_b[ROW_MAX + GUARD] = {0};

            for (size_t i = 0; i <= n; i++) {
                scales[i] = n % 3 == 0 ? support_any_float(&seed) : fabsf(support_float(&seed, -30, 10));
                scales[i] = scales[i] == 0.0f ? 0x1p-149f : scales[i];
            }
            for (size_t i = 0; i < n; i++) {
                codes[i] = (uint8_t)support_random(&seed);
                if ((codes[i] & 0x7F) == 0x7F && n % 5)
                    codes[i] = 0x7E;
                x[i] = support_float(&seed, -4, 9) * scales[i / each];
                if (!isfinite(x[i]))
                    x[i] = -3.0f;
            }
            ct_case("%s, %zu in blocks of %zu", k->name, n, each);
            bool want_ok = ref->e4m3_decode(want_x, codes, n, scales, each);
            EXPECT_TRUE(want_ok == k->e4m3_decode(got_x, codes, n, scales, each));
            if (want_ok)
                EXPECT_MEM_EQ(want_x, got_x, sizeof want_x);
            EXPECT_MEM_EQ(want_x + n, got_x + n, GUARD * sizeof(float));

            want_ok = ref->e4m3_to_bf16(want_b, codes, n, scales, each);
            EXPECT_TRUE(want_ok == k->e4m3_to_bf16(got_b, codes, n, scales, each));
            if (want_ok)
                EXPECT_MEM_EQ(want_b, got_b, sizeof want_b);
            EXPECT_MEM_EQ(want_b + n, got_b + n, GUARD * sizeof(uint16_t));

            ref->e4m3_encode(want, x, n, scales, each);
            k->e4m3_encode(got, x, n, scales, each);
            EXPECT_MEM_EQ(want, got, sizeof want);
        }
    }
}

/* Subnormal scales too: the 2^8 that moves into the scale must not cost a bit. */
TEST(e4m3, every_code_times_a_scale_is_one_rounded_product)
{
    static const float scales[] = {1.0f,      0x1.234568p-7f,  0x1.fffffep-120f, 0x1.9p-127f,
                                   0x1p-149f, 0x1.8p-140f,     0x1p118f,         0x1.fffffep117f,
                                   0x1p119f,  0x1.24924ap119f, 0x1.24924cp119f};
    uint8_t codes[256];

    for (uint32_t c = 0; c < 256; c++)
        codes[c] = (uint8_t)((c & 0x7F) == 0x7F ? c & 0x80 : c);
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof scales / sizeof scales[0]; i++) {
            float x[256];
            uint16_t b[256];
            bool all = true, all_bf16 = true;
            ct_case("%s, scale %a", k->name, (double)scales[i]);
            bool ok = k->e4m3_decode(x, codes, 256, &scales[i], 256);
            bool ok_bf16 = k->e4m3_to_bf16(b, codes, 256, &scales[i], 256);
            for (uint32_t c = 0; c < 256; c++) {
                double value =
                    ldexp((codes[c] & 7) + (codes[c] & 0x78 ? 8 : 0), (codes[c] & 0x78 ? codes[c] >> 3 & 15 : 1) - 10);
                float want = (float)((codes[c] & 0x80 ? -value : value) * (double)scales[i]);
                uint32_t bits = float_bits(want);
                uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
                all &= isfinite(want);
                all_bf16 &= isfinite(want) && (rounded & 0x7F80) != 0x7F80;
                if (ok)
                    EXPECT_EQ_F32(want, x[c]);
                if (ok_bf16)
                    EXPECT_EQ_U64(rounded & 0xFFFF, b[c]);
            }
            EXPECT_TRUE(ok == all);
            EXPECT_TRUE(ok_bf16 == all_bf16);
        }
    }
}

TEST(e4m3, a_nan_is_seen_wherever_it_stands)
{
    const float one = 1.0f;

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t n = 1; k && n <= 140; n += 3)
            for (size_t at = 0; at < n; at++) {
                uint8_t codes[140] = {0};
                float x[140];
                uint16_t b[140];
                ct_case("%s, %zu of %zu", k->name, at, n);
                codes[at] = at % 2 ? 0x7F : 0xFF;
                EXPECT_FALSE(k->e4m3_decode(x, codes, n, &one, n));
                EXPECT_FALSE(k->e4m3_to_bf16(b, codes, n, &one, n));
                codes[at] = at % 2 ? 0x7E : 0xFE;
                EXPECT_TRUE(k->e4m3_decode(x, codes, n, &one, n));
                EXPECT_TRUE(k->e4m3_to_bf16(b, codes, n, &one, n));
            }
    }
}

TEST(e5m2, rows_of_every_length_are_the_reference)
{
    const struct kernel *ref = kernel_at(0);

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint64_t seed = 12;
        for (size_t n = 0; k && n <= ROW_MAX; n++) {
            float scale = n % 4 == 0 ? support_any_float(&seed) : fabsf(support_float(&seed, -30, 10));
            float x[ROW_MAX], want_x[ROW_MAX + GUARD] = {0}, got_x[ROW_MAX + GUARD] = {0};
            uint8_t codes[ROW_MAX], want[ROW_MAX + GUARD] = {0}, got[ROW_MAX + GUARD] = {0};

            scale = scale == 0.0f ? 1.0f : scale;
            for (size_t i = 0; i < n; i++) {
                codes[i] = (uint8_t)support_random(&seed);
                if ((codes[i] & 0x7C) == 0x7C && n % 5)
                    codes[i] = 0x7B;
                x[i] = support_any_float(&seed);
            }
            ct_case("%s, %zu", k->name, n);
            bool want_ok = ref->e5m2_decode(want_x, codes, n, scale);
            EXPECT_TRUE(want_ok == k->e5m2_decode(got_x, codes, n, scale));
            if (want_ok)
                EXPECT_MEM_EQ(want_x, got_x, sizeof want_x);
            EXPECT_MEM_EQ(want_x + n, got_x + n, GUARD * sizeof(float));
            ref->e5m2_encode(want, x, n, scale);
            k->e5m2_encode(got, x, n, scale);
            EXPECT_MEM_EQ(want, got, sizeof want);
        }
    }
}

TEST(e5m2, codes_have_the_values_of_the_definition)
{
    double values[128];

    fill_values(&formats[1], values);
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint8_t codes[2 * 0x7C];
        float x[2 * 0x7C];
        if (!k)
            continue;
        for (uint32_t c = 0; c < 2 * 0x7C; c++)
            codes[c] = (uint8_t)(c / 2 | c << 7);
        EXPECT_TRUE(k->e5m2_decode(x, codes, 2 * 0x7C, 0.75f));
        for (uint32_t c = 0; c < 2 * 0x7C; c++)
            EXPECT_EQ_F32((float)((c & 1 ? -values[c / 2] : values[c / 2]) * 0.75), x[c]);
        for (uint8_t bad = 0x7C; bad < 0x80; bad++)
            EXPECT_FALSE(k->e5m2_decode(x, &bad, 1, 1.0f));
    }
}

/* Around 2^111 and up, where the largest codes leave the floats. */
TEST(e5m2, a_product_that_is_not_finite_is_seen)
{
    static const float scales[] = {0x1p110f,    0x1p111f, 0x1.2p112f, 0x1.24p112f,
                                   0x1.25p112f, 0x1p113f, 0x1p127f,   -0x1p126f};

    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        for (size_t i = 0; k && i < sizeof scales / sizeof scales[0]; i++)
            for (uint8_t code = 0x60; code < 0x7C; code++) {
                uint8_t codes[40] = {0};
                float x[40];
                ct_case("%s, code %02x, scale %a", k->name, code, (double)scales[i]);
                double product = ldexp((code & 3) + 4, (code >> 2) - 17) * (double)scales[i];
                codes[5] = code;
                EXPECT_TRUE(k->e5m2_decode(x, codes, 40, scales[i]) == isfinite((float)product));
            }
    }
}

TEST(e8m0, all_bytes_are_powers_of_two_and_the_last_is_nan)
{
    for (size_t v = 0; v < kernel_count(); v++) {
        const struct kernel *k = support_kernel(v);
        uint8_t codes[255];
        float x[255 + GUARD];
        if (!k)
            continue;
        for (uint32_t c = 0; c < 255; c++)
            codes[c] = (uint8_t)c;
        for (size_t n = 0; n <= 255; n += 5) {
            memset(x, 0x5A, sizeof x);
            EXPECT_TRUE(k->e8m0_decode(x, codes, n));
            for (size_t c = 0; c < n; c++)
                EXPECT_EQ_F32(ldexpf(1.0f, (int)c - 127), x[c]);
            for (size_t c = n; c < n + GUARD; c++)
                EXPECT_EQ_U64(0x5A5A5A5Au, float_bits(x[c]));
        }
        for (size_t at = 0; at < 40; at++) {
            uint8_t row[40] = {0};
            row[at] = 255;
            EXPECT_FALSE(k->e8m0_decode(x, row, 40));
        }
    }
}
