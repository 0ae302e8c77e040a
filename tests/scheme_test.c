#include "formats/scheme.h"

#include <stdio.h>
#include <string.h>

#include "tests/ct.h"

#define FP8(k, s) .kind = (k), .dtype = DTYPE_F8_E4M3, .scale = (s)
#define BLOCK(s)  FP8(SCHEME_FP8_BLOCK, s), .block_rows = 128, .block_cols = 128
#define INT4(g)   .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = (g)
#define PLAIN(d)  .kind = SCHEME_PLAIN, .dtype = (d)

/* "codes | scale | zero point | shape", each as suffix, dtype and dims. */
static const struct layout_row {
    const char *name;
    struct scheme scheme;
    uint64_t rows, cols;
    const char *want;
} layouts[] = {
    /* clang-format off */
    {"plain", {PLAIN(DTYPE_BF16)}, 576, 7168, ".weight BF16 [576, 7168]"},
    {"block fp8 with a ragged edge, as kv_a_proj_with_mqa", {BLOCK(SCALE_F32)}, 576, 7168,
     ".weight F8_E4M3 [576, 7168] | .weight_scale_inv F32 [5, 56]"},
    {"block fp8 ragged both ways", {BLOCK(SCALE_F32_POW2)}, 129, 127,
     ".weight F8_E4M3 [129, 127] | .weight_scale_inv F32 [2, 1]"},
    {"block fp8 with e8m0 scales", {BLOCK(SCALE_E8M0)}, 256, 128,
     ".weight F8_E4M3 [256, 128] | .weight_scale_inv F8_E8M0 [2, 1]"},
    {"block fp8 of compressed-tensors", {BLOCK(SCALE_BF16), .compressed_tensors = true}, 256, 128,
     ".weight F8_E4M3 [256, 128] | .weight_scale BF16 [2, 1]"},
    {"channel fp8", {FP8(SCHEME_FP8_CHANNEL, SCALE_BF16)}, 300, 64,
     ".weight F8_E4M3 [300, 64] | .weight_scale BF16 [300, 1]"},
    {"static fp8", {.kind = SCHEME_FP8_TENSOR, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .static_input = true}, 300, 64,
     ".weight F8_E4M3 [300, 64] | .weight_scale F32 [1] | .input_scale F32 [1]"},
    {"tensor fp8", {FP8(SCHEME_FP8_TENSOR, SCALE_F32)}, 300, 64, ".weight F8_E4M3 [300, 64] | .weight_scale F32 [1]"},
    {"int4", {INT4(32), .shape_i64 = true}, 2048, 7168,
     ".weight_packed I32 [2048, 896] | .weight_scale BF16 [2048, 224] | .weight_shape I64 [2]"},
    {"int4 as Kimi-K2.5 has it", {INT4(32)}, 2048, 7168,
     ".weight_packed I32 [2048, 896] | .weight_scale BF16 [2048, 224] | .weight_shape I32 [2]"},
    {"int4 with zero points of ragged rows", {INT4(64), .asymmetric = true, .shape_i64 = true}, 9, 128,
     ".weight_packed I32 [9, 16] | .weight_scale BF16 [9, 2] | .weight_zero_point I32 [2, 2] | .weight_shape I64 [2]"},
    {"int4 by channel with a ragged last word", {INT4(0), .shape_i64 = true}, 3, 10,
     ".weight_packed I32 [3, 2] | .weight_scale BF16 [3, 1] | .weight_shape I64 [2]"},
    /* clang-format on */
};

static void layout_text(const struct part_layout parts[PART_COUNT], char *text, size_t room)
{
    char shape[TENSOR_SHAPE_TEXT];
    size_t used = 0;

    for (enum part part = 0; part < PART_COUNT; part++)
        if (parts[part].present)
            used += (size_t)snprintf(text + used, room - used, "%s%s %s %s", used ? " | " : "", parts[part].suffix,
                                     dtype_get(parts[part].dtype)->name,
                                     tensor_shape_text(parts[part].rank, parts[part].dims, shape));
}

