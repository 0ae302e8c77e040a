#include "formats/base/pool.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/progress.h"
#include "tests/ct.h"

static const unsigned thread_counts[] = {1, 2, 7, 64, 0};
#define EACH_THREAD_COUNT(t) (size_t t = 0; t < sizeof thread_counts / sizeof thread_counts[0]; t++)

enum { JOB_COUNT = 500 };

struct tally {
    _Atomic unsigned runs[JOB_COUNT];
    _Atomic size_t most_worker, started;
    size_t fail_from, fail_every; /* fail_every 0: nothing fails */
    size_t slow_job;
};

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static bool count_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct tally *t = ctx;

    t->runs[job]++;
    t->started++;
    if (worker > t->most_worker)
        t->most_worker = worker;
    if (!t->fail_every || job < t->fail_from || (job - t->fail_from) % t->fail_every)
        return true;
    if (job == t->slow_job) /* so that a later job fails first */
        pause_ms(20);
    return err_set(e, ERR_FORMAT, "job %zu", job);
}

TEST(pool, every_job_runs_once_on_any_number_of_threads)
{
    for
        EACH_THREAD_COUNT(c)
        {
            struct tally t = {0};
            struct err e = {0};

            ct_case("%u threads", thread_counts[c]);
            EXPECT_OK(pool_run(thread_counts[c], JOB_COUNT, count_job, &t, &e), e);
            for (size_t j = 0; j < JOB_COUNT; j++)
                ASSERT_EQ_U64(1, t.runs[j]);
            unsigned threads = thread_counts[c] ? thread_counts[c] : pool_cpu_count();
            EXPECT_TRUE(t.most_worker < threads);
        }
}

TEST(pool, the_lowest_failure_is_reported_on_any_number_of_threads)
{
    for
        EACH_THREAD_COUNT(c)
    for (int round = 0; round < 10; round++) {
        struct tally t = {.fail_from = 37, .fail_every = 1, .slow_job = 37};
        struct err e = {0};

        ct_case("%u threads", thread_counts[c]);
        EXPECT_FALSE(pool_run(thread_counts[c], JOB_COUNT, count_job, &t, &e));
        ASSERT_ERR(e, ERR_FORMAT, "job 37");
        EXPECT_STR_EQ("job 37", e.text);
        EXPECT_TRUE(t.started < JOB_COUNT);
    }
}

TEST(pool, no_jobs_is_success_and_a_null_err_is_allowed)
{
    struct tally t = {.fail_every = 1};

    EXPECT_TRUE(pool_run(4, 0, count_job, &t, NULL));
    EXPECT_FALSE(pool_run(4, 3, count_job, &t, NULL));
}

TEST(pool, there_is_at_least_one_cpu)
{
    EXPECT_TRUE(pool_cpu_count() >= 1);
}

TEST(pool, runs_in_a_row_share_their_threads)
{
    for (unsigned round = 0; round < 3000; round++) {
        struct tally t = {0};
        size_t count = round % 9;

        ASSERT_TRUE(pool_run(thread_counts[round % 3], count, count_job, &t, NULL));
        ASSERT_EQ_U64(count, t.started);
        for (size_t j = 0; j < count; j++)
            ASSERT_EQ_U64(1, t.runs[j]);
    }
}

/* Jobs that wait for each other: all threads are there at once. */
static bool meet_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct tally *t = ctx;

    (void)worker;
    (void)e;
    t->runs[job]++;
    t->started++;
    while (t->started < 4)
        pause_ms(1);
    return true;
}

TEST(pool, every_thread_asked_for_works)
{
    for (int round = 0; round < 20; round++) {
        struct tally t = {0};
        EXPECT_TRUE(pool_run(4, 4, meet_job, &t, NULL));
        EXPECT_EQ_U64(4, t.started);
    }
}

static bool run_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct tally t = {0};

    (void)worker;
    if (!pool_run(3, 20, count_job, &t, e))
        return false;
    ((struct tally *)ctx)->runs[job] += (unsigned)t.started;
    return true;
}

TEST(pool, a_job_may_run_jobs)
{
    struct tally t = {0};
    struct err e = {0};

    EXPECT_OK(pool_run(3, 50, run_job, &t, &e), e);
    for (size_t j = 0; j < 50; j++)
        EXPECT_EQ_U64(20, t.runs[j]);
}

#ifndef __SANITIZE_THREAD__ /* which has no threads behind a fork */
static int meet_in_child(void)
{
    struct tally t = {0};

    alarm(20); /* where a thread of the parent's is waited for */
    return pool_run(4, 4, meet_job, &t, NULL) && t.started == 4 ? 0 : 1;
}

TEST(pool, a_child_has_threads_of_its_own)
{
    struct tally t = {0};
    int status = 0;

    EXPECT_TRUE(pool_run(4, 4, meet_job, &t, NULL));
    pid_t child = fork();
    if (child == 0)
        _exit(meet_in_child());
    ASSERT_TRUE(child > 0 && waitpid(child, &status, 0) == child);
    EXPECT_EQ_I64(0, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}
#endif

/* Signals, in a child: the flag cannot be taken back. */

static bool raise_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    size_t *started = ctx;

    (void)worker;
    (void)e;
    ++*started;
    if (job == 3)
        raise(SIGTERM);
    return true;
}

static int cancelled_child(void)
{
    size_t started = 0;
    struct err e = {0};

    signal(SIGTERM, SIG_DFL);
    signal_install();
    signal_reraise(); /* nothing came: nothing happens */
    if (signal_cancelled() || pool_run(1, 100, raise_job, &started, &e))
        return 1;
    if (!signal_cancelled() || started != 4 || e.code != ERR_CANCELLED || strcmp(e.text, "cancelled") != 0)
        return 2;
    signal_reraise();
    return 3;
}

TEST(pool, a_signal_stops_the_jobs_and_is_raised_again)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        _exit(cancelled_child());
    ASSERT_TRUE(child > 0 && waitpid(child, &status, 0) == child);
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ_I64(SIGTERM, WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status));
}

static int ignored_child(void)
{
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_DFL);
    signal_install();
    raise(SIGHUP);
    if (signal_cancelled() || signal_take_report())
        return 1;
    raise(SIGUSR1);
    return signal_take_report() && !signal_take_report() && !signal_cancelled() ? 0 : 2;
}

TEST(signal, what_was_ignored_stays_ignored_and_a_report_is_taken_once)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        _exit(ignored_child());
    ASSERT_TRUE(child > 0 && waitpid(child, &status, 0) == child);
    EXPECT_EQ_I64(0, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}
