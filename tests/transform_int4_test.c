#include "tests/transform_support.h"

#include "formats/base/mem.h"

/* Three groups' zero points from the format notes: rows 0..2 of two groups (-8,1) (2,3) (7,-1). */
TEST(transform_int4, zero_points_lie_packed_along_rows)
{
    static const struct scheme asym = INT4(8, true, SCALE_BF16, METHOD_ABSMAX);
    struct matrix in = {0};

    ASSERT_TRUE(matrix_init(&in, &asym, 3, 16));
    memset(in.parts.part[PART_CODES], 0x88, in.layout[PART_CODES].bytes); /* codes 0 */
    for (size_t i = 0; i < 6; i++)
        ((uint16_t *)in.parts.part[PART_SCALE])[i] = 0x3F80;
    memcpy(in.parts.part[PART_ZERO_POINT], (uint32_t[]){0x00000FA0u, 0x000007B9u}, 8);
    static const float want[3][2] = {{8.0f, -1.0f}, {-2.0f, -3.0f}, {-7.0f, 1.0f}};
    float *x = matrix_decoded(kernel_at(0), &in);
    for (size_t r = 0; r < 3; r++)
        for (size_t c = 0; c < 16; c++)
            EXPECT_EQ_F32(want[r][c / 8], x[r * 16 + c]);
    mem_free(x);
    matrix_release(&in);
}

TEST(transform_int4, zero_points_of_missing_rows_are_zero_bits)
{
    static const struct scheme plain = PLAIN(DTYPE_BF16), asym = INT4(8, true, SCALE_BF16, METHOD_ABSMAX);
    struct matrix in = {0}, out = {0};
    struct weight_error error = {0};
    struct err e = {0};

    ASSERT_TRUE(matrix_init(&in, &plain, 11, 16) && matrix_init(&out, &asym, 11, 16));
    matrix_fill(&in, 8);
    EXPECT_OK(matrix_convert(kernel_at(0), &in, &out, &error, &e), e);
    uint32_t *zeros = out.parts.part[PART_ZERO_POINT];
    for (size_t g = 0; g < 2; g++)
        EXPECT_EQ_U64(0, zeros[2 + g] >> 12);
    matrix_release(&in);
    matrix_release(&out);
}

/* Negative scales are legal in int4, and a zero scale makes zeros. */
TEST(transform_int4, int4_scales_may_be_negative_or_zero)
{
    static const struct scheme int4 = INT4(8, false, SCALE_F32, METHOD_ABSMAX);
    struct matrix in = {0};

    ASSERT_TRUE(matrix_init(&in, &int4, 1, 16));
    memset(in.parts.part[PART_CODES], 0xAA, in.layout[PART_CODES].bytes); /* codes 2 */
    memcpy(in.parts.part[PART_SCALE], (float[]){-0.3f, 0.0f}, 8);
    float *x = matrix_decoded(kernel_at(0), &in);
    EXPECT_EQ_F32(-0.6f, x[7]);
    EXPECT_EQ_F32(0.0f, x[8]);
    mem_free(x);
    matrix_release(&in);
}

TEST(transform_int4, an_int4_product_past_the_floats_is_refused)
{
    static const struct scheme int4 = INT4(8, true, SCALE_BF16, METHOD_ABSMAX), plain = PLAIN(DTYPE_F32);
    static const uint16_t scales[] = {0x7F7F, 0xFF00, 0x7D80, 0x7D00}; /* .. 2^124 and 2^123: times 15 is finite */

    for (size_t i = 0; i < 4; i++)
        for (size_t v = 0; v < kernel_count(); v++) {
            struct matrix in = {0}, out = {0};
            struct weight_error error = {0};
            struct err e = {0};
            if (!kernel_at(v)->usable())
                continue;
            ct_case("scale %04x, %s", scales[i], kernel_at(v)->name);
            ASSERT_TRUE(matrix_init(&in, &int4, 1, 16) && matrix_init(&out, &plain, 1, 16));
            memset(in.parts.part[PART_CODES], 0x88, 8); /* codes 0, but for the last: 7 */
            ((uint8_t *)in.parts.part[PART_CODES])[7] = 0xF8;
            memcpy(in.parts.part[PART_ZERO_POINT], (uint32_t[]){8, 0}, 8); /* zero points 0 and -8 */
            memcpy(in.parts.part[PART_SCALE], (uint16_t[]){0x3F80, scales[i]}, 4);
            EXPECT_TRUE(matrix_convert(kernel_at(v), &in, &out, &error, &e) == (i >= 2));
            if (i < 2)
                EXPECT_ERR(e, ERR_FORMAT, "value at row 0, column ");
            matrix_release(&in);
            matrix_release(&out);
        }
}