TEST(scheme, parts_have_the_names_dtypes_and_shapes_that_engines_read)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        const struct layout_row *r = &layouts[i];
        struct part_layout parts[PART_COUNT];
        struct err e = {0};
        char text[600];

        ct_case("%s", r->name);
        ASSERT_OK(scheme_layout(&r->scheme, r->rows, r->cols, parts, &e), e);
        layout_text(parts, text, sizeof text);
        EXPECT_STR_EQ(r->want, text);
    }
}

TEST(scheme, a_group_that_does_not_divide_the_width_is_refused_with_those_that_do)
{
    const struct scheme s = {INT4(128)};
    struct part_layout parts[PART_COUNT];
    struct err e = {0};

    EXPECT_FALSE(scheme_layout(&s, 64, 192, parts, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "group 128 does not divide the width 192 (groups that fit: 16, 32, 64)");
    EXPECT_FALSE(scheme_layout(&s, 64, 10, parts, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "none, but one group per row");
}

TEST(scheme, a_matrix_past_any_size_is_refused)
{
    const struct scheme s = {PLAIN(DTYPE_F32)};
    struct part_layout parts[PART_COUNT];
    struct err e = {0};

    EXPECT_FALSE(scheme_layout(&s, UINT64_MAX, 2, parts, &e));
    EXPECT_ERR(e, ERR_LIMIT, "past any size");
}

/* Whatever the cut, slices tile every part. */
TEST(scheme, slices_tile_each_part_without_a_gap)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        for (uint64_t step = 128; step <= 384; step += 128) {
            const struct layout_row *r = &layouts[i];
            struct part_layout parts[PART_COUNT];
            uint64_t next[PART_COUNT] = {0};
            struct err e = {0};
            bool per_tensor = r->scheme.kind == SCHEME_FP8_TENSOR;

            ct_case("%s, %d rows a slice", r->name, (int)step);
            ASSERT_OK(scheme_layout(&r->scheme, r->rows, r->cols, parts, &e), e);
            for (uint64_t row = 0; row < r->rows; row += step)
                for (enum part part = 0; part < PART_COUNT; part++) {
                    uint64_t offset, bytes, count = r->rows - row < step ? r->rows - row : step;
                    scheme_slice(&r->scheme, part, r->rows, r->cols, row, count, &offset, &bytes);
                    if (part == PART_INPUT_SCALE || (part == PART_SCALE && per_tensor)) {
                        EXPECT_EQ_U64(0, offset);
                        next[part] = bytes;
                        continue;
                    }
                    EXPECT_EQ_U64(part == PART_SHAPE || bytes == 0 ? 0 : next[part], offset);
                    next[part] += bytes;
                }
            for (enum part part = 0; part < PART_SHAPE; part++)
                EXPECT_EQ_U64(parts[part].bytes, next[part]);
            EXPECT_EQ_U64(0, next[PART_SHAPE]);
        }
}

TEST(scheme, a_slice_stands_where_arithmetic_says)
{
    static const struct row {
        const char *name;
        struct scheme scheme;
        enum part part;
        uint64_t rows, cols, row, count, offset, bytes;
    } rows[] = {
        /* clang-format off */
        {"bf16 rows", {PLAIN(DTYPE_BF16)}, PART_CODES, 10, 3, 4, 2, 24, 12},
        {"f4 in half bytes", {.kind = SCHEME_RAW, .dtype = DTYPE_F4}, PART_CODES, 8, 6, 2, 2, 6, 6},
        {"fp8 codes", {BLOCK(SCALE_F32)}, PART_CODES, 576, 7168, 512, 64, 512 * 7168, 64 * 7168},
        {"fp8 scales of the ragged last block", {BLOCK(SCALE_F32)}, PART_SCALE, 576, 7168, 512, 64, 4 * 56 * 4, 224},
        {"channel scales", {FP8(SCHEME_FP8_CHANNEL, SCALE_BF16)}, PART_SCALE, 300, 64, 7, 3, 14, 6},
        {"the one scale of a tensor", {FP8(SCHEME_FP8_TENSOR, SCALE_F32)}, PART_SCALE, 300, 64, 7, 3, 0, 4},
        {"packed words", {INT4(0)}, PART_CODES, 5, 10, 2, 3, 16, 24},
        {"group scales", {INT4(32)}, PART_SCALE, 16, 128, 3, 2, 24, 16},
        {"zero points of the last rows", {INT4(32), .asymmetric = true}, PART_ZERO_POINT, 20, 128, 16, 4, 32, 16},
        {"a part that is not there", {INT4(32)}, PART_ZERO_POINT, 16, 128, 8, 8, 0, 0},
        {"a shape is never cut", {INT4(32)}, PART_SHAPE, 16, 128, 8, 8, 0, 0},
        /* clang-format on */
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *r = &rows[i];
        uint64_t offset, bytes;
        ct_case("%s", r->name);
        scheme_slice(&r->scheme, r->part, r->rows, r->cols, r->row, r->count, &offset, &bytes);
        EXPECT_EQ_U64(r->offset, offset);
        EXPECT_EQ_U64(r->bytes, bytes);
    }
}

TEST(scheme, slices_begin_at_multiples_of_blocks_and_of_packed_zero_points)
{
    EXPECT_EQ_U64(128, scheme_row_multiple(&(struct scheme){BLOCK(SCALE_F32)}));
    EXPECT_EQ_U64(1, scheme_row_multiple(&(struct scheme){INT4(32)}));
    EXPECT_EQ_U64(8, scheme_row_multiple(&(struct scheme){INT4(32), .asymmetric = true}));
    EXPECT_EQ_U64(1, scheme_row_multiple(&(struct scheme){PLAIN(DTYPE_F16)}));
}

/* Split by rows and columns as ranks would have it: every byte is in one window, but scales of whole rows in each. */
TEST(scheme, windows_tile_each_part)
{
    static const struct {
        struct scheme scheme;
        uint64_t rows, cols, row_parts, col_parts;
    } cases[] = {
        {{PLAIN(DTYPE_BF16)}, 6, 10, 3, 5},
        {{BLOCK(SCALE_F32)}, 512, 384, 2, 3},
        {{FP8(SCHEME_FP8_CHANNEL, SCALE_BF16)}, 4, 8, 2, 4},
        {{FP8(SCHEME_FP8_TENSOR, SCALE_F32)}, 4, 8, 1, 4},
        {{INT4(32), .shape_i64 = true}, 4, 128, 2, 4},
        {{INT4(4), .shape_i64 = true}, 4, 128, 2, 16},
        {{INT4(32), .asymmetric = true}, 32, 128, 4, 2},
        {{INT4(0), .asymmetric = true}, 16, 128, 2, 16},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct scheme *s = &cases[i].scheme;
        uint64_t rows = cases[i].rows, cols = cases[i].cols, count = rows / cases[i].row_parts,
                 width = cols / cases[i].col_parts;
        for (enum part part = 0; part < PART_SHAPE; part++) {
            uint64_t offset, bytes;
            unsigned char seen[1 << 18] = {0};
            bool shared = part != PART_CODES && s->kind != SCHEME_FP8_BLOCK && s->group_cols == 0;
            ct_case("case %zu, part %d", i, (int)part);
            scheme_slice(s, part, rows, cols, 0, rows, &offset, &bytes);
            for (uint64_t row = 0; row < rows; row += count)
                for (uint64_t col = 0; col < cols; col += width) {
                    struct scheme_window w = scheme_window(s, part, rows, cols, row, count, col, width);
                    for (uint64_t line = 0; line < w.lines; line++)
                        for (uint64_t k = 0; k < w.line_bytes; k++)
                            seen[w.offset + line * w.stride_bytes + k]++;
                }
            for (uint64_t k = 0; k < sizeof seen; k++)
                if (seen[k] != (k >= bytes ? 0 : shared ? cases[i].col_parts : 1)) {
                    EXPECT_EQ_U64(k >= bytes ? 0 : shared ? cases[i].col_parts : 1, seen[k]);
                    break;
                }
        }
    }
}

TEST(scheme, bits_per_weight_count_scales_and_zero_points_but_not_the_shape)
{
    EXPECT_NEAR_F64(16, scheme_bits_per_weight(&(struct scheme){PLAIN(DTYPE_BF16)}, 64, 64), 0);
    EXPECT_NEAR_F64(4.5, scheme_bits_per_weight(&(struct scheme){INT4(32)}, 2048, 7168), 0);
    EXPECT_NEAR_F64(4.125, scheme_bits_per_weight(&(struct scheme){INT4(128), .shape_i64 = true}, 2048, 7168), 0);
    EXPECT_NEAR_F64(4.625, scheme_bits_per_weight(&(struct scheme){INT4(32), .asymmetric = true}, 2048, 7168), 0);
    EXPECT_NEAR_F64(8 + 32.0 / 16384, scheme_bits_per_weight(&(struct scheme){BLOCK(SCALE_F32)}, 2048, 7168), 1e-12);
    EXPECT_NEAR_F64(0, scheme_bits_per_weight(&(struct scheme){PLAIN(DTYPE_BF16)}, 0, 64), 0);
}

TEST(scheme, text_tells_storage_apart)
{
    static const struct row {
        const char *want;
        struct scheme scheme;
    } rows[] = {
        {"BF16", {PLAIN(DTYPE_BF16)}},
        {"I64", {.kind = SCHEME_RAW, .dtype = DTYPE_I64}},
        {"fp8 128x128", {BLOCK(SCALE_F32)}},
        {"fp8 128x128 pow2", {BLOCK(SCALE_F32_POW2)}},
        {"fp8 128x128 e8m0", {BLOCK(SCALE_E8M0)}},
        {"fp8 128x128 ct bf16", {BLOCK(SCALE_BF16), .compressed_tensors = true}},
        {"fp8 channel", {FP8(SCHEME_FP8_CHANNEL, SCALE_F32)}},
        {"fp8 tensor bf16", {FP8(SCHEME_FP8_TENSOR, SCALE_BF16)}},
        {"int4 g128", {INT4(128)}},
        {"int4 g32 asym", {INT4(32), .asymmetric = true}},
        {"int4 channel", {INT4(0)}},
    };
    char text[SCHEME_TEXT];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t j = 0; j < sizeof rows / sizeof rows[0]; j++) {
            ct_case("%s and %s", rows[i].want, rows[j].want);
            EXPECT_STR_EQ(rows[i].want, scheme_text(&rows[i].scheme, text));
            EXPECT_TRUE(scheme_same_storage(&rows[i].scheme, &rows[j].scheme) == (i == j));
        }
}

TEST(scheme, how_codes_were_chosen_does_not_change_the_storage)
{
    const struct scheme a = {INT4(32), .method = METHOD_SEARCH, .positive_scales = true};
    const struct scheme b = {INT4(32), .method = METHOD_ABSMAX};

    EXPECT_TRUE(scheme_same_storage(&a, &b));
}

TEST(scheme, every_kind_and_method_has_a_name)
{
    for (enum scheme_kind kind = 0; kind < SCHEME_KIND_COUNT; kind++)
        EXPECT_TRUE(scheme_kind_name(kind) != NULL);
    for (enum method method = 0; method < METHOD_COUNT; method++)
        EXPECT_TRUE(scheme_method_name(method) != NULL);
    EXPECT_STR_EQ("fp8_block", scheme_kind_name(SCHEME_FP8_BLOCK));
    EXPECT_STR_EQ("search", scheme_method_name(METHOD_SEARCH));
}
