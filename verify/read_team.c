#include "verify/read_team.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/mem.h"

/* Linux reads at most 2^31 - 4096 bytes at once; whole pages, for O_DIRECT. */
#define STEP_BYTES_MAX (1u << 30)

const char *read_method_name(enum read_method m)
{
    static const char *const names[READ_METHOD_COUNT] = {
        [READ_PREAD] = "pread", [READ_DIRECT] = "direct", [READ_MMAP] = "mmap"};

    return names[m];
}

/* ---- files ---- */

bool read_file_open(struct read_file *f, const char *path, enum read_method m, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | (m == READ_DIRECT ? O_DIRECT : 0));
    struct stat st;

    *f = (struct read_file){0};
    if (fd < 0 && m == READ_DIRECT && errno == EINVAL)
        return err_set(e, ERR_UNSUPPORTED, "'%s' is on a file system without O_DIRECT", path);
    if (fd < 0 || fstat(fd, &st) != 0) {
        err_sys(e, "cannot open '%s'", path);
        if (fd >= 0)
            close(fd);
        return false;
    }
    f->fd_plus_1 = fd + 1;
    f->bytes = (uint64_t)st.st_size;
    if (m != READ_MMAP || f->bytes == 0)
        return true;
    void *map = mmap(NULL, (size_t)f->bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        err_sys(e, "cannot map '%s'", path);
        read_file_close(f);
        return false;
    }
    f->map = map;
    return true;
}

void read_file_forget(const struct read_file *f)
{
    if (f->map)
        (void)madvise((void *)(uintptr_t)f->map, (size_t)f->bytes, MADV_DONTNEED);
    (void)posix_fadvise(f->fd_plus_1 - 1, 0, 0, POSIX_FADV_DONTNEED);
}

void read_file_close(struct read_file *f)
{
    if (f->map)
        munmap((void *)(uintptr_t)f->map, (size_t)f->bytes);
    if (f->fd_plus_1 > 0)
        close(f->fd_plus_1 - 1);
    *f = (struct read_file){0};
}

/* ---- reading ---- */

uint64_t read_task_bytes(enum read_method m, uint64_t offset, uint64_t bytes)
{
    uint64_t begin = offset / READ_PAGE_BYTES * READ_PAGE_BYTES;
    uint64_t end = (offset + bytes + READ_PAGE_BYTES - 1) / READ_PAGE_BYTES * READ_PAGE_BYTES;

    return m == READ_DIRECT ? end - begin : bytes;
}

/* A file's last page may be short: what counts is that the bytes wanted came. */
static bool read_range(const struct read_file *f, uint64_t offset, uint64_t bytes, uint64_t wanted, uint8_t *to,
                       struct err *e)
{
    uint64_t done = 0;

    while (done < bytes) {
        size_t step = bytes - done < STEP_BYTES_MAX ? (size_t)(bytes - done) : STEP_BYTES_MAX;
        ssize_t got = pread(f->fd_plus_1 - 1, to + done, step, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_sys(e, "reading %zu bytes at %" PRIu64, step, offset + done);
        done += (uint64_t)got;
        if (done >= wanted)
            return true;
        if (got == 0)
            return err_set(e, ERR_IO, "%" PRIu64 " bytes at %" PRIu64 " are past the file's end", bytes, offset);
    }
    return true;
}

static void touch(const struct read_file *f, uint64_t offset, uint64_t bytes)
{
    const volatile uint8_t *map = f->map;

    for (uint64_t at = offset / READ_PAGE_BYTES * READ_PAGE_BYTES; at < offset + bytes; at += READ_PAGE_BYTES)
        (void)map[at];
}

static bool run_task(enum read_method m, const struct read_task *t, struct err *e)
{
    uint64_t begin = m == READ_DIRECT ? t->offset / READ_PAGE_BYTES * READ_PAGE_BYTES : t->offset;

    if (m == READ_MMAP) {
        if (t->offset + t->bytes > t->file->bytes)
            return err_set(e, ERR_IO, "%" PRIu64 " bytes at %" PRIu64 " are past the file's end", t->bytes, t->offset);
        touch(t->file, t->offset, t->bytes);
        return true;
    }
    return read_range(t->file, begin, read_task_bytes(m, t->offset, t->bytes), t->offset - begin + t->bytes, t->to, e);
}

/* ---- the team ---- */

struct read_team {
    enum read_method method;
    unsigned depth;
    pthread_t *threads;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t begin, end;
    const struct read_task *tasks;
    size_t count, next, done, failed; /* failed: the lowest number of a task that did, or count */
    struct err err;                   /* of it */
    bool stop;
};

static void note_failure(struct read_team *t, size_t task, const struct err *e)
{
    if (task < t->failed) {
        t->failed = task;
        t->err = *e;
    }
}

static void *team_main(void *arg)
{
    struct read_team *t = arg;

    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->stop && t->next >= t->count)
            pthread_cond_wait(&t->begin, &t->lock);
        if (t->stop)
            break;
        size_t task = t->next++;
        struct err e = {0};
        pthread_mutex_unlock(&t->lock);
        bool ok = run_task(t->method, &t->tasks[task], &e);
        pthread_mutex_lock(&t->lock);
        if (!ok)
            note_failure(t, task, &e);
        if (++t->done == t->count)
            pthread_cond_signal(&t->end);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

struct read_team *read_team_new(enum read_method m, unsigned depth)
{
    struct read_team *t = mem_alloc(sizeof *t);

    t->method = m;
    t->depth = depth;
    t->threads = mem_alloc(depth * sizeof *t->threads);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begin, NULL);
    pthread_cond_init(&t->end, NULL);
    for (unsigned i = 0; i < depth; i++)
        if (pthread_create(&t->threads[i], NULL, team_main, t) != 0)
            abort(); /* as for memory: a handful of threads is a size we chose */
    return t;
}

bool read_team_run(struct read_team *t, const struct read_task *tasks, size_t count, struct err *e)
{
    if (count == 0)
        return true;
    pthread_mutex_lock(&t->lock);
    t->tasks = tasks;
    t->failed = count;
    t->done = t->next = 0;
    t->count = count;
    pthread_cond_broadcast(&t->begin);
    while (t->done < count)
        pthread_cond_wait(&t->end, &t->lock);
    t->count = t->next = 0;
    bool ok = t->failed == count;
    if (!ok && e)
        *e = t->err;
    pthread_mutex_unlock(&t->lock);
    return ok;
}

void read_team_free(struct read_team *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->begin);
    pthread_mutex_unlock(&t->lock);
    for (unsigned i = 0; i < t->depth; i++)
        pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->begin);
    pthread_cond_destroy(&t->end);
    pthread_mutex_destroy(&t->lock);
    mem_free(t->threads);
    mem_free(t);
}
