/* A hostile disk, by LD_PRELOAD. Only calls on files whose path begins with
 * QUERN_FAULT_PREFIX (one path, or several with ':') are counted and touched.
 *
 *     QUERN_FAULT=CALL:WHAT[:after=N][:once][:path=PART]
 *
 * CALL: open, pread, pwrite, write, fsync, fdatasync, fallocate, ftruncate, rename, unlink, mkdir, close, or
 *       any (whatever changes the disk: all of these but pread, and open only where it creates)
 * WHAT: ENOSPC, EIO, EDQUOT, EROFS, EINTR: the call fails;  short: reads and writes move a part of the bytes, drawn
 *       from `after` as a seed;  LOST: a sync fails with EIO, and what was written last reads as zeros;  kill: SIGKILL,
 * and half of a write is done before;  int, term, usr1: that signal, and the call is made;  hold: the call waits until
 * QUERN_FAULT_HOLD, a file, is gone after=N: the first N calls are left alone; then every call fails, or with `once`
 * the next alone path=PART: only calls on paths that hold PART
 *
 * QUERN_FAULT_COUNT=FILE: at a regular end, "CALL N" lines are written there. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum call {
    OPEN,
    PREAD,
    PWRITE,
    WRITE,
    FSYNC,
    FDATASYNC,
    FALLOCATE,
    FTRUNCATE,
    RENAME,
    UNLINK,
    MKDIR,
    CLOSE,
    ANY,
    CALL_COUNT
};
static const char *const call_names[CALL_COUNT] = {"open",      "pread",     "pwrite",    "write",  "fsync",
                                                   "fdatasync", "fallocate", "ftruncate", "rename", "unlink",
                                                   "mkdir",     "close",     "any"};

static struct fault {
    enum call call;
    char what[16], path[64];
    long after;
    bool once, set;
} fault;

static atomic_long counts[CALL_COUNT]; /* all, for QUERN_FAULT_COUNT */
static atomic_long meant;              /* those the fault means */

#define FD_MAX 4096
static char *_Atomic paths[FD_MAX]; /* of files that are touched; NULL: of others */
static struct {
    atomic_long offset, bytes;
} last_write[FD_MAX];

