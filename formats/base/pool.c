#include "formats/base/pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
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

struct worker {
    struct pool *pool;
    unsigned index;
    pthread_t thread;
};

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

static void *work(void *arg)
{
    struct worker *w = arg;
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
    return NULL;
}

bool pool_run(unsigned threads, size_t count, pool_job *job, void *ctx, struct err *e)
{
    struct pool p = {.job_count = count, .failed_job = count, .job = job, .ctx = ctx};
    unsigned started = 1; /* worker 0 is the caller */

    if (!threads)
        threads = pool_cpu_count();
    if (threads > count)
        threads = count ? (unsigned)count : 1;
    pthread_mutex_init(&p.lock, NULL);
    struct worker *workers = mem_alloc(threads * sizeof *workers);
    for (unsigned i = 0; i < threads; i++)
        workers[i] = (struct worker){.pool = &p, .index = i};
    /* A thread that the system refuses is not missed: the others do its jobs. */
    while (started < threads && pthread_create(&workers[started].thread, NULL, work, &workers[started]) == 0)
        started++;
    work(&workers[0]);
    for (unsigned i = 1; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    mem_free(workers);
    pthread_mutex_destroy(&p.lock);
    if (p.failed_job == count)
        return true;
    if (e)
        *e = p.failure;
    return false;
}
