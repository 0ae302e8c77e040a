#include "formats/base/mem.h"

#include <stdint.h>
#include <string.h>

#include "tests/ct.h"

TEST(arena, allocations_are_zeroed_aligned_and_apart)
{
    struct arena a = {0};
    unsigned char *before = NULL;
    uint64_t asked = 0;

    for (size_t bytes = 0; bytes < 3000; bytes += 7) {
        ct_case("%zu bytes", bytes);
        unsigned char *p = arena_alloc(&a, bytes);
        ASSERT_TRUE(p && p != before);
        EXPECT_EQ_U64(0, (uintptr_t)p % 16);
        for (size_t i = 0; i < bytes; i++)
            ASSERT_EQ_U64(0, p[i]);
        memset(p, 0xaa, bytes);
        before = p;
        asked += bytes;
    }
    EXPECT_EQ_U64(asked, a.used_bytes);
    arena_release(&a);
    EXPECT_EQ_U64(0, a.used_bytes);
    EXPECT_TRUE(a.chunks == NULL);
    arena_release(&a);
}

TEST(arena, large_allocations_do_not_end_the_chunk_being_filled)
{
    struct arena a = {0};
    char *small = arena_alloc(&a, 16);
    char *large = arena_alloc(&a, (size_t)8 << 20);
    char *next = arena_alloc(&a, 16);

    memset(large, 1, (size_t)8 << 20);
    EXPECT_TRUE(next > small && next - small <= 64);
    arena_release(&a);
}

TEST(arena, a_first_large_allocation_works_too)
{
    struct arena a = {0};
    size_t bytes = (size_t)1 << 20;

    memset(arena_array(&a, bytes / 8, 8), 1, bytes);
    EXPECT_STR_EQ("x", arena_strdup(&a, "x"));
    arena_release(&a);
}

TEST(arena, strings_are_copied_and_printed)
{
    struct arena a = {0};

    EXPECT_STR_EQ("abc", arena_strdup(&a, "abc"));
    EXPECT_STR_EQ("ab", arena_strndup(&a, "abc", 2));
    EXPECT_STR_EQ("abc", arena_strndup(&a, "abc", 9));
    EXPECT_STR_EQ("layer 7", arena_printf(&a, "layer %d", 7));
    EXPECT_STR_EQ("", arena_printf(&a, "%s", ""));
    arena_release(&a);
}

TEST(mem, heap_wrappers_take_zero_and_align)
{
    unsigned char *p = mem_alloc(100);

    for (size_t i = 0; i < 100; i++)
        EXPECT_EQ_U64(0, p[i]);
    p = mem_grow(p, 50, 8);
    memset(p, 1, 400);
    mem_free(p);
    mem_free(mem_alloc(0));
    mem_free(mem_grow(NULL, 0, 8));
    mem_free(NULL);
    for (size_t bytes = 0; bytes < 300; bytes += 13) {
        p = mem_aligned(bytes);
        EXPECT_EQ_U64(0, (uintptr_t)p % MEM_ALIGN);
        memset(p, 1, bytes);
        mem_free(p);
    }
}

TEST(buf, grows_and_always_ends_in_nul)
{
    struct buf b = {0};

    EXPECT_TRUE(b.data == NULL);
    buf_add(&b, NULL, 0);
    EXPECT_STR_EQ("", b.data);
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "%03d,", i);
    EXPECT_EQ_U64(4000, b.bytes);
    EXPECT_EQ_U64(0, (uint64_t)b.data[4000]);
    EXPECT_MEM_EQ("999,", b.data + 3996, 5);
    buf_puts(&b, "end");
    buf_add(&b, "\0x", 2);
    EXPECT_MEM_EQ("end\0x", b.data + 4000, 6);
    buf_release(&b);
    EXPECT_TRUE(b.data == NULL && b.bytes == 0 && b.room == 0);
    buf_release(&b);
}

TEST(mem, peak_follows_what_is_touched)
{
    uint64_t before = mem_peak_bytes();
    size_t bytes = (size_t)64 << 20;

    if (!before)
        ct_skip("no VmHWM on this system");
    char *p = mem_aligned(bytes);
    memset(p, 1, bytes);
    EXPECT_TRUE(mem_peak_bytes() >= bytes);
    mem_free(p);
    EXPECT_TRUE(mem_peak_bytes() >= before);
}

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

TEST(arena, the_sanitizer_sees_past_the_end_of_an_allocation)
{
    struct arena a = {0};

    for (size_t bytes = 1; bytes < 70; bytes++) {
        ct_case("%zu bytes", bytes);
        char *p = arena_alloc(&a, bytes);
        arena_alloc(&a, 1);
        EXPECT_FALSE(__asan_address_is_poisoned(p + bytes - 1));
        EXPECT_TRUE(__asan_address_is_poisoned(p + bytes));
    }
    arena_release(&a);
}
#endif