/* What the file system is really asked by. */
#define REAL(result, name, ...)                                                                                        \
    static result (*real_##name)(__VA_ARGS__);                                                                         \
    if (!real_##name)                                                                                                  \
    *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

static void parse(void)
{
    const char *text = getenv("QUERN_FAULT");
    char copy[256], *at = copy, *field;

    if (!text || strlen(text) >= sizeof copy)
        return;
    strcpy(copy, text);
    for (int i = 0; (field = strsep(&at, ":")) != NULL; i++) {
        if (i == 0)
            while (fault.call < CALL_COUNT && strcmp(call_names[fault.call], field) != 0)
                fault.call++;
        else if (i == 1)
            snprintf(fault.what, sizeof fault.what, "%s", field);
        else if (strncmp(field, "after=", 6) == 0)
            fault.after = atol(field + 6);
        else if (strncmp(field, "path=", 5) == 0)
            snprintf(fault.path, sizeof fault.path, "%s", field + 5);
        else if (strcmp(field, "once") == 0)
            fault.once = true;
    }
    fault.set = true;
}

__attribute__((constructor)) static void begin(void)
{
    parse();
}

__attribute__((destructor)) static void end(void)
{
    const char *to = getenv("QUERN_FAULT_COUNT");
    FILE *f = to ? fopen(to, "w") : NULL;

    for (int i = 0; i < CALL_COUNT && f; i++)
        fprintf(f, "%s %ld\n", call_names[i], (long)counts[i]);
    if (f)
        fclose(f);
}

static bool is_meant(const char *path)
{
    const char *prefix = getenv("QUERN_FAULT_PREFIX");

    while (path && prefix && *prefix) {
        size_t bytes = strcspn(prefix, ":");
        if (strncmp(path, prefix, bytes) == 0)
            return true;
        prefix += bytes + (prefix[bytes] == ':');
    }
    return false;
}

static const char *path_of(int fd)
{
    return fd >= 0 && fd < FD_MAX ? paths[fd] : NULL;
}

static int number_of(const char *what)
{
    static const struct {
        const char *name;
        int number;
    } numbers[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO},     {"EDQUOT", EDQUOT},
                   {"EROFS", EROFS},   {"EINTR", EINTR}, {"LOST", EIO}};

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (strcmp(numbers[i].name, what) == 0)
            return numbers[i].number;
    return 0;
}

static void hold(void)
{
    const char *gate = getenv("QUERN_FAULT_HOLD");
    struct stat st;

    while (gate && stat(gate, &st) == 0)
        usleep(10000);
}

enum verdict { PASS, FAIL, SHORT, KILL };

/* Counts the call and says what becomes of it; FAIL sets errno. changes: whatever `any` means. */
static enum verdict judge(enum call call, const char *path, bool changes)
{
    counts[call]++;
    if (changes)
        counts[ANY]++;
    if (!fault.set || !(fault.call == call || (fault.call == ANY && changes)) || !strstr(path, fault.path))
        return PASS;
    long number = meant++;
    if (strcmp(fault.what, "short") == 0)
        return SHORT;
    if (number < fault.after || (fault.once && number > fault.after))
        return PASS;
    if (strcmp(fault.what, "kill") == 0)
        return KILL;
    if (strcmp(fault.what, "hold") == 0)
        hold();
    if (number == fault.after && strcmp(fault.what, "int") == 0)
        kill(getpid(), SIGINT);
    if (number == fault.after && strcmp(fault.what, "term") == 0)
        kill(getpid(), SIGTERM);
    if (number == fault.after && strcmp(fault.what, "usr1") == 0)
        kill(getpid(), SIGUSR1);
    errno = number_of(fault.what);
    return errno ? FAIL : PASS;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Most calls: not made when they fail, nor when the process dies before them. */
static bool refused(enum call call, const char *path, bool changes)
{
    int kept = errno;
    enum verdict v = judge(call, path, changes);

    if (v == KILL)
        die();
    if (v == FAIL)
        return true;
    errno = kept;
    return false;
}

static size_t part_of(size_t bytes)
{
    unsigned long seed = (unsigned long)fault.after * 2654435761u + (unsigned long)meant * 40503u;

    return bytes > 1 ? 1 + (size_t)((seed >> 3) % (bytes - 1)) : bytes;
}

/* ---- names ---- */

static int opened(int fd, const char *path)
{
    if (fd < 0 || fd >= FD_MAX)
        return fd;
    last_write[fd].bytes = 0;
    free(atomic_exchange(&paths[fd], strdup(path)));
    return fd;
}

int open(const char *path, int flags, ...)
{
    REAL(int, open, const char *, int, ...);
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);

    if (!is_meant(path))
        return real_open(path, flags, mode);
    if (refused(OPEN, path, flags & O_CREAT))
        return -1;
    return opened(real_open(path, flags, mode), path);
}

int openat(int dir, const char *path, int flags, ...)
{
    REAL(int, openat, int, const char *, int, ...);
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    const char *known = dir == AT_FDCWD ? path : path_of(dir);

    if (!is_meant(known))
        return real_openat(dir, path, flags, mode);
    if (refused(OPEN, known, flags & O_CREAT))
        return -1;
    return opened(real_openat(dir, path, flags, mode), known);
}

int rename(const char *from, const char *to)
{
    REAL(int, rename, const char *, const char *);
    return is_meant(to) && refused(RENAME, to, true) ? -1 : real_rename(from, to);
}

int unlink(const char *path)
{
    REAL(int, unlink, const char *);
    return is_meant(path) && refused(UNLINK, path, true) ? -1 : real_unlink(path);
}

int unlinkat(int dir, const char *path, int flags)
{
    REAL(int, unlinkat, int, const char *, int);
    const char *known = dir == AT_FDCWD ? path : path_of(dir);
    return is_meant(known) && refused(UNLINK, known, true) ? -1 : real_unlinkat(dir, path, flags);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, mkdir, const char *, mode_t);
    return is_meant(path) && refused(MKDIR, path, true) ? -1 : real_mkdir(path, mode);
}

