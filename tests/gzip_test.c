#include "formats/base/gzip.h"

#include <string.h>

#include "formats/base/file.h"
#include "tests/ct.h"

/* `printf 'hello, gzip\n' | gzip -n9`, GNU gzip 1.12. */
static const unsigned char hello[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xcb,
                                      0x48, 0xcd, 0xc9, 0xc9, 0xd7, 0x51, 0x48, 0xaf, 0xca, 0x2c, 0xe0,
                                      0x02, 0x00, 0x86, 0x1f, 0x82, 0xa4, 0x0c, 0x00, 0x00, 0x00};

static void fill(unsigned char *data, size_t bytes)
{
    uint32_t state = 1;

    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (unsigned char)(i % 3 ? state >> 24 : 'a');
    }
}

TEST(gzip, unpacks_what_gnu_gzip_packed)
{
    struct buf out = {0};
    struct err e = {0};

    EXPECT_TRUE(gzip_is(hello, sizeof hello));
    ASSERT_OK(gzip_unpack(&out, hello, sizeof hello, 1000, &e), e);
    EXPECT_STR_EQ("hello, gzip\n", out.data);
    EXPECT_EQ_U64(12, out.bytes);
    buf_release(&out);
}

TEST(gzip, round_trips_of_many_sizes)
{
    static const size_t sizes[] = {0, 1, 2, 1000, 65535, 65536, 65537, 131072, 1 << 20};
    unsigned char *data = mem_alloc(1 << 20);
    struct err e = {0};

    fill(data, 1 << 20);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct buf packed = {0}, again = {0}, out = {0};

        ct_case("%zu bytes", sizes[s]);
        EXPECT_OK(gzip_pack(&packed, data, sizes[s], &e), e);
        EXPECT_OK(gzip_pack(&again, data, sizes[s], &e), e);
        EXPECT_EQ_U64(packed.bytes, again.bytes);
        EXPECT_MEM_EQ(packed.data, again.data, packed.bytes);
        EXPECT_OK(gzip_unpack(&out, packed.data, packed.bytes, sizes[s], &e), e);
        EXPECT_EQ_U64(sizes[s], out.bytes);
        EXPECT_MEM_EQ(data, out.data, sizes[s]);
        buf_release(&packed);
        buf_release(&again);
        buf_release(&out);
    }
    mem_free(data);
}

TEST(gzip, the_header_holds_no_time_name_or_system)
{
    static const unsigned char head[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255};
    struct buf packed = {0};
    struct err e = {0};

    ASSERT_OK(gzip_pack(&packed, "x", 1, &e), e);
    EXPECT_MEM_EQ(head, packed.data, sizeof head);
    buf_release(&packed);
}

TEST(gzip, every_truncation_is_refused_and_leaves_the_buffer_as_it_was)
{
    for (size_t bytes = 0; bytes < sizeof hello; bytes++) {
        struct buf out = {0};
        struct err e = {0};

        ct_case("%zu bytes", bytes);
        buf_puts(&out, "before");
        EXPECT_FALSE(gzip_unpack(&out, hello, bytes, 1000, &e));
        EXPECT_ERR(e, ERR_FORMAT, "gzip stream ends early");
        EXPECT_STR_EQ("before", out.data);
        EXPECT_EQ_U64(6, out.bytes);
        buf_release(&out);
    }
}

TEST(gzip, a_bomb_stops_at_the_limit)
{
    size_t bytes = (size_t)32 << 20;
    char *zeros = mem_alloc(bytes);
    struct buf packed = {0}, out = {0};
    struct err e = {0};

    ASSERT_OK(gzip_pack(&packed, zeros, bytes, &e), e);
    EXPECT_TRUE(packed.bytes < 100000);
    EXPECT_FALSE(gzip_unpack(&out, packed.data, packed.bytes, bytes - 1, &e));
    EXPECT_ERR(e, ERR_LIMIT, "more than the limit of 33554431 bytes");
    EXPECT_FALSE(gzip_unpack(&out, packed.data, packed.bytes, 0, &e));
    EXPECT_ERR(e, ERR_LIMIT, "more than the limit of 0 bytes");
    EXPECT_OK(gzip_unpack(&out, packed.data, packed.bytes, bytes, &e), e);
    buf_release(&packed);
    buf_release(&out);
    mem_free(zeros);
}

TEST(gzip, bytes_behind_the_end_are_refused)
{
    struct buf two = {0}, out = {0};
    struct err e = {0};

    buf_add(&two, hello, sizeof hello);
    buf_puts(&two, "junk");
    EXPECT_FALSE(gzip_unpack(&out, two.data, two.bytes, 1000, &e));
    EXPECT_ERR(e, ERR_FORMAT, "4 bytes behind the end");
    buf_release(&two);
    buf_release(&out);
}

TEST(gzip, a_flipped_bit_anywhere_that_matters_is_noticed)
{
    unsigned char bad[sizeof hello];
    struct err e = {0};

    /* Bytes 4 to 9 are time, flags and system, and byte 23 ends in padding: nothing checks those. */
    for (size_t at = 0; at < sizeof bad; at++) {
        struct buf out = {0};

        if ((at >= 4 && at < 10) || at == 23)
            continue;
        ct_case("byte %zu", at);
        memcpy(bad, hello, sizeof bad);
        bad[at] ^= 0x40;
        EXPECT_FALSE(gzip_unpack(&out, bad, sizeof bad, 1000, &e));
        EXPECT_ERR(e, ERR_FORMAT, "gzip stream");
        buf_release(&out);
    }
}

TEST(gzip, slurp_takes_both_kinds_and_names_the_file)
{
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();
    char *packed = path_join(&a, dir, "x.gz"), *plain = path_join(&a, dir, "x"), *bad = path_join(&a, dir, "bad");
    char *data = NULL;
    size_t bytes = 0;

    ASSERT_OK(file_write_whole(packed, hello, sizeof hello, &e), e);
    ASSERT_OK(file_write_whole(plain, "plain", 5, &e), e);
    ASSERT_OK(file_write_whole(bad, hello, 15, &e), e);
    ASSERT_OK(gzip_slurp(packed, 100, &data, &bytes, &e), e);
    EXPECT_STR_EQ("hello, gzip\n", data);
    EXPECT_EQ_U64(12, bytes);
    mem_free(data);
    ASSERT_OK(gzip_slurp(plain, 100, &data, &bytes, &e), e);
    EXPECT_STR_EQ("plain", data);
    mem_free(data);
    EXPECT_FALSE(gzip_slurp(bad, 100, &data, &bytes, &e));
    EXPECT_ERR(e, ERR_FORMAT, bad);
    EXPECT_FALSE(gzip_slurp(plain, 4, &data, &bytes, &e));
    EXPECT_ERR(e, ERR_LIMIT, "more than the limit of 4");
    arena_release(&a);
}
