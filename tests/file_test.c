#include "formats/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/base/pool.h"
#include "tests/ct.h"

static void write_text(const char *path, const char *text)
{
    struct err e = {0};

    EXPECT_OK(file_write_whole(path, text, strlen(text), &e), e);
}

static void expect_text(const char *want, const char *path)
{
    struct err e = {0};
    char *got = NULL;
    size_t bytes = 0;

    ASSERT_OK(file_slurp(path, 1 << 20, &got, &bytes, &e), e);
    EXPECT_STR_EQ(want, got);
    EXPECT_EQ_U64(strlen(want), bytes);
    mem_free(got);
}

/* Reading */

TEST(file, reads_inside_and_refuses_past_the_end)
{
    struct arena a = {0};
    struct file f = {0};
    struct err e = {0};
    char got[16] = "";
    char *path = path_join(&a, ct_temp_dir(), "f");

    write_text(path, "0123456789");
    ASSERT_OK(file_open(&f, path, &e), e);
    EXPECT_EQ_U64(10, f.bytes);
    EXPECT_OK(file_read(&f, 3, got, 4, &e), e);
    EXPECT_STR_EQ("3456", got);
    EXPECT_OK(file_read(&f, 10, got, 0, &e), e);
    EXPECT_FALSE(file_read(&f, 8, got, 3, &e));
    EXPECT_ERR(e, ERR_FORMAT, "read of 3 bytes at offset 8 ends past the file size 10");
    EXPECT_STR_HAS(e.text, path);
    EXPECT_FALSE(file_read(&f, UINT64_MAX, got, 2, &e));
    EXPECT_ERR(e, ERR_FORMAT, "read of 2 bytes at offset 18446744073709551615 ends past the file size 10");
    EXPECT_FALSE(file_read(&f, 2, got, SIZE_MAX, &e));
    file_close(&f);
    file_close(&f);
    arena_release(&a);
}

TEST(file, a_file_cut_while_open_is_an_error_that_names_it)
{
    struct arena a = {0};
    struct file f = {0};
    struct err e = {0};
    char got[16];
    char *path = path_join(&a, ct_temp_dir(), "f");

    write_text(path, "0123456789");
    ASSERT_OK(file_open(&f, path, &e), e);
    ASSERT_EQ_I64(0, truncate(path, 4));
    EXPECT_FALSE(file_read(&f, 0, got, 10, &e));
    EXPECT_ERR(e, ERR_IO, "was cut while it was read: it ends at 4 and had 10 bytes");
    file_close(&f);
    arena_release(&a);
}

TEST(file, only_regular_files_are_opened)
{
    struct arena a = {0};
    struct file f = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();
    char *fifo = path_join(&a, dir, "fifo"), *link_path = path_join(&a, dir, "link"), *plain = path_join(&a, dir, "f");

    EXPECT_FALSE(file_open(&f, dir, &e));
    EXPECT_ERR(e, ERR_FORMAT, "is a folder, not a regular file");
    ASSERT_EQ_I64(0, mkfifo(fifo, 0600));
    EXPECT_FALSE(file_open(&f, fifo, &e));
    EXPECT_ERR(e, ERR_FORMAT, "is a special file, not a regular file");
    EXPECT_FALSE(file_open(&f, path_join(&a, dir, "absent"), &e));
    EXPECT_ERR(e, ERR_IO, "cannot open '");
    EXPECT_EQ_I64(ENOENT, e.sys);
    write_text(plain, "x");
    ASSERT_EQ_I64(0, symlink("f", link_path));
    EXPECT_OK(file_open(&f, link_path, &e), e);
    file_close(&f);
    arena_release(&a);
}

TEST(file, slurp_ends_in_nul_and_keeps_its_limit)
{
    struct arena a = {0};
    struct err e = {0};
    char *data = NULL, *path = path_join(&a, ct_temp_dir(), "f");
    size_t bytes = 0;

    write_text(path, "12345");
    ASSERT_OK(file_slurp(path, 5, &data, &bytes, &e), e);
    EXPECT_STR_EQ("12345", data);
    mem_free(data);
    EXPECT_FALSE(file_slurp(path, 4, &data, &bytes, &e));
    EXPECT_ERR(e, ERR_LIMIT, "has 5 bytes, more than the limit of 4");
    write_text(path, "");
    ASSERT_OK(file_slurp(path, 0, &data, &bytes, &e), e);
    EXPECT_STR_EQ("", data);
    EXPECT_EQ_U64(0, bytes);
    mem_free(data);
    arena_release(&a);
}

