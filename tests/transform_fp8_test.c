#include "tests/transform_support.h"

#include <math.h>

#include "formats/base/mem.h"

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

TEST(transform_fp8, fp8_blocks_are_the_reference_implementations)
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
        EXPECT_OK(matrix_convert(k, &in, &out, &error, &e), e);
        EXPECT_MEM_EQ(golden_codes, out.parts.part[PART_CODES], 120);
        EXPECT_EQ_F32(0x1p-7f, *(float *)out.parts.part[PART_SCALE]);
        EXPECT_OK(matrix_convert(k, &in, &out8, &error, &e), e);
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

TEST(transform_fp8, ragged_fp8_blocks_follow_the_rules)
{
    static const struct scheme plain = PLAIN(DTYPE_F32), kinds[] = {FP8_BLOCK(SCALE_F32), FP8_BLOCK(SCALE_F32_POW2)};

    for (size_t i = 0; i < 2; i++) {
        struct matrix in = {0}, out = {0};
        struct weight_error error = {0};
        struct err e = {0};
        ct_case("pow2 %zu", i);
        ASSERT_TRUE(matrix_init(&in, &plain, 576, 200) && matrix_init(&out, &kinds[i], 576, 200));
        matrix_fill(&in, 9);
        for (uint64_t r = 0; r < 128; r++) /* an empty block */
            memset((float *)in.parts.part[PART_CODES] + r * 200 + 128, 0, 72 * sizeof(float));
        float scales[10];
        uint8_t *codes = mem_alloc(576 * 200);
        naive_fp8(in.parts.part[PART_CODES], 576, 200, i == 1, codes, scales);
        EXPECT_EQ_F32(1.0f, scales[1]);
        for (size_t v = 0; v < kernel_count(); v++) {
            if (!kernel_at(v)->usable())
                continue;
            EXPECT_OK(matrix_convert(kernel_at(v), &in, &out, &error, &e), e);
            EXPECT_MEM_EQ(scales, out.parts.part[PART_SCALE], sizeof scales);
            EXPECT_MEM_EQ(codes, out.parts.part[PART_CODES], 576 * 200);
        }
        mem_free(codes);
        matrix_release(&in);
        matrix_release(&out);
    }
}

/* The amax just above 448 is where log2f rounds down to a whole number. */
TEST(transform_fp8, powers_of_two_are_rounded_up_just_above_one)
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
        EXPECT_OK(matrix_convert(kernel_at(0), &in, &out, &error, &e), e);
        EXPECT_EQ_F32(rows[i].scale, *(float *)out.parts.part[PART_SCALE]);
        matrix_release(&in);
        matrix_release(&out);
    }
}

/* UE8M0 targets are requantized, never only rescaled, but for scales that are powers of two already. */
TEST(transform_fp8, fp8_blocks_keep_codes_under_a_scale_that_is_a_power_of_two)
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
        matrix_fill(&in, 4);
        float *scales = in.parts.part[PART_SCALE], *got = out.parts.part[PART_SCALE];
        const uint8_t *codes = in.parts.part[PART_CODES], *out_codes = out.parts.part[PART_CODES];
        scales[0] = 0x1p-7f;
        scales[1] = 0x1.8p-7f;
        scales[2] = 0x1.000002p-7f;
        scales[3] = 0x1p-127f;
        EXPECT_OK(matrix_convert(k, &in, &out, &error, &e), e);
        EXPECT_EQ_F32(0x1p-7f, got[0]);
        EXPECT_EQ_F32(0x1p-6f, got[1]);
        EXPECT_EQ_F32(0x1p-6f, got[2]);
        EXPECT_EQ_F32(0x1p-127f, got[3]);
        for (uint64_t r = 0; r < 128; r++) {
            EXPECT_MEM_EQ(codes + r * 256, out_codes + r * 256, 128);
            EXPECT_MEM_EQ(codes + (r + 128) * 256 + 128, out_codes + (r + 128) * 256 + 128, 128);
        }
        float *x = matrix_decoded(k, &in);
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

TEST(transform_fp8, e8m0_and_f32_powers_of_two_are_the_same_scales)
{
    static const struct scheme e8m0 = FP8_BLOCK(SCALE_E8M0), pow2 = FP8_BLOCK(SCALE_F32_POW2),
                               f32 = FP8_BLOCK(SCALE_F32);
    struct matrix a = {0}, b = {0}, c = {0}, d = {0};
    struct weight_error error = {0};
    struct err e = {0};

    ASSERT_TRUE(matrix_init(&a, &e8m0, 128, 247 * 128) && matrix_init(&b, &pow2, 128, 247 * 128) &&
                matrix_init(&c, &f32, 128, 247 * 128) && matrix_init(&d, &e8m0, 128, 247 * 128));
    matrix_fill(&a, 5);
    for (uint32_t i = 0; i < 247; i++) /* 2^119 and above make 448 infinite */
        ((uint8_t *)a.parts.part[PART_SCALE])[i] = (uint8_t)(i < 246 ? i : 0);
    EXPECT_OK(matrix_convert(kernel_at(0), &a, &b, &error, &e), e);
    EXPECT_OK(matrix_convert(kernel_at(0), &b, &c, &error, &e), e);
    EXPECT_OK(matrix_convert(kernel_at(0), &c, &d, &error, &e), e);
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

/* Dividing the smallest floats by 448 leaves nothing; 2^-126 takes its place. */
TEST(transform_fp8, fp8_scales_stay_normal_floats)
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
            EXPECT_OK(matrix_convert(kernel_at(0), &in, &out, &error, &e), e);
            EXPECT_EQ_F32(rows[i].scale, *(float *)out.parts.part[PART_SCALE]);
            matrix_release(&in);
            matrix_release(&out);
        }
}
