#include "tests/bench/beside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/file.h"

#define ARGS_MAX    16
#define BLOCK_BYTES ((size_t)1 << 20)

double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static _Noreturn void become(char *const argv[])
{
    int null = open("/dev/null", O_WRONLY);

    dup2(null, STDOUT_FILENO);
    execvp(argv[0], argv);
    fprintf(stderr, "cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static double clock_seconds(const struct timeval *t)
{
    return (double)t->tv_sec + 1e-6 * (double)t->tv_usec;
}

void write_pages(int fd, uint64_t bytes)
{
    char *block = mem_aligned(BLOCK_BYTES);

    memset(block, 1, BLOCK_BYTES);
    for (uint64_t done = 0; fd >= 0 && done < bytes; done += BLOCK_BYTES)
        if (write(fd, block, BLOCK_BYTES) < 0)
            break;
    mem_free(block);
}

static uint64_t used_bytes(int fd)
{
    struct statvfs v = {0};

    return fstatvfs(fd, &v) == 0 ? (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize : 0;
}

struct ballast ballast_new(struct arena *a, const char *dir, uint64_t bytes)
{
    const char *path = path_join(a, dir, "ballast");
    struct ballast b = {.fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), .bytes = bytes};

    unlink(path);
    write_pages(b.fd, bytes);
    b.used_most = used_bytes(b.fd);
    return b;
}

/* Keeps AHEAD_BYTES fewer in use than there were. */
static void ballast_give_way(struct ballast *b)
{
    uint64_t used = b->fd > 0 ? used_bytes(b->fd) + AHEAD_BYTES : 0;

    if (used <= b->used_most || b->bytes == 0)
        return;
    uint64_t way = used - b->used_most < b->bytes ? used - b->used_most : b->bytes;
    b->bytes -= way;
    if (ftruncate(b->fd, (off_t)b->bytes) != 0)
        b->bytes = 0;
}

struct outcome run_beside(struct arena *a, const char *const argv[], struct ballast *b)
{
    const struct timespec pause = {.tv_nsec = b->fd > 0 ? 2000000 : 0};
    struct outcome o = {.status = 127};
    struct rusage usage = {0};
    char *args[ARGS_MAX + 1] = {0};
    pid_t child, ended = 0;
    int status = 0;

    for (size_t i = 0; argv[i] && i < ARGS_MAX; i++)
        args[i] = arena_strdup(a, argv[i]);
    ballast_give_way(b);
    double start = now();
    child = fork();
    if (child == 0)
        become(args);
    while (child > 0 && (ended = wait4(child, &status, b->fd > 0 ? WNOHANG : 0, &usage)) == 0) {
        ballast_give_way(b);
        nanosleep(&pause, NULL);
    }
    o.seconds = now() - start;
    if (b->fd > 0)
        close(b->fd);
    if (child < 0 || ended != child)
        return o;
    o.user_seconds = clock_seconds(&usage.ru_utime);
    o.system_seconds = clock_seconds(&usage.ru_stime);
    o.peak_bytes = (uint64_t)usage.ru_maxrss * 1024;
    o.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    return o;
}
