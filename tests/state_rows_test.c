#include "verify/state_rows.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "tests/kernel_support.h"
#include "verify/golden.h"

enum { TOKENS = 150, WIDTH = 24 };

static void open_state(struct stream *s, struct stream_store *store, uint64_t seed)
{
    struct err e = {0};
    static float rows[TOKENS * WIDTH];

    ASSERT_OK(stream_open(s, store, TOKENS, WIDTH, &e), e);
    support_floats(rows, (size_t)TOKENS * WIDTH, &seed, -3, 3);
    ASSERT_OK(stream_write(s, 0, TOKENS, rows, &e), e);
}

static const float *all_rows(const struct stream *s, float *buffer)
{
    const float *rows = NULL;
    struct err e = {0};

    EXPECT_OK(stream_read(s, 0, TOKENS, buffer, &rows, &e), e);
    return rows;
}

/* In memory and in a file, with any number of threads: the numbers of state_compare, row by row. */
TEST(state_rows, comparing_states_is_comparing_their_rows)
{
    static float buffers[3][TOKENS * WIDTH];

    for (int in_file = 0; in_file < 2; in_file++)
        for (unsigned threads = 1; threads <= 7; threads += 3) {
            struct stream_store store = {.budget_bytes = in_file ? 0 : 1 << 30, .dir = ct_temp_dir()};
            struct stream s[3] = {0};
            struct state_error got[TOKENS], want;
            struct err e = {0};
            const float *rows[3];
            for (size_t i = 0; i < 3; i++) {
                open_state(&s[i], &store, 10 + i);
                rows[i] = all_rows(&s[i], buffers[i]);
            }
            ct_case("%u threads, %s", threads, in_file ? "file" : "memory");
            ASSERT_OK(states_compare(threads, &s[0], &s[1], &s[2], TOKENS, got, &e), e);
            for (size_t t = 0; t < TOKENS; t++) {
                state_compare(&want, rows[0] + t * WIDTH, rows[1] + t * WIDTH, rows[2] + t * WIDTH, WIDTH);
                EXPECT_MEM_EQ(&want, &got[t], offsetof(struct state_error, same));
                EXPECT_FALSE(got[t].same);
            }
            for (size_t i = 0; i < 3; i++)
                stream_close(&s[i]);
        }
}

TEST(state_rows, the_first_rows_are_copied)
{
    static float from_buffer[TOKENS * WIDTH], to_buffer[TOKENS * WIDTH];
    struct stream_store store = {.budget_bytes = 1 << 30, .dir = ct_temp_dir()};
    struct stream from = {0}, to = {0};
    struct err e = {0};
    const float *rows = NULL;

    open_state(&from, &store, 1);
    ASSERT_OK(stream_open(&to, &store, 100, WIDTH, &e), e);
    ASSERT_OK(states_copy(2, &from, &to, &e), e);
    ASSERT_OK(stream_read(&to, 0, 100, to_buffer, &rows, &e), e);
    EXPECT_MEM_EQ(all_rows(&from, from_buffer), rows, (size_t)100 * WIDTH * sizeof *rows);
    stream_close(&to);
    stream_close(&from);
}

TEST(state_rows, a_nudge_is_one_unit_in_the_last_place)
{
    static float before[TOKENS * WIDTH], buffer[TOKENS * WIDTH];
    size_t up = 0, down = 0, still = 0;
    struct stream_store store = {.budget_bytes = 1 << 30, .dir = ct_temp_dir()};
    struct stream s = {0};
    struct err e = {0};

    open_state(&s, &store, 3);
    memcpy(before, all_rows(&s, buffer), sizeof before);
    before[0] = 0;
    before[1] = -3.4028234e38f; /* the largest there is: a step up would be infinite */
    ASSERT_OK(stream_write(&s, 0, TOKENS, before, &e), e);
    ASSERT_OK(states_nudge(3, &s, 5, &e), e);
    const float *after = all_rows(&s, buffer);
    EXPECT_TRUE(after[0] == 0 && after[1] == before[1]);
    for (size_t i = 2; i < (size_t)TOKENS * WIDTH; i++) {
        still += after[i] == before[i] && before[i] != 0;
        up += before[i] != 0 && fabsf(after[i]) > fabsf(before[i]);
        down += before[i] != 0 && fabsf(after[i]) < fabsf(before[i]);
        int64_t apart = (int64_t)float_bits(after[i]) - (int64_t)float_bits(before[i]);
        EXPECT_TRUE(apart >= -1 && apart <= 1);
    }
    /* A half stays, a quarter each goes up and down; five standard deviations of a fair draw. */
    double n = (double)(up + down + still), five = 5 * sqrt(n / 4);
    EXPECT_NEAR_F64(n / 2, (double)still, five);
    EXPECT_NEAR_F64(n / 4, (double)up, five);
    EXPECT_NEAR_F64(n / 4, (double)down, five);
    stream_close(&s);
}

TEST(state_rows, projections_are_by_context)
{
    static float buffer[TOKENS * WIDTH];
    static const struct sequence contexts[] = {{0, 70, 0}, {70, 80, 0}};
    struct batch batch = {.tokens = TOKENS, .sequences = contexts, .sequence_count = 2};
    struct stream_store store = {.budget_bytes = 1 << 30, .dir = ct_temp_dir()};
    struct stream s = {0};
    struct err e = {0};
    float got[2 * GOLDEN_PROJECTIONS];

    open_state(&s, &store, 4);
    ASSERT_OK(states_project(2, &s, &batch, got, &e), e);
    const float *rows = all_rows(&s, buffer);
    for (size_t c = 0; c < 2; c++) {
        double want[GOLDEN_PROJECTIONS] = {0};
        for (size_t t = 0; t < contexts[c].tokens; t++)
            golden_project(want, t, rows + (contexts[c].first + t) * WIDTH, WIDTH);
        for (size_t k = 0; k < GOLDEN_PROJECTIONS; k++)
            EXPECT_EQ_F32((float)want[k], got[c * GOLDEN_PROJECTIONS + k]);
    }
    stream_close(&s);
}