/* Writing */

struct output_names {
    struct arena a;
    char *final, *partial;
};

static struct output_names output_names(void)
{
    struct output_names n = {0};

    n.final = path_join(&n.a, ct_temp_dir(), "out");
    n.partial = arena_printf(&n.a, "%s.partial", n.final);
    return n;
}

TEST(output, the_final_name_appears_with_commit_only)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};
    struct stat st;

    write_text(n.final, "the old one");
    ASSERT_OK(output_open(&o, n.final, 10, false, &e), e);
    EXPECT_STR_EQ(n.partial, o.partial_path);
    ASSERT_EQ_I64(0, stat(n.partial, &st));
    EXPECT_EQ_I64(10, st.st_size);
    EXPECT_OK(output_write(&o, 5, "world", 5, &e), e);
    EXPECT_OK(output_write(&o, 0, "hello", 5, &e), e);
    EXPECT_OK(output_sync(&o, &e), e);
    expect_text("the old one", n.final);
    ASSERT_OK(output_commit(&o, &e), e);
    expect_text("helloworld", n.final);
    EXPECT_FALSE(path_exists(n.partial));
    output_release(&o);
    expect_text("helloworld", n.final);
    arena_release(&n.a);
}

TEST(output, release_removes_the_partial_file_and_spares_the_old_one)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};

    write_text(n.final, "the old one");
    ASSERT_OK(output_open(&o, n.final, 10, false, &e), e);
    output_release(&o);
    EXPECT_FALSE(path_exists(n.partial));
    expect_text("the old one", n.final);
    output_release(&o);
    arena_release(&n.a);
}

TEST(output, keep_leaves_the_partial_file_and_resume_goes_on_with_it)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};

    ASSERT_OK(output_open(&o, n.final, 6, false, &e), e);
    ASSERT_OK(output_write(&o, 0, "abc", 3, &e), e);
    o.keep = true;
    output_release(&o);
    EXPECT_TRUE(path_exists(n.partial));
    EXPECT_FALSE(path_exists(n.final));
    ASSERT_OK(output_open(&o, n.final, 6, true, &e), e);
    ASSERT_OK(output_write(&o, 3, "def", 3, &e), e);
    ASSERT_OK(output_commit(&o, &e), e);
    expect_text("abcdef", n.final);
    arena_release(&n.a);
}

TEST(output, resume_of_a_longer_one_is_cut_and_without_resume_all_is_new)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};

    write_text(n.partial, "abcdefgh");
    ASSERT_OK(output_open(&o, n.final, 3, true, &e), e);
    ASSERT_OK(output_commit(&o, &e), e);
    expect_text("abc", n.final);
    write_text(n.partial, "abcdefgh");
    ASSERT_OK(output_open(&o, n.final, 2, false, &e), e);
    ASSERT_OK(output_write(&o, 1, "x", 1, &e), e);
    ASSERT_OK(output_commit(&o, &e), e);
    char *got = NULL;
    size_t bytes = 0;
    ASSERT_OK(file_slurp(n.final, 10, &got, &bytes, &e), e);
    EXPECT_EQ_U64(2, bytes);
    EXPECT_MEM_EQ("\0x", got, 2);
    mem_free(got);
    arena_release(&n.a);
}

TEST(output, a_second_writer_is_refused_and_does_no_harm)
{
    struct output_names n = output_names();
    struct output first = {0}, second = {0};
    struct err e = {0};

    ASSERT_OK(output_open(&first, n.final, 5, false, &e), e);
    ASSERT_OK(output_write(&first, 0, "first", 5, &e), e);
    EXPECT_FALSE(output_open(&second, n.final, 5, false, &e));
    EXPECT_ERR(e, ERR_IO, "is being written by another process");
    output_release(&second);
    EXPECT_TRUE(path_exists(n.partial));
    ASSERT_OK(output_commit(&first, &e), e);
    expect_text("first", n.final);
    arena_release(&n.a);
}

