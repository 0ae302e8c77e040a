#include "formats/base/progress.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/log.h"
#include "formats/base/mem.h"
#include "formats/base/units.h"

#define TICK_NS 250000000
/* 8 s: before that the estimate swings more than it helps. */
#define REMAINING_AFTER_S 8.0

struct progress {
    pthread_mutex_t lock; /* guards label, stop and the two of an earlier run */
    pthread_cond_t wake;  /* stop was set */
    char label[64];
    bool stop;
    uint64_t earlier_bytes; /* done by an earlier run */
    double resumed_s;       /* when this run's own work began */

    pthread_t ticker;
    bool ticking, quiet, terminal;
    char *what;
    uint64_t total_bytes;
    _Atomic uint64_t done_bytes;
};

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Text */

/* Coarse, because it is a guess: 5 s under a minute, minutes under an hour, then ten minutes. */
static void add_remaining(struct buf *line, double left_s)
{
    uint64_t s = left_s < 1e9 ? (uint64_t)left_s + 1 : 1000000000;

    if (s <= 60)
        buf_printf(line, ", about %" PRIu64 " s left", (s + 4) / 5 * 5);
    else if (s <= 3600)
        buf_printf(line, ", about %" PRIu64 " min left", (s + 59) / 60);
    else
        buf_printf(line, ", about %" PRIu64 " h %02" PRIu64 " min left", (s + 599) / 600 / 6, (s + 599) / 600 % 6 * 10);
}

/* Bytes of this run, and its seconds: what was done before it says nothing of what is to come. */
static double own_rate(struct progress *p, uint64_t done, double *elapsed_s)
{
    pthread_mutex_lock(&p->lock);
    uint64_t earlier = p->earlier_bytes;
    *elapsed_s = now_s() - p->resumed_s;
    pthread_mutex_unlock(&p->lock);
    return *elapsed_s > 0 && done > earlier ? (double)(done - earlier) / *elapsed_s : 0;
}

static void make_line(struct progress *p, struct buf *line)
{
    uint64_t done = p->done_bytes;
    double elapsed_s = 0, rate = own_rate(p, done, &elapsed_s);
    double part = p->total_bytes ? (double)done / (double)p->total_bytes : 1;
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT];

    buf_printf(line, "%s: %s of %s, %.0f%%, %s/s", p->what, bytes_text((double)done, a),
               bytes_text((double)p->total_bytes, b), part < 1 ? (double)(int)(part * 100) : 100.0,
               bytes_text(rate, c));
    if (elapsed_s >= REMAINING_AFTER_S && rate > 0 && done < p->total_bytes)
        add_remaining(line, (double)(p->total_bytes - done) / rate);
    pthread_mutex_lock(&p->lock);
    if (p->label[0])
        buf_printf(line, ", %s", p->label);
    pthread_mutex_unlock(&p->lock);
}

/* A line that wraps cannot be overwritten. */
static void cut_to_terminal(struct buf *line)
{
    struct winsize size = {0};
    size_t columns = 80;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        columns = size.ws_col;
    if (line->bytes < columns)
        return;
    line->bytes = columns - 1;
    line->data[line->bytes] = '\0';
}

static void show_status(struct progress *p)
{
    struct buf line = {0};

    make_line(p, &line);
    cut_to_terminal(&line);
    log_status(line.data);
    buf_release(&line);
}

/* The clock */

/* False: it is time to stop. */
static bool wait_tick(struct progress *p)
{
    struct timespec until;
    int result = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&p->lock);
    while (!p->stop && result == 0)
        result = pthread_cond_timedwait(&p->wake, &p->lock, &until);
    bool go_on = !p->stop;
    pthread_mutex_unlock(&p->lock);
    return go_on;
}

static void *tick(void *arg)
{
    struct progress *p = arg;

    while (wait_tick(p)) {
        if (signal_take_report())
            progress_report(p);
        if (p->terminal && !p->quiet)
            show_status(p);
    }
    return NULL;
}

struct progress *progress_new(const char *what, uint64_t total_bytes, bool quiet)
{
    struct progress *p = mem_alloc(sizeof *p);
    const char *term = getenv("TERM");
    size_t what_bytes = strlen(what) + 1;
    pthread_condattr_t by_monotonic;

    p->what = memcpy(mem_alloc(what_bytes), what, what_bytes);
    p->total_bytes = total_bytes;
    p->quiet = quiet;
    p->terminal = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
    p->resumed_s = now_s();
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&by_monotonic);
    pthread_condattr_setclock(&by_monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &by_monotonic);
    pthread_condattr_destroy(&by_monotonic);
    /* Without a thread there is no line, and the work goes on. */
    p->ticking = pthread_create(&p->ticker, NULL, tick, p) == 0;
    return p;
}

void progress_add(struct progress *p, uint64_t bytes)
{
    if (p)
        atomic_fetch_add_explicit(&p->done_bytes, bytes, memory_order_relaxed);
}

void progress_label(struct progress *p, const char *label)
{
    if (!p)
        return;
    size_t bytes = strnlen(label, sizeof p->label - 1);
    pthread_mutex_lock(&p->lock);
    memcpy(p->label, label, bytes);
    p->label[bytes] = '\0';
    pthread_mutex_unlock(&p->lock);
}

void progress_resumed(struct progress *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->earlier_bytes = p->done_bytes;
    p->resumed_s = now_s();
    pthread_mutex_unlock(&p->lock);
}

void progress_report(struct progress *p)
{
    struct buf line = {0};

    if (!p)
        return;
    make_line(p, &line);
    log_line("%s", line.data);
    buf_release(&line);
}

static void print_summary(struct progress *p)
{
    double elapsed_s = 0, rate = own_rate(p, p->done_bytes, &elapsed_s);
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT];

    log_line("%s: %s in %.1f s, %s/s, peak memory %s", p->what,
             bytes_text((double)(p->done_bytes - p->earlier_bytes), a), elapsed_s, bytes_text(rate, b),
             bytes_text((double)mem_peak_bytes(), c));
}

void progress_end(struct progress *p, bool ok)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    if (p->ticking)
        pthread_join(p->ticker, NULL);
    log_status(NULL);
    if (signal_take_report()) /* it came behind the last tick */
        progress_report(p);
    if (ok && !p->quiet)
        print_summary(p);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    mem_free(p->what);
    mem_free(p);
}
