#include "formats/base/progress.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/log.h"
#include "tests/ct.h"

/* stderr goes elsewhere for a while. */

static int kept_stderr;

static void divert(int fd)
{
    fflush(stderr);
    kept_stderr = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static void restore(void)
{
    fflush(stderr);
    dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
}

static char *divert_to_file(struct arena *a)
{
    char *path = path_join(a, ct_temp_dir(), "stderr");

    divert(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    return path;
}

static char *said(const char *path, struct arena *a)
{
    struct err e = {0};
    char *data = NULL;
    size_t bytes = 0;

    restore();
    if (!file_slurp(path, 100000, &data, &bytes, &e))
        return arena_strdup(a, e.text);
    char *copy = arena_strdup(a, data);
    mem_free(data);
    return copy;
}

static size_t line_count(const char *text)
{
    size_t count = 0;

    for (; *text; text++)
        count += *text == '\n';
    return count;
}

TEST(progress, null_is_silent)
{
    progress_add(NULL, 1);
    progress_label(NULL, "x");
    progress_report(NULL);
    progress_end(NULL, true);
}

TEST(progress, without_a_terminal_there_is_one_summary_line)
{
    struct arena a = {0};
    char *path = divert_to_file(&a);
    struct progress *p = progress_new("converting", 4000000, false);

    progress_label(p, "layer 12");
    progress_add(p, 1500000);
    progress_add(p, 1500000);
    nanosleep(&(struct timespec){.tv_nsec = 600000000}, NULL);
    progress_end(p, true);
    char *text = said(path, &a);
    EXPECT_EQ_U64(1, line_count(text));
    EXPECT_STR_HAS(text, "converting: 3.00 MB in ");
    EXPECT_STR_HAS(text, " s, ");
    EXPECT_STR_HAS(text, "MB/s, peak memory ");
    arena_release(&a);
}

TEST(progress, quiet_or_failed_says_nothing)
{
    struct arena a = {0};
    char *path = divert_to_file(&a);

    progress_end(progress_new("quietly", 10, true), true);
    progress_end(progress_new("failing", 10, false), false);
    EXPECT_STR_EQ("", said(path, &a));
    arena_release(&a);
}

TEST(progress, a_report_comes_when_asked_for)
{
    struct arena a = {0};
    char *path = divert_to_file(&a);
    struct progress *p = progress_new("converting", 4000000, true);

    progress_label(p, "a label that is much longer than the room that there is for labels, and more");
    progress_add(p, 1000000);
    progress_report(p);
    progress_end(p, true);
    char *text = said(path, &a);
    EXPECT_STR_HAS(text, "converting: 1.00 MB of 4.00 MB, 25%, ");
    EXPECT_STR_HAS(text, "B/s, a label that is much longer");
    EXPECT_EQ_U64(1, line_count(text));
    arena_release(&a);
}

TEST(progress, what_an_earlier_run_did_is_in_the_line_but_not_in_rate_and_summary)
{
    struct arena a = {0};
    char *path = divert_to_file(&a);
    struct progress *p = progress_new("converting", 4000000, false);

    progress_add(p, 2000000);
    progress_resumed(p);
    progress_report(p);
    progress_add(p, 1000000);
    progress_report(p);
    progress_end(p, true);
    char *text = said(path, &a);
    EXPECT_STR_HAS(text, "converting: 2.00 MB of 4.00 MB, 50%, 0 B/s\n");
    EXPECT_STR_HAS(text, "converting: 3.00 MB of 4.00 MB, 75%, ");
    EXPECT_STR_HAS(text, "converting: 1.00 MB in 0.0 s, ");
    arena_release(&a);
}

TEST(progress, a_report_that_was_asked_for_at_the_end_comes)
{
    struct arena a = {0};
    char *path = divert_to_file(&a);
    struct progress *p = progress_new("converting", 1000, true);

    signal_install();
    progress_add(p, 500);
    raise(SIGUSR1);
    progress_end(p, true);
    EXPECT_STR_HAS(said(path, &a), "converting: 500 B of 1.00 kB, 50%, ");
    arena_release(&a);
}

TEST(progress, nothing_planned_is_all_done)
{
    struct arena a = {0};
    char *path = divert_to_file(&a);
    struct progress *p = progress_new("converting", 0, true);

    progress_report(p);
    progress_end(p, true);
    EXPECT_STR_HAS(said(path, &a), "converting: 0 B of 0 B, 100%, 0 B/s\n");
    arena_release(&a);
}

TEST(progress, on_a_terminal_the_line_is_overwritten_and_cleared)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    char text[8192] = "";
    size_t bytes = 0;
    struct arena a = {0};

    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
        ct_skip("no pseudo terminal here");
    char *term = getenv("TERM") ? arena_strdup(&a, getenv("TERM")) : NULL;
    setenv("TERM", "xterm", 1);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    ASSERT_TRUE(slave >= 0);
    divert(slave);
    struct progress *p = progress_new("converting", 1000, false);
    progress_add(p, 500);
    nanosleep(&(struct timespec){.tv_nsec = 900000000}, NULL);
    log_warn("look \033[2J here");
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    progress_end(p, true);
    fcntl(master, F_SETFL, O_NONBLOCK);
    for (ssize_t got; bytes + 1 < sizeof text && (got = read(master, text + bytes, sizeof text - 1 - bytes)) > 0;)
        bytes += (size_t)got;
    text[bytes] = '\0';
    restore();
    close(master);
    EXPECT_STR_HAS(text, "\r\033[Kconverting: 500 B of 1.00 kB, 50%, ");
    EXPECT_STR_HAS(text, "\r\033[Kquern: warning: look ?[2J here\r\n");
    EXPECT_STR_HAS(text, "\r\033[Kconverting: 500 B in ");
    EXPECT_EQ_U64(2, line_count(text));
    if (term)
        setenv("TERM", term, 1);
    else
        unsetenv("TERM");
    arena_release(&a);
}

TEST(log, levels_decide_what_is_said)
{
    struct arena a = {0};
    struct err e = {0};
    char *path = divert_to_file(&a);

    err_set(&e, ERR_FORMAT, "bad\x1b name");
    for (int level = LOG_QUIET; level <= LOG_VERBOSE; level++) {
        log_set_level((enum log_level)level);
        log_note("n%d", level);
        log_warn("w%d", level);
        log_verbose("v%d", level);
    }
    log_set_level(LOG_NORMAL);
    log_error(&e);
    EXPECT_STR_EQ("quern: warning: w0\nquern: note: n1\nquern: warning: w1\n"
                  "quern: note: n2\nquern: warning: w2\nquern: v2\nquern: bad? name\n",
                  said(path, &a));
    arena_release(&a);
}
