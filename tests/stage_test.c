#include "convert/stage.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/journal.h"
#include "formats/base/file.h"
#include "tests/ct.h"

static struct arena arena; /* of the test that runs; released by listing */

static const char *in(const char *dir, const char *name)
{
    return path_join(&arena, dir, name);
}

static void put(const char *dir, const char *name, const char *text)
{
    struct err e = {0};

    EXPECT_OK(dir_make(dir, &e) && file_write_whole(in(dir, name), text, strlen(text), &e), e);
}

/* "a b c": what is in a folder. */
static const char *list(const char *dir)
{
    struct buf text = {0};
    struct err e = {0};
    char **names = NULL;
    size_t count = 0;

    EXPECT_OK(dir_list(dir, &arena, &names, &count, &e), e);
    for (size_t i = 0; i < count; i++)
        buf_printf(&text, "%s%s", i > 0 ? " " : "", names[i]);
    const char *copy = arena_strdup(&arena, text.data ? text.data : "");
    buf_release(&text);
    return copy;
}

static void put_old_bundle(const char *dst)
{
    put(dst, "config.json", "old");
    put(dst, "quern.json", "old");
    put(dst, "model.safetensors.index.json",
        "{\"weight_map\":{\"a\":\"old-1.safetensors\",\"b\":\"both.safetensors\",\"c\":\"old-1.safetensors\","
        "\"d\":\"../out.safetensors\",\"e\":\"notes.txt\"}}");
    put(dst, "old-1.safetensors", "old");
    put(dst, "both.safetensors", "old");
    put(dst, "unnamed.safetensors", "old");
    put(dst, "notes.txt", "mine");
    put(path_parent(&arena, dst), "out.safetensors", "outside");
}

static void put_new_bundle(struct stage *s)
{
    put(s->dir, JOURNAL_NAME, "a journal");
    put(s->dir, "both.safetensors", "new");
    put(s->dir, "new-2.safetensors", "new");
    put(s->dir, "model.safetensors.index.json",
        "{\"weight_map\":{\"a\":\"both.safetensors\",\"b\":\"new-2.safetensors\"}}");
    put(s->dir, "config.json", "new");
    put(s->dir, "quern.json", "new");
}

#define NEW_BUNDLE "both.safetensors config.json model.safetensors.index.json new-2.safetensors quern.json"

static void expect_text(const char *want, const char *path)
{
    struct err e = {0};
    char *got = NULL;
    size_t bytes = 0;

    ASSERT_OK(file_slurp(path, 1000, &got, &bytes, &e), e);
    EXPECT_STR_EQ(want, got);
    mem_free(got);
}

TEST(stage, refuses_before_it_makes_anything)
{
    const char *dir = ct_temp_dir(), *src = in(dir, "src"), *full = in(dir, "full"), *fresh = in(dir, "fresh/deep");
    struct err e = {0};

    put(src, "config.json", "");
    put(full, "mine", "");
    EXPECT_FALSE(stage_check(src, src, true, &e));
    EXPECT_ERR(e, ERR_USAGE, "source and destination are the same folder");
    EXPECT_FALSE(stage_check(in(src, "../src/."), src, true, &e));
    EXPECT_FALSE(stage_check(in(full, "mine"), src, true, &e));
    EXPECT_ERR(e, ERR_USAGE, "is there and is not a folder");
    EXPECT_FALSE(stage_check(full, src, false, &e));
    EXPECT_ERR(e, ERR_USAGE, "is not empty; --force replaces what is there");
    e = (struct err){0};
    EXPECT_OK(stage_check(full, src, true, &e), e);
    EXPECT_OK(stage_check(fresh, src, false, &e), e);
    EXPECT_FALSE(path_exists(in(dir, "fresh")));
    arena_release(&arena);
}

TEST(stage, an_unfinished_run_and_lost_and_found_are_no_content)
{
    const char *dir = ct_temp_dir();
    struct err e = {0};

    EXPECT_OK(dir_make(in(dir, "lost+found"), &e), e);
    put(in(dir, STAGE_FOLDER), "model.safetensors.partial", "");
    EXPECT_OK(stage_check(dir, "/", false, &e), e);
    arena_release(&arena);
}

TEST(stage, one_run_at_a_time)
{
    const char *dst = in(ct_temp_dir(), "dst");
    struct stage first = {0}, second = {0};
    struct err e = {0};

    ASSERT_OK(stage_open(&first, dst, "/", false, false, &e), e);
    put(first.dir, "f", "");
    EXPECT_FALSE(stage_open(&second, dst, "/", false, true, &e));
    EXPECT_ERR(e, ERR_IO, "is being written by another run");
    EXPECT_STR_EQ("f", list(first.dir));
    stage_release(&first, true);
    e = (struct err){0};
    ASSERT_OK(stage_open(&second, dst, "/", false, false, &e), e);
    EXPECT_STR_EQ("f", list(second.dir));
    stage_release(&second, false);
    arena_release(&arena);
}

