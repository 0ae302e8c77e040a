/* Threads stay when their jobs are done, and take those of the next run: a pass over a small model runs some thousand
 * times, and a thread that is made for each costs it more than its shorter products. */
#include "formats/base/pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "formats/base/mem.h"
#include "formats/base/progress.h"

/* One run. The lock guards next_job, failed_job and failure. */
struct pool {
    pthread_mutex_t lock;
    size_t next_job, job_count;
    size_t failed_job; /* the lowest so far; job_count: none */
    struct err failure;
    pool_job *job;
    void *ctx;
};

struct helper;

/* helpers.lock guards what they know of each other. */
struct worker {
    struct pool *pool;
    unsigned index;
    struct helper *helper; /* NULL: none could be had */
    bool begun, ended;
};

/* A thread of its own, for as long as the process lives. */
struct helper {
    _Atomic(struct worker *) task; /* set under the lock; NULL: none */
    pthread_cond_t wake;
    struct helper *next; /* of the idle */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    struct helper *idle;
    bool watched; /* for forks */
} helpers = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};

unsigned pool_cpu_count(void)
{
    /* A set of fixed size does not do on machines with more than 1024 CPUs. */
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        size_t set_bytes = CPU_ALLOC_SIZE((size_t)cpus);
        int count = 0;

        if (!set)
            break;
        if (sched_getaffinity(0, set_bytes, set) == 0)
            count = CPU_COUNT_S(set_bytes, set);
        CPU_FREE(set);
        if (count > 0)
            return (unsigned)count;
    }
    return 1;
}

static void record(struct pool *p, size_t job, const struct err *e)
{
    if (job >= p->failed_job)
        return;
    p->failed_job = job;
    p->failure = *e;
}

/* False: nothing more to start. A cancellation counts as the failure of the job
 * that would have come next, so that a failure before it is the one reported. */
static bool take_job(struct pool *p, size_t *job)
{
    bool got = false;

    pthread_mutex_lock(&p->lock);
    if (p->failed_job == p->job_count && p->next_job < p->job_count) {
        *job = p->next_job++;
        got = !signal_cancelled();
        if (!got) {
            struct err e = {0};

            err_set(&e, ERR_CANCELLED, "cancelled");
            record(p, *job, &e);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return got;
}

static void work(const struct worker *w)
{
    struct pool *p = w->pool;
    size_t job;

    while (take_job(p, &job)) {
        struct err e = {0};

        if (p->job(p->ctx, job, w->index, &e))
            continue;
        assert(e.code != ERR_NONE);
        pthread_mutex_lock(&p->lock);
        record(p, job, &e);
        pthread_mutex_unlock(&p->lock);
    }
}

/* ---- helpers ---- */

/* Looks before a thread lies down: the next run mostly comes within so many, and waking it takes some ten times as
 * long. */
#define LOOKS 4000u

static void look_for_task(const struct helper *h)
{
    for (unsigned i = 0; i < LOOKS && !atomic_load_explicit(&h->task, memory_order_relaxed); i++)
        ;
}

static void *help(void *arg)
{
    struct helper *h = arg;

    pthread_mutex_lock(&helpers.lock);
    for (;;) {
        while (!h->task)
            pthread_cond_wait(&h->wake, &helpers.lock);
        struct worker *w = h->task;
        h->task = NULL;
        w->begun = true;
        pthread_mutex_unlock(&helpers.lock);
        work(w);
        pthread_mutex_lock(&helpers.lock);
        w->ended = true;
        h->next = helpers.idle;
        helpers.idle = h;
        pthread_cond_broadcast(&helpers.ended);
        pthread_mutex_unlock(&helpers.lock);
        look_for_task(h);
        pthread_mutex_lock(&helpers.lock);
    }
    return NULL;
}

/* A child has its parent's memory and none of its threads. */
static void forget_helpers(void)
{
    pthread_mutex_init(&helpers.lock, NULL);
    pthread_cond_init(&helpers.ended, NULL);
    helpers.idle = NULL;
}

/* Signals are for the others. NULL: the system has no thread to give. */
static struct helper *new_helper(void)
{
    struct helper *h = mem_alloc(sizeof *h);
    pthread_attr_t detached;
    sigset_t all, before;
    pthread_t thread;

    if (!helpers.watched)
        helpers.watched = pthread_atfork(NULL, NULL, forget_helpers) == 0;
    pthread_cond_init(&h->wake, NULL);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool made = pthread_create(&thread, &detached, help, h) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    if (made)
        return h;
    pthread_cond_destroy(&h->wake);
    mem_free(h);
    return NULL;
}

/* One that the system refuses is not missed: the others do its jobs. */
static void give(struct worker *w)
{
    struct helper *h = helpers.idle;

    if (h)
        helpers.idle = h->next;
    else if ((h = new_helper()) == NULL)
        return;
    w->helper = h;
    h->task = w;
    pthread_cond_signal(&h->wake);
}

/* Who has not begun need not any more. */
static void take_back(struct worker *w)
{
    struct helper *h = w->helper;

    if (!h)
        return;
    if (!w->begun) {
        h->task = NULL;
        h->next = helpers.idle;
        helpers.idle = h;
        return;
    }
    while (!w->ended)
        pthread_cond_wait(&helpers.ended, &helpers.lock);
}

bool pool_run(unsigned threads, size_t count, pool_job *job, void *ctx, struct err *e)
{
    struct pool p = {.job_count = count, .failed_job = count, .job = job, .ctx = ctx};

    if (!threads)
        threads = pool_cpu_count();
    if (threads > count)
        threads = count ? (unsigned)count : 1;
    pthread_mutex_init(&p.lock, NULL);
    struct worker *workers = mem_alloc(threads * sizeof *workers);
    pthread_mutex_lock(&helpers.lock);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){.pool = &p, .index = i};
        if (i > 0) /* worker 0 is the caller */
            give(&workers[i]);
    }
    pthread_mutex_unlock(&helpers.lock);
    work(&workers[0]);
    pthread_mutex_lock(&helpers.lock);
    for (unsigned i = 1; i < threads; i++)
        take_back(&workers[i]);
    pthread_mutex_unlock(&helpers.lock);
    mem_free(workers);
    pthread_mutex_destroy(&p.lock);
    if (p.failed_job == count)
        return true;
    if (e)
        *e = p.failure;
    return false;
}
