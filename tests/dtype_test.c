#include "formats/dtype.h"

#include <string.h>

#include "formats/tensor.h"
#include "tests/ct.h"

TEST(dtype, every_row_is_filled_and_found_by_its_name)
{
    for (unsigned id = DTYPE_NONE + 1; id < DTYPE_COUNT; id++) {
        const struct dtype *d = dtype_get((enum dtype_id)id);
        ct_case("dtype %u", id);
        ASSERT_TRUE(d->name != NULL);
        EXPECT_EQ_I64(id, dtype_find(d->name));
        EXPECT_TRUE(d->block_elems > 0 && d->block_bytes > 0 && d->align > 0);
        EXPECT_TRUE(d->block_bytes * 8 % d->block_elems == 0);
    }
}

TEST(dtype, unknown_names_are_none)
{
    static const char *const names[] = {"", "f32", "F32 ", "F128", "NONE", "BF16\n"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ct_case("'%s'", names[i]);
        EXPECT_EQ_I64(DTYPE_NONE, dtype_find(names[i]));
    }
}

/* Bits per element as the specification of safetensors lists them. */
static const struct bits {
    const char *name;
    unsigned bits;
    bool is_float;
} bits_table[] = {
    {"BOOL", 8, false},   {"F4", 4, true},          {"F6_E2M3", 6, true},     {"F6_E3M2", 6, true},
    {"U8", 8, false},     {"I8", 8, false},         {"F8_E5M2", 8, true},     {"F8_E4M3", 8, true},
    {"F8_E8M0", 8, true}, {"F8_E4M3FNUZ", 8, true}, {"F8_E5M2FNUZ", 8, true}, {"I16", 16, false},
    {"U16", 16, false},   {"F16", 16, true},        {"BF16", 16, true},       {"I32", 32, false},
    {"U32", 32, false},   {"F32", 32, true},        {"C64", 64, true},        {"F64", 64, true},
    {"I64", 64, false},   {"U64", 64, false},
};

TEST(dtype, sizes_are_those_of_the_specification)
{
    EXPECT_EQ_U64(DTYPE_COUNT - 1, sizeof bits_table / sizeof bits_table[0]);
    for (size_t i = 0; i < sizeof bits_table / sizeof bits_table[0]; i++) {
        enum dtype_id id = dtype_find(bits_table[i].name);
        uint64_t bytes = 0;
        ct_case("%s", bits_table[i].name);
        ASSERT_TRUE(id != DTYPE_NONE);
        EXPECT_TRUE(dtype_bytes(id, 24, &bytes));
        EXPECT_EQ_U64(bits_table[i].bits * 3, bytes);
        EXPECT_TRUE(dtype_get(id)->is_float == bits_table[i].is_float);
    }
}

TEST(dtype, partial_blocks_and_overflows_are_refused)
{
    uint64_t bytes = 0;

    EXPECT_FALSE(dtype_bytes(DTYPE_F4, 7, &bytes));
    EXPECT_FALSE(dtype_bytes(DTYPE_F6_E2M3, 2, &bytes));
    EXPECT_FALSE(dtype_bytes(DTYPE_U8, UINT64_MAX / 8 + 1, &bytes));
    EXPECT_TRUE(dtype_bytes(DTYPE_U8, UINT64_MAX / 8, &bytes));
    EXPECT_EQ_U64(UINT64_MAX / 8, bytes);
    EXPECT_TRUE(dtype_bytes(DTYPE_F4, 0, &bytes));
    EXPECT_EQ_U64(0, bytes);
}

TEST(tensor, shapes_print_and_multiply)
{
    static const struct {
        uint32_t rank;
        uint64_t dims[TENSOR_RANK_MAX], elems;
        const char *text;
    } rows[] = {
        {0, {0}, 1, "[]"},
        {1, {5}, 5, "[5]"},
        {2, {7168, 2048}, 14680064, "[7168, 2048]"},
        {3, {2, 0, 3}, 0, "[2, 0, 3]"},
    };
    uint64_t huge[TENSOR_RANK_MAX];
    char text[TENSOR_SHAPE_TEXT];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tensor t = {.rank = rows[i].rank};
        memcpy(t.dims, rows[i].dims, sizeof t.dims);
        EXPECT_EQ_U64(rows[i].elems, tensor_elems(&t));
        EXPECT_STR_EQ(rows[i].text, tensor_shape_text(t.rank, t.dims, text));
    }
    memset(huge, 0xff, sizeof huge);
    EXPECT_EQ_U64(8 * 20 + 7 * 2 + 2, strlen(tensor_shape_text(TENSOR_RANK_MAX, huge, text)));
}
