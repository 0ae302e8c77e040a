#include "verify/stream.h"

#include <string.h>

#include "tests/ct.h"

static void fill(float *rows, size_t from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        rows[i] = (float)(from + i);
}

TEST(stream, in_memory_and_in_a_file_hold_the_same_rows)
{
    static const uint32_t some[3] = {4, 0, 2};

    for (uint64_t budget = 0; budget <= 120; budget += 120) {
        struct stream_store store = {.budget_bytes = budget, .dir = ct_temp_dir()};
        struct stream s = {0};
        struct err e = {0};
        float buffer[6 * 5], gathered[15];
        const float *rows;

        ct_case("%d bytes", (int)budget);
        ASSERT_OK(stream_open(&s, &store, 6, 5, &e), e);
        EXPECT_EQ_U64(budget == 120, s.memory != NULL);
        EXPECT_EQ_U64(budget == 120 ? 120 : 0, store.used_bytes);
        for (size_t t = 0; t < 6; t += 2) {
            float *to = stream_place(&s, t, buffer);
            fill(to, t * 5, 10);
            ASSERT_OK(stream_write(&s, t, 2, to, &e), e);
        }
        ASSERT_OK(stream_read(&s, 1, 4, buffer, &rows, &e), e);
        EXPECT_EQ_F32(5.0f, rows[0]);
        EXPECT_EQ_F32(24.0f, rows[19]);
        ASSERT_OK(stream_gather(&s, some, 3, gathered, &e), e);
        EXPECT_EQ_F32(20.0f, gathered[0]);
        EXPECT_EQ_F32(0.0f, gathered[5]);
        EXPECT_EQ_F32(14.0f, gathered[14]);
        stream_close(&s);
        stream_close(&s);
        EXPECT_EQ_U64(0, store.used_bytes);
    }
}

TEST(stream, one_of_the_same_shape_is_kept)
{
    struct stream_store store = {.budget_bytes = 1000};
    struct stream s = {0};
    struct err e = {0};

    ASSERT_OK(stream_fit(&s, &store, 3, 2, &e), e);
    float *memory = s.memory;
    memory[5] = 7.0f;
    ASSERT_OK(stream_fit(&s, &store, 3, 2, &e), e);
    EXPECT_TRUE(s.memory == memory && memory[5] == 7.0f);
    ASSERT_OK(stream_fit(&s, &store, 2, 2, &e), e);
    EXPECT_EQ_U64(16, store.used_bytes);
    stream_close(&s);
}

TEST(stream, a_folder_that_is_not_there_is_named)
{
    struct stream_store store = {.dir = "/nowhere"};
    struct stream s = {0};
    struct err e = {0};

    EXPECT_FALSE(stream_open(&s, &store, 6, 5, &e));
    EXPECT_ERR(e, ERR_IO, "scratch file in '/nowhere'");
    stream_close(&s);
}