TEST(output, where_nothing_can_be_made_the_error_says_so)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};

    /* Below a file: refused to root too, unlike a folder without the write bit. */
    write_text(n.final, "a file");
    EXPECT_FALSE(output_open(&o, path_join(&n.a, n.final, "below"), 1, false, &e));
    EXPECT_ERR(e, ERR_IO, "cannot create '");
    EXPECT_EQ_I64(ENOTDIR, e.sys);
    output_release(&o);
    EXPECT_FALSE(output_open(&o, "/proc/quern", 1, false, &e));
    EXPECT_ERR(e, ERR_IO, "cannot create '/proc/quern.partial'");
    output_release(&o);
    EXPECT_FALSE(output_open(&o, n.final, UINT64_MAX, false, &e));
    EXPECT_ERR(e, ERR_LIMIT, "no file system has files of");
    output_release(&o);
    arena_release(&n.a);
}

/* Root's rename would put a file in the place of /dev/null. A fifo stands for it, and a link as /dev/stdout is one. */
TEST(output, a_folder_a_device_or_a_pipe_of_the_name_is_refused_before_the_work_and_spared)
{
    struct output_names n = output_names();
    const char *fifo = path_join(&n.a, path_parent(&n.a, n.final), "fifo");
    const char *link_to_fd = path_join(&n.a, path_parent(&n.a, n.final), "stdout");
    const struct {
        const char *path, *message;
    } refused[] = {
        {path_parent(&n.a, n.final), "is a folder, not a regular file"},
        {fifo, "is a device or pipe, not a regular file"},
        {"/dev/null", "is a device or pipe, not a regular file"},
        {link_to_fd, "is a device or pipe, not a regular file"},
    };

    write_text(n.final, "a file");
    int fd = open(n.final, O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    EXPECT_EQ_I64(0, mkfifo(fifo, 0600));
    EXPECT_EQ_I64(0, symlink(arena_printf(&n.a, "/proc/self/fd/%d", fd), link_to_fd));
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct output o = {0};
        struct err e = {0};
        ct_case("%s", refused[i].path);
        EXPECT_FALSE(output_check(refused[i].path, &e));
        EXPECT_ERR(e, ERR_USAGE, refused[i].message);
        e = (struct err){0};
        EXPECT_FALSE(output_open(&o, refused[i].path, 1, false, &e));
        EXPECT_ERR(e, ERR_USAGE, refused[i].message);
        output_release(&o);
        EXPECT_FALSE(path_exists(arena_printf(&n.a, "%s" FILE_PARTIAL_SUFFIX, refused[i].path)));
    }
    close(fd);

    struct err e = {0};
    ct_case("what may be made");
    EXPECT_OK(output_check(n.final, &e), e);
    EXPECT_OK(output_check(arena_printf(&n.a, "%s.new", n.final), &e), e);
    EXPECT_FALSE(output_check(path_join(&n.a, n.final, "below"), &e));
    EXPECT_ERR(e, ERR_IO, "cannot create '");
    arena_release(&n.a);
}

TEST(output, a_link_or_a_fifo_in_the_place_of_the_partial_file_is_not_written_to)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};

    write_text(n.final, "precious");
    ASSERT_EQ_I64(0, symlink("out", n.partial));
    EXPECT_FALSE(output_open(&o, n.final, 1, false, &e));
    EXPECT_ERR(e, ERR_IO, "cannot create '");
    expect_text("precious", n.final);
    ASSERT_EQ_I64(0, unlink(n.partial));
    ASSERT_EQ_I64(0, mkfifo(n.partial, 0600));
    EXPECT_FALSE(output_open(&o, n.final, 1, false, &e));
    EXPECT_EQ_I64(ERR_IO, e.code);
    EXPECT_TRUE(path_exists(n.partial));
    arena_release(&n.a);
}