TEST(stage, released_it_is_gone_or_kept_and_an_empty_one_is_never_kept)
{
    const char *dst = in(ct_temp_dir(), "dst");
    struct stage s = {0};
    struct err e = {0};

    ASSERT_OK(stage_open(&s, dst, "/", false, false, &e), e);
    stage_release(&s, true);
    EXPECT_FALSE(path_exists(dst));
    ASSERT_OK(stage_open(&s, dst, "/", false, false, &e), e);
    put(s.dir, "f", "text");
    stage_release(&s, true);
    EXPECT_TRUE(stage_held_bytes(dst) >= 4);
    ASSERT_OK(stage_open(&s, dst, "/", false, true, &e), e);
    EXPECT_STR_EQ("", list(s.dir));
    stage_release(&s, false);
    EXPECT_STR_EQ("", list(dst)); /* this run did not make it */
    EXPECT_EQ_U64(0, stage_held_bytes(dst));
    arena_release(&arena);
}

static bool is_a(void *ctx, const char *name)
{
    (void)ctx;
    return strcmp(name, "a") == 0;
}

TEST(stage, prunes_what_does_not_belong)
{
    struct stage s = {0};
    struct err e = {0};

    ASSERT_OK(stage_open(&s, ct_temp_dir(), "/", false, false, &e), e);
    put(s.dir, "a", "");
    put(s.dir, "b", "");
    put(in(s.dir, "folder"), "a", "");
    EXPECT_OK(stage_prune(&s, is_a, NULL, &e), e);
    EXPECT_STR_EQ("a", list(s.dir));
    stage_release(&s, false);
    arena_release(&arena);
}

TEST(stage, publishing_replaces_what_the_old_index_names_and_nothing_else)
{
    const char *dst = in(ct_temp_dir(), "dst");
    struct stage s = {0};
    struct err e = {0};

    put_old_bundle(dst);
    ASSERT_OK(stage_open(&s, dst, "/", true, false, &e), e);
    put_new_bundle(&s);
    ASSERT_OK(stage_publish(&s, &e), e);
    EXPECT_TRUE(stage_is_publishing(dst));
    ASSERT_OK(stage_finish(&s, &e), e);
    stage_tidy(dst);
    stage_release(&s, false);
    EXPECT_STR_EQ("both.safetensors config.json model.safetensors.index.json new-2.safetensors notes.txt quern.json "
                  "unnamed.safetensors",
                  list(dst));
    expect_text("new", in(dst, "both.safetensors"));
    expect_text("new", in(dst, "config.json"));
    EXPECT_TRUE(path_exists(in(dst, "../out.safetensors")));
    arena_release(&arena);
}

/* The index in place was taken for an older bundle's, and its shards, just moved up, were removed. */
TEST(stage, a_run_killed_after_it_published_does_not_remove_its_own_shards)
{
    const char *dst = in(ct_temp_dir(), "dst");
    struct stage s = {0};
    struct err e = {0};

    put_old_bundle(dst);
    ASSERT_OK(stage_open(&s, dst, "/", true, false, &e), e);
    put_new_bundle(&s);
    ASSERT_OK(stage_publish(&s, &e), e);
    stage_release(&s, true);

    /* Without --force: the content is the run's own. Side files are written anew, shards are not. */
    ASSERT_OK(stage_open(&s, dst, "/", false, false, &e), e);
    EXPECT_TRUE(s.publishing);
    EXPECT_STR_EQ(".journal .publishing", list(s.dir));
    put(s.dir, "config.json", "newer");
    ASSERT_OK(stage_publish(&s, &e), e);
    ASSERT_OK(stage_finish(&s, &e), e);
    stage_tidy(dst);
    stage_release(&s, false);
    expect_text("new", in(dst, "both.safetensors"));
    expect_text("new", in(dst, "new-2.safetensors"));
    expect_text("newer", in(dst, "config.json"));
    EXPECT_FALSE(path_exists(in(dst, "old-1.safetensors")));
    arena_release(&arena);
}

TEST(stage, a_restart_takes_back_what_had_moved_up)
{
    const char *dst = in(ct_temp_dir(), "dst");
    struct stage s = {0};
    struct err e = {0};

    ASSERT_OK(stage_open(&s, dst, "/", false, false, &e), e);
    put_new_bundle(&s);
    ASSERT_OK(stage_publish(&s, &e), e);
    EXPECT_STR_EQ(STAGE_FOLDER " " NEW_BUNDLE, list(dst));
    put(dst, "mine", "");
    stage_release(&s, true);
    ASSERT_OK(stage_open(&s, dst, "/", false, true, &e), e);
    EXPECT_FALSE(s.publishing);
    EXPECT_STR_EQ("", list(s.dir));
    EXPECT_STR_EQ(STAGE_FOLDER " mine", list(dst));
    stage_release(&s, false);
    arena_release(&arena);
}

TEST(stage, what_a_finished_run_left_is_tidied)
{
    const char *dst = in(ct_temp_dir(), "dst");
    struct err e = {0};

    put(dst, "config.json", "");
    put(in(dst, STAGE_PUBLISHED), JOURNAL_NAME, "");
    EXPECT_FALSE(stage_check(dst, "/", false, &e));
    EXPECT_ERR(e, ERR_USAGE, "is not empty");
    stage_tidy(dst);
    EXPECT_STR_EQ("config.json", list(dst));
    arena_release(&arena);
}
