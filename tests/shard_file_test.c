#include "convert/shard_file.h"

#include <string.h>

#include "formats/base/file.h"
#include "tests/convert_support.h"
#include "tests/ct.h"

#define FILE_BYTES 100000u

static uint8_t content[FILE_BYTES];

static void fill(void)
{
    uint32_t x = 1;

    for (size_t i = 0; i < sizeof content; i++) {
        x = x * 1664525u + 1013904223u;
        content[i] = (uint8_t)(x >> 24);
    }
}

static void give(struct shard_file *s, size_t offset, size_t bytes)
{
    struct err e = {0};

    EXPECT_OK(shard_file_write(s, offset, content + offset, bytes, &e), e);
    shard_file_hash(s, offset, content + offset, bytes);
}

static const struct buf head = {.data = (char *)content, .bytes = 100}, none = {0};

TEST(shard_file, the_hash_is_the_files_whatever_the_order_of_its_pieces)
{
    /* Where pieces of 100 + 9990 * k begin and end, in the order given. */
    static const unsigned char orders[][10] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
                                               {9, 8, 7, 6, 5, 4, 3, 2, 1, 0},
                                               {1, 0, 3, 2, 5, 4, 7, 6, 9, 8},
                                               {5, 9, 0, 2, 1, 7, 3, 4, 8, 6}};
    struct err e = {0};

    fill();
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        struct shard_file s = {0};
        struct arena a = {0};
        const char *dir = ct_temp_dir();
        char want[65];

        ct_case("order %zu", i);
        ASSERT_OK(shard_file_open(&s, path_join(&a, dir, "s"), FILE_BYTES, &head, &none, false, &e), e);
        EXPECT_FALSE(shard_file_complete(&s));
        for (size_t k = 0; k < 10; k++) {
            EXPECT_FALSE(shard_file_hashed(&s));
            shard_file_hand(&s);
            EXPECT_FALSE(shard_file_complete(&s));
            give(&s, 100 + 9990 * (size_t)orders[i][k], 9990);
        }
        EXPECT_TRUE(shard_file_hashed(&s) && !shard_file_complete(&s));
        shard_file_hand(&s);
        EXPECT_TRUE(shard_file_complete(&s));
        EXPECT_OK(shard_file_sync(&s, &e), e);
        EXPECT_FALSE(path_exists(path_join(&a, dir, "s")));
        ASSERT_OK(shard_file_commit(&s, &e), e);
        EXPECT_TRUE(s.done && !shard_file_complete(&s));
        support_file_hash(dir, "s", want);
        EXPECT_STR_EQ(want, s.sha256);
        hash_hex(content, FILE_BYTES, want);
        EXPECT_STR_EQ(want, s.sha256);
        shard_file_release(&s);
        shard_file_release(&s);
        arena_release(&a);
    }
}

/* Constants behind the weights are known, and written, before them. */
TEST(shard_file, last_bytes_that_are_known_first_are_hashed_last)
{
    const struct buf tail = {.data = (char *)content + FILE_BYTES - 9990, .bytes = 9990};
    struct shard_file s = {0};
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();
    char want[65];

    fill();
    ASSERT_OK(shard_file_open(&s, path_join(&a, dir, "s"), FILE_BYTES, &head, &tail, false, &e), e);
    for (size_t k = 0; k < 9; k++) {
        EXPECT_FALSE(shard_file_hashed(&s));
        give(&s, 100 + 9990 * k, 9990);
    }
    EXPECT_TRUE(shard_file_hashed(&s));
    ASSERT_OK(shard_file_commit(&s, &e), e);
    EXPECT_FALSE(s.hash.read_again);
    support_file_hash(dir, "s", want);
    EXPECT_STR_EQ(want, s.sha256);
    hash_hex(content, FILE_BYTES, want);
    EXPECT_STR_EQ(want, s.sha256);
    shard_file_release(&s);
    arena_release(&a);
}

TEST(shard_file, a_stash_that_is_full_has_the_file_read_again)
{
    size_t piece = STREAM_HASH_STASH_MAX / 2 + 4096;
    struct shard_file s = {0};
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();
    uint8_t *data = mem_aligned(piece);
    char x[] = "x";
    const struct buf one = {.data = x, .bytes = 1};
    char want[65];

    ASSERT_OK(shard_file_open(&s, path_join(&a, dir, "s"), 3 * piece + 1, &one, &none, false, &e), e);
    for (size_t k = 3; k > 0; k--) {
        memset(data, (int)k, piece);
        EXPECT_OK(shard_file_write(&s, 1 + (k - 1) * piece, data, piece, &e), e);
        shard_file_hash(&s, 1 + (k - 1) * piece, data, piece);
    }
    EXPECT_TRUE(s.hash.read_again);
    ASSERT_OK(shard_file_commit(&s, &e), e);
    support_file_hash(dir, "s", want);
    EXPECT_STR_EQ(want, s.sha256);
    shard_file_release(&s);
    mem_free(data);
    arena_release(&a);
}

TEST(shard_file, released_it_leaves_its_partial_file_to_the_next)
{
    struct shard_file s = {0};
    struct arena a = {0};
    struct err e = {0};
    const char *path = path_join(&a, ct_temp_dir(), "s");
    char hex[65];

    fill();
    ASSERT_OK(shard_file_open(&s, path, FILE_BYTES, &head, &none, false, &e), e);
    give(&s, 100, 50000);
    shard_file_release(&s);
    s = (struct shard_file){0};
    ASSERT_OK(shard_file_open(&s, path, FILE_BYTES, &head, &none, true, &e), e);
    shard_file_hash(&s, 100, content + 100, 50000); /* of the run before */
    give(&s, 50100, FILE_BYTES - 50100);
    ASSERT_OK(shard_file_commit(&s, &e), e);
    support_file_hash(path_parent(&a, path), "s", hex);
    EXPECT_STR_EQ(hex, s.sha256);
    shard_file_release(&s);
    arena_release(&a);
}