TEST(output, a_rename_that_fails_leaves_no_partial_file)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};

    ASSERT_OK(output_open(&o, n.final, 1, false, &e), e);
    ASSERT_OK(dir_make(path_join(&n.a, n.final, "sub"), &e), e); /* meanwhile */
    EXPECT_FALSE(output_commit(&o, &e));
    EXPECT_ERR(e, ERR_IO, "cannot rename '");
    EXPECT_FALSE(path_exists(n.partial));
    output_release(&o);
    arena_release(&n.a);
}

static bool write_stripe(void *ctx, size_t job, unsigned worker, struct err *e)
{
    char stripe[100];

    (void)worker;
    memset(stripe, 'a' + (int)(job % 26), sizeof stripe);
    return output_write(ctx, job * sizeof stripe, stripe, sizeof stripe, e);
}

TEST(output, threads_write_disjoint_ranges)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};
    char *got = NULL;
    size_t bytes = 0;

    ASSERT_OK(output_open(&o, n.final, 100000, false, &e), e);
    ASSERT_OK(pool_run(7, 1000, write_stripe, &o, &e), e);
    ASSERT_OK(output_commit(&o, &e), e);
    ASSERT_OK(file_slurp(n.final, 100000, &got, &bytes, &e), e);
    for (size_t i = 0; i < bytes; i++)
        ASSERT_EQ_I64('a' + (int)(i / 100 % 26), got[i]);
    mem_free(got);
    arena_release(&n.a);
}

TEST(output, a_full_disk_is_known_when_the_file_is_opened)
{
    struct output_names n = output_names();
    struct output o = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();

    if (mount("quern-test", dir, "tmpfs", 0, "size=1m") != 0)
        ct_skip("mounting a small tmpfs: %s", strerror(errno));
    char *path = path_join(&n.a, dir, "out");
    write_text(path, "the old one");
    EXPECT_FALSE(output_open(&o, path, 2 << 20, false, &e));
    EXPECT_ERR(e, ERR_IO, "cannot reserve 2097152 bytes for '");
    EXPECT_EQ_I64(ENOSPC, e.sys);
    output_release(&o);
    expect_text("the old one", path);
    EXPECT_FALSE(path_exists(arena_printf(&n.a, "%s.partial", path)));
    uint64_t free_bytes = 0;
    EXPECT_OK(path_free_bytes(path_join(&n.a, dir, "not/there/yet"), &free_bytes, &e), e);
    EXPECT_TRUE(free_bytes > 900000 && free_bytes <= 1 << 20);
    EXPECT_OK(output_open(&o, path, 500000, false, &e), e);
    output_release(&o);
    EXPECT_EQ_I64(0, umount(dir));
    arena_release(&n.a);
}

TEST(file, copy_is_whole_and_replaces)
{
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();
    char *from = path_join(&a, dir, "from"), *to = path_join(&a, dir, "to");
    size_t bytes = ((size_t)9 << 20) + 12345, got_bytes = 0;
    char *data = mem_alloc(bytes), *got = NULL;

    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)(i * 2654435761u >> 13);
    write_text(to, "old");
    ASSERT_OK(file_write_whole(from, data, bytes, &e), e);
    ASSERT_OK(file_copy(from, to, &e), e);
    ASSERT_OK(file_slurp(to, bytes, &got, &got_bytes, &e), e);
    EXPECT_EQ_U64(bytes, got_bytes);
    EXPECT_MEM_EQ(data, got, bytes);
    EXPECT_FALSE(file_copy(path_join(&a, dir, "absent"), to, &e));
    EXPECT_ERR(e, ERR_IO, "copying '");
    write_text(from, "");
    EXPECT_OK(file_copy(from, to, &e), e);
    expect_text("", to);
    mem_free(data);
    mem_free(got);
    arena_release(&a);
}

/* Paths and folders */

static const struct path_row {
    const char *path, *base, *parent;
} path_rows[] = {
    {"a", "a", "."},   {"a/b", "b", "a"},     {"/a", "a", "/"},   {"/a/b", "b", "/a"}, {"/", "/", "/"},
    {"//", "/", "/"},  {"a/b/", "b/", "a"},   {"a//b", "b", "a"}, {"a/", "a/", "."},   {"/a/", "a/", "/"},
    {"./a", "a", "."}, {"a/b/c", "c", "a/b"}, {"", "", "."},
};