/* ---- bytes ---- */

ssize_t pread(int fd, void *data, size_t bytes, off_t offset)
{
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    const char *path = path_of(fd);

    if (!path)
        return real_pread(fd, data, bytes, offset);
    switch (judge(PREAD, path, false)) {
    case FAIL:
        return -1;
    case KILL:
        die();
        return -1;
    case SHORT:
        return real_pread(fd, data, part_of(bytes), offset);
    case PASS:
        break;
    }
    return real_pread(fd, data, bytes, offset);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    const char *path = path_of(fd);

    if (!path)
        return real_pwrite(fd, data, bytes, offset);
    last_write[fd].offset = offset;
    last_write[fd].bytes = (long)bytes;
    switch (judge(PWRITE, path, true)) {
    case FAIL:
        if (errno == ENOSPC && bytes > 1 && real_pwrite(fd, data, bytes / 2, offset) > 0) /* as a full disk does */
            errno = ENOSPC;
        return -1;
    case KILL:
        (void)!real_pwrite(fd, data, bytes / 2, offset);
        die();
        return -1;
    case SHORT:
        return real_pwrite(fd, data, part_of(bytes), offset);
    case PASS:
        break;
    }
    return real_pwrite(fd, data, bytes, offset);
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    REAL(ssize_t, write, int, const void *, size_t);
    const char *path = path_of(fd);

    if (!path)
        return real_write(fd, data, bytes);
    switch (judge(WRITE, path, true)) {
    case FAIL:
        return -1;
    case KILL:
        (void)!real_write(fd, data, bytes / 2);
        die();
        return -1;
    case SHORT:
        return real_write(fd, data, part_of(bytes));
    case PASS:
        break;
    }
    return real_write(fd, data, bytes);
}

/* Pages that could not be written are clean afterwards, and the next sync is a success. */
static int sync_failed(int fd)
{
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    long bytes = last_write[fd].bytes;
    char *zeros = strcmp(fault.what, "LOST") == 0 && bytes > 0 ? calloc(1, (size_t)bytes) : NULL;
    int why = errno;

    if (zeros)
        (void)!real_pwrite(fd, zeros, (size_t)bytes, last_write[fd].offset);
    free(zeros);
    errno = why;
    return -1;
}

int fsync(int fd)
{
    REAL(int, fsync, int);
    const char *path = path_of(fd);
    return path && refused(FSYNC, path, true) ? sync_failed(fd) : real_fsync(fd);
}

int fdatasync(int fd)
{
    REAL(int, fdatasync, int);
    const char *path = path_of(fd);
    return path && refused(FDATASYNC, path, true) ? sync_failed(fd) : real_fdatasync(fd);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    REAL(int, fallocate, int, int, off_t, off_t);
    const char *path = path_of(fd);
    return path && refused(FALLOCATE, path, true) ? -1 : real_fallocate(fd, mode, offset, bytes);
}

int ftruncate(int fd, off_t bytes)
{
    REAL(int, ftruncate, int, off_t);
    const char *path = path_of(fd);
    return path && refused(FTRUNCATE, path, true) ? -1 : real_ftruncate(fd, bytes);
}

/* A close that fails has closed. */
int close(int fd)
{
    REAL(int, close, int);
    char *path = fd >= 0 && fd < FD_MAX ? atomic_exchange(&paths[fd], NULL) : NULL;
    bool fails = path && refused(CLOSE, path, true);
    int why = errno, result = real_close(fd);

    free(path);
    if (!fails)
        return result;
    errno = why;
    return -1;
}
