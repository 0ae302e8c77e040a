#include "formats/base/direct.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tests/ct.h"

#define FILE_BYTES (((size_t)3 << 20) + 1234) /* the last page is a short one */

struct made_file {
    struct arena a;
    char *path;
    uint8_t *data, *memory, *room;
    struct file file;
};

static void make_file(struct made_file *m)
{
    struct err e = {0};

    *m = (struct made_file){.data = mem_alloc(FILE_BYTES), .memory = mem_aligned(FILE_BYTES + 3 * DIRECT_PAGE_BYTES)};
    m->path = path_join(&m->a, ct_temp_dir(), "f");
    m->room = m->memory + (DIRECT_PAGE_BYTES - (uintptr_t)m->memory % DIRECT_PAGE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++)
        m->data[i] = (uint8_t)((i * 2654435761u) >> 13);
    ASSERT_OK(file_write_whole(m->path, m->data, FILE_BYTES, &e), e);
    ASSERT_OK(file_open(&m->file, m->path, &e), e);
}

static void release_file(struct made_file *m)
{
    file_close(&m->file);
    mem_free(m->data);
    mem_free(m->memory);
    arena_release(&m->a);
}

/* What was written is on the disk already: the commit synced it. */
static void forget(const struct made_file *m)
{
    EXPECT_EQ_I64(0, posix_fadvise(m->file.fd_plus_1 - 1, 0, 0, POSIX_FADV_DONTNEED));
}

static size_t cached_pages(const struct made_file *m, uint64_t offset, uint64_t bytes)
{
    unsigned char there[FILE_BYTES / DIRECT_PAGE_BYTES + 1];
    void *map = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, m->file.fd_plus_1 - 1, 0);
    size_t count = 0;

    if (map == MAP_FAILED || mincore(map, FILE_BYTES, there) != 0)
        ct_true(__FILE__, __LINE__, "mincore", true, false);
    for (size_t i = offset / DIRECT_PAGE_BYTES; i * DIRECT_PAGE_BYTES < offset + bytes; i++)
        count += there[i] & 1;
    munmap(map, FILE_BYTES);
    return count;
}

static const struct {
    uint64_t offset, bytes;
} ranges[] = {
    {0, 4096},
    {4096, 8192},
    {0, 1},
    {1, 4095},
    {4095, 2},
    {100, 0},
    {5000, 100000},
    {0, FILE_BYTES},
    {1, FILE_BYTES - 1},
    {FILE_BYTES - 1, 1},
    {FILE_BYTES - 5000, 5000},
    {FILE_BYTES, 0},
    {FILE_BYTES / 4096 * 4096, FILE_BYTES % 4096},
};

/* cold, cached, without O_DIRECT, and with a descriptor that the system refuses to read from */
enum way { COLD, CACHED, WITHOUT, REFUSED, WAY_COUNT };

static void set_way(struct direct *d, const struct made_file *m, enum way way)
{
    if (way == CACHED)
        return;
    forget(m);
    if (way == COLD)
        return;
    close(d->fd_plus_1 - 1);
    d->fd_plus_1 = way == REFUSED ? open(m->path, O_WRONLY) + 1 : 0;
}

TEST(direct, any_range_is_what_the_file_holds_in_every_way_of_reading)
{
    struct made_file m;
    struct err e = {0};

    make_file(&m);
    for (enum way way = 0; way < WAY_COUNT; way++)
        for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
            uint64_t offset = ranges[i].offset, bytes = ranges[i].bytes, room = direct_room_bytes(offset, bytes);
            struct direct d;
            ct_case("way %d: %llu bytes at %llu", (int)way, (unsigned long long)bytes, (unsigned long long)offset);
            direct_open(&d, &m.file);
            ASSERT_TRUE(d.fd_plus_1 > 0);
            set_way(&d, &m, way);
            m.room[room] = 0xa5;
            EXPECT_OK(direct_read(&d, offset, bytes, m.room, &e), e);
            EXPECT_MEM_EQ(m.data + offset, m.room + offset % DIRECT_PAGE_BYTES, bytes);
            EXPECT_EQ_I64(0xa5, m.room[room]);
            direct_close(&d);
        }
    release_file(&m);
}

TEST(direct, what_is_cold_stays_out_of_the_page_cache)
{
    struct made_file m;
    struct statfs fs;
    struct direct d;
    struct err e = {0};

    make_file(&m);
    if (fstatfs(m.file.fd_plus_1 - 1, &fs) != 0 || fs.f_type == TMPFS_MAGIC) {
        release_file(&m);
        ct_skip("the folder for tests is in memory, where there is no disk to read from");
    }
    direct_open(&d, &m.file);
    forget(&m);
    EXPECT_OK(direct_read(&d, 5000, 2 << 20, m.room, &e), e);
    EXPECT_EQ_U64(0, cached_pages(&m, 5000, 2 << 20));
    EXPECT_OK(file_read(&m.file, 0, m.room, FILE_BYTES, &e), e);
    EXPECT_OK(direct_read(&d, 5000, 2 << 20, m.room, &e), e);
    EXPECT_MEM_EQ(m.data + 5000, m.room + 5000 % DIRECT_PAGE_BYTES, 2 << 20);
    direct_close(&d);
    direct_close(&d);
    release_file(&m);
}

TEST(direct, errors_are_those_of_reading_the_file)
{
    struct made_file m;
    struct direct d;
    struct err e = {0};

    make_file(&m);
    direct_open(&d, &m.file);
    EXPECT_FALSE(direct_read(&d, FILE_BYTES - 10, 11, m.room, &e));
    EXPECT_ERR(e, ERR_FORMAT, "read of 11 bytes at offset 3146952 ends past the file size 3146962");
    EXPECT_FALSE(direct_read(&d, UINT64_MAX, 2, m.room, &e));
    EXPECT_ERR(e, ERR_FORMAT, "ends past the file size");
    ASSERT_EQ_I64(0, truncate(m.path, 1 << 20));
    EXPECT_FALSE(direct_read(&d, 4096, 2 << 20, m.room, &e));
    EXPECT_ERR(e, ERR_IO, "was cut while it was read: it ends at 1048576 and had 3146962 bytes");
    EXPECT_STR_HAS(e.text, m.path);
    direct_close(&d);
    release_file(&m);
}

TEST(direct, a_file_that_took_the_name_is_not_read)
{
    struct made_file m;
    struct direct d;
    struct err e = {0};

    make_file(&m);
    ASSERT_OK(file_write_whole(m.path, "another", 7, &e), e);
    direct_open(&d, &m.file);
    EXPECT_EQ_I64(0, d.fd_plus_1);
    EXPECT_OK(direct_read(&d, 4096, 4096, m.room, &e), e);
    EXPECT_MEM_EQ(m.data + 4096, m.room, 4096);
    direct_close(&d);
    release_file(&m);
}