TEST(path, base_and_parent)
{
    struct arena a = {0};

    for (size_t r = 0; r < sizeof path_rows / sizeof path_rows[0]; r++) {
        ct_case("'%s'", path_rows[r].path);
        EXPECT_STR_EQ(path_rows[r].base, path_base(path_rows[r].path));
        EXPECT_STR_EQ(path_rows[r].parent, path_parent(&a, path_rows[r].path));
    }
    arena_release(&a);
}

TEST(path, join_puts_one_slash)
{
    struct arena a = {0};

    EXPECT_STR_EQ("a/b", path_join(&a, "a", "b"));
    EXPECT_STR_EQ("a/b", path_join(&a, "a/", "b"));
    EXPECT_STR_EQ("/b", path_join(&a, "/", "b"));
    EXPECT_STR_EQ("b", path_join(&a, "", "b"));
    arena_release(&a);
}

TEST(path, questions_about_what_is_there)
{
    struct arena a = {0};
    const char *dir = ct_temp_dir();
    char *f = path_join(&a, dir, "f"), *hard = path_join(&a, dir, "hard"), *dangling = path_join(&a, dir, "dangling");

    EXPECT_FALSE(path_exists(f));
    EXPECT_TRUE(dir_is_empty(dir));
    write_text(f, "x");
    ASSERT_EQ_I64(0, link(f, hard));
    ASSERT_EQ_I64(0, symlink("nowhere", dangling));
    EXPECT_TRUE(path_exists(f) && path_exists(dangling));
    EXPECT_TRUE(path_is_dir(dir) && !path_is_dir(f) && !path_is_dir(dangling));
    EXPECT_TRUE(path_same(f, hard) && !path_same(f, dir) && !path_same(f, dangling));
    EXPECT_FALSE(dir_is_empty(dir));
    EXPECT_FALSE(dir_is_empty(f));
    EXPECT_FALSE(dir_is_empty(path_join(&a, dir, "absent")));
    arena_release(&a);
}

TEST(dir, made_with_parents_listed_in_order_and_removed_with_everything)
{
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();
    char *top = path_join(&a, dir, "top"), *deep = path_join(&a, dir, "top/b//c/"), *outside = path_join(&a, dir, "o");
    char **names = NULL;
    size_t count = 0;

    ASSERT_OK(dir_make(deep, &e), e);
    EXPECT_OK(dir_make(deep, &e), e);
    EXPECT_TRUE(path_is_dir(deep));
    ASSERT_OK(dir_make(outside, &e), e);
    write_text(path_join(&a, outside, "kept"), "x");
    write_text(path_join(&a, top, "a"), "x");
    write_text(path_join(&a, top, "Z"), "x");
    write_text(path_join(&a, top, "\xc3\xa4"), "x");
    write_text(path_join(&a, deep, "f"), "x");
    ASSERT_EQ_I64(0, symlink("../o", path_join(&a, top, "link")));
    EXPECT_FALSE(dir_make(path_join(&a, top, "a/x"), &e));
    EXPECT_ERR(e, ERR_IO, "cannot make the folder '");
    ASSERT_OK(dir_list(top, &a, &names, &count, &e), e);
    ASSERT_EQ_U64(5, count);
    static const char *const want[] = {"Z", "a", "b", "link", "\xc3\xa4"};
    for (size_t i = 0; i < count; i++)
        EXPECT_STR_EQ(want[i], names[i]);
    EXPECT_OK(dir_sync(top, &e), e);
    ASSERT_OK(dir_remove_tree(top, &e), e);
    EXPECT_FALSE(path_exists(top));
    EXPECT_TRUE(path_exists(path_join(&a, outside, "kept")));
    EXPECT_OK(dir_remove_tree(top, &e), e);
    ASSERT_OK(dir_make(top, &e), e);
    ASSERT_OK(dir_list(top, &a, &names, &count, &e), e);
    EXPECT_EQ_U64(0, count);
    EXPECT_FALSE(dir_list(path_join(&a, dir, "absent"), &a, &names, &count, &e));
    EXPECT_ERR(e, ERR_IO, "cannot open the folder '");
    arena_release(&a);
}
