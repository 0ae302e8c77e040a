#include "formats/base/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "formats/base/progress.h"

#define STEP_BYTES_MAX ((size_t)1 << 30) /* Linux moves no more than 2 GiB in one call */
#define COPY_BYTES     ((size_t)4 << 20)

static char *join2(const char *a, const char *b)
{
    struct buf text = {0};

    buf_puts(&text, a);
    buf_puts(&text, b);
    return text.data;
}

/* Reading */

bool file_open(struct file *f, const char *path, struct err *e)
{
    struct stat st;
    /* O_NONBLOCK: a FIFO must be refused, not waited for. Regular files do not care. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    *f = (struct file){0};
    if (fd < 0)
        return err_sys(e, "cannot open '%s'", path);
    f->fd_plus_1 = fd + 1;
    f->path = join2(path, "");
    if (fstat(fd, &st) != 0) {
        err_sys(e, "cannot look at '%s'", path);
        file_close(f);
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        file_close(f);
        return err_set(e, ERR_FORMAT, "'%s' is %s, not a regular file", path,
                       S_ISDIR(st.st_mode) ? "a folder" : "a special file");
    }
    f->bytes = (uint64_t)st.st_size;
    return true;
}

bool file_read(const struct file *f, uint64_t offset, void *data, size_t bytes, struct err *e)
{
    char *to = data;
    size_t done = 0;

    assert(f->fd_plus_1 > 0);
    if (offset > f->bytes || bytes > f->bytes - offset)
        return err_set(e, ERR_FORMAT, "'%s': read of %zu bytes at offset %" PRIu64 " ends past the file size %" PRIu64,
                       f->path, bytes, offset, f->bytes);
    while (done < bytes) {
        size_t step = bytes - done < STEP_BYTES_MAX ? bytes - done : STEP_BYTES_MAX;
        ssize_t got = pread(f->fd_plus_1 - 1, to + done, step, (off_t)(offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_sys(e, "cannot read %zu bytes at offset %" PRIu64 " of '%s'", bytes, offset, f->path);
        if (got == 0)
            return err_set(e, ERR_IO,
                           "'%s' was cut while it was read: it ends at %" PRIu64 " and had %" PRIu64 " bytes", f->path,
                           offset + done, f->bytes);
        done += (size_t)got;
    }
    return true;
}

/* Linux begins to read no more of one piece of advice than the device's window, and says nothing: so the range goes in
 * pieces of the smallest usual one. */
#define ADVICE_BYTES ((uint64_t)128 << 10)

void file_expect(const struct file *f, uint64_t offset, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes; done += ADVICE_BYTES) {
        uint64_t piece = bytes - done < ADVICE_BYTES ? bytes - done : ADVICE_BYTES;
        (void)posix_fadvise(f->fd_plus_1 - 1, (off_t)(offset + done), (off_t)piece, POSIX_FADV_WILLNEED);
    }
}

void file_close(struct file *f)
{
    if (f->fd_plus_1)
        close(f->fd_plus_1 - 1); /* nothing was written: nothing can be lost */
    mem_free(f->path);
    *f = (struct file){0};
}

bool file_slurp(const char *path, uint64_t limit_bytes, char **data, size_t *bytes, struct err *e)
{
    struct file f = {0};
    char *text = NULL;
    bool ok = false;

    if (!file_open(&f, path, e))
        return false;
    if (f.bytes > limit_bytes || f.bytes >= SIZE_MAX) {
        err_set(e, ERR_LIMIT, "'%s' has %" PRIu64 " bytes, more than the limit of %" PRIu64, path, f.bytes,
                limit_bytes);
        goto done;
    }
    text = mem_grow(NULL, (size_t)f.bytes + 1, 1);
    if (!file_read(&f, 0, text, (size_t)f.bytes, e))
        goto done;
    text[f.bytes] = '\0';
    *data = text;
    *bytes = (size_t)f.bytes;
    text = NULL;
    ok = true;
done:
    mem_free(text);
    file_close(&f);
    return ok;
}

/* Writing */

/* Takes the partial file for this process alone. The lock is taken before the
 * file is cut: otherwise a second run would empty what the first is writing. And
 * the name is looked at again behind the lock: the first may have renamed the
 * file to its final name between our open and our lock. */
static bool partial_claim(struct output *o, int fd, struct err *e)
{
    struct stat held, named;

    if (fstat(fd, &held) != 0)
        return err_sys(e, "cannot look at '%s'", o->partial_path);
    if (!S_ISREG(held.st_mode))
        return err_set(e, ERR_IO, "'%s' is there and is not a regular file", o->partial_path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return err_set(e, ERR_IO, "'%s' is being written by another process", o->partial_path);
    /* Any other refusal: the file system has no locks, and we go on without. */
    if (lstat(o->partial_path, &named) != 0 || named.st_dev != held.st_dev || named.st_ino != held.st_ino)
        return err_set(e, ERR_IO, "'%s' is being written by another process", o->partial_path);
    return true;
}

/* tmpfs reserves by allocating every page, a quarter of the time of writing them, with the file locked meanwhile.
 * There the room is looked at instead. False: another file system. */
static bool reserve_in_memory(int fd, uint64_t bytes, int *result)
{
    struct statfs fs;
    struct stat st;

    if (fstatfs(fd, &fs) != 0 || fs.f_type != TMPFS_MAGIC || fstat(fd, &st) != 0)
        return false;
    uint64_t room = (uint64_t)st.st_blocks * 512 + fs.f_bavail * (uint64_t)fs.f_bsize;
    if (fs.f_blocks > 0 && bytes > room) {
        errno = ENOSPC;
        *result = -1;
        return true;
    }
    *result = ftruncate(fd, (off_t)bytes);
    return true;
}

/* fallocate and not posix_fallocate: where the file system cannot, the C
 * library's stand-in writes a byte into every block. */
static bool reserve(const struct output *o, int fd, uint64_t start_bytes, struct err *e)
{
    int result = 0;

    if (ftruncate(fd, (off_t)start_bytes) != 0)
        return err_sys(e, "cannot cut '%s' to %" PRIu64 " bytes", o->partial_path, start_bytes);
    if (!o->bytes)
        return true;
    if (!reserve_in_memory(fd, o->bytes, &result))
        do
            result = fallocate(fd, 0, 0, (off_t)o->bytes);
        while (result != 0 && errno == EINTR && !signal_cancelled());
    if (result != 0 && (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS))
        result = ftruncate(fd, (off_t)o->bytes);
    if (result != 0)
        return err_sys(e, "cannot reserve %" PRIu64 " bytes for '%s'", o->bytes, o->partial_path);
    return true;
}

static bool partial_open(struct output *o, bool resume, struct err *e)
{
    struct stat st;
    int fd = open(o->partial_path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);

    if (fd < 0)
        return err_sys(e, "cannot create '%s'", o->partial_path);
    if (!partial_claim(o, fd, e)) {
        close(fd);
        return false;
    }
    o->fd_plus_1 = fd + 1;
    if (fstat(fd, &st) != 0)
        return err_sys(e, "cannot look at '%s'", o->partial_path);
    uint64_t there = (uint64_t)st.st_size < o->bytes ? (uint64_t)st.st_size : o->bytes;
    return reserve(o, fd, resume ? there : 0, e);
}

/* /dev/stdout is a link that leads to a regular file when the shell has made it one, and is no less a device. */
static bool leads_into_proc(const char *path)
{
    static const char proc[] = "/proc/";
    char target[sizeof proc - 1];

    return readlink(path, target, sizeof target) == (ssize_t)sizeof target && memcmp(target, proc, sizeof target) == 0;
}

/* A rename would put the file in the place of what is there, and for root in that of /dev/null. */
static bool replaceable(const char *path, struct err *e)
{
    struct stat st;

    if (stat(path, &st) != 0 || (S_ISREG(st.st_mode) && !leads_into_proc(path)))
        return true;
    return err_set(e, ERR_USAGE, "'%s' is %s, not a regular file", path,
                   S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
}

bool output_check(const char *path, struct err *e)
{
    struct arena a = {0};
    const char *folder = path_join(&a, path_parent(&a, path), "."); /* or a file would lack the x bit only */
    bool ok = replaceable(path, e) && (access(folder, W_OK | X_OK) == 0 || err_sys(e, "cannot create '%s'", path));

    arena_release(&a);
    return ok;
}

bool output_open(struct output *o, const char *path, uint64_t bytes, bool resume, struct err *e)
{
    *o = (struct output){.bytes = bytes, .keep = resume};
    if (!replaceable(path, e))
        return false;
    if (bytes > INT64_MAX)
        return err_set(e, ERR_LIMIT, "'%s': no file system has files of %" PRIu64 " bytes", path, bytes);
    o->path = join2(path, "");
    o->partial_path = join2(path, FILE_PARTIAL_SUFFIX);
    if (!partial_open(o, resume, e)) {
        output_release(o);
        return false;
    }
    o->keep = false;
    return true;
}

bool output_write(struct output *o, uint64_t offset, const void *data, size_t bytes, struct err *e)
{
    const char *from = data;
    size_t done = 0;

    assert(o->fd_plus_1 > 0);
    assert(offset <= o->bytes && bytes <= o->bytes - offset);
    while (done < bytes) {
        size_t step = bytes - done < STEP_BYTES_MAX ? bytes - done : STEP_BYTES_MAX;
        ssize_t put = pwrite(o->fd_plus_1 - 1, from + done, step, (off_t)(offset + done));

        if (put < 0 && errno == EINTR)
            continue;
        if (put == 0)
            errno = EIO;
        if (put <= 0)
            return err_sys(e, "cannot write %zu bytes at offset %" PRIu64 " of '%s'", bytes, offset, o->partial_path);
        done += (size_t)put;
    }
    /* A hint: the disk begins now, and the sync at the end finds little left. */
    (void)sync_file_range(o->fd_plus_1 - 1, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
    return true;
}

bool output_sync(struct output *o, struct err *e)
{
    int result;

    do
        result = fdatasync(o->fd_plus_1 - 1);
    while (result != 0 && errno == EINTR);
    return result == 0 || err_sys(e, "cannot sync '%s'", o->partial_path);
}

static bool partial_promote(const struct output *o, int fd, struct err *e)
{
    if (close(fd) != 0 && errno != EINTR) /* Linux has closed it when it says EINTR */
        return err_sys(e, "cannot close '%s'", o->partial_path);
    if (rename(o->partial_path, o->path) != 0)
        return err_sys(e, "cannot rename '%s' to '%s'", o->partial_path, path_base(o->path));
    return true;
}

/* The order is the point: the bytes are on disk before the name is, and the
 * name is on disk before we say so. */
bool output_commit(struct output *o, struct err *e)
{
    struct arena a = {0};
    int fd = o->fd_plus_1 - 1, result;

    assert(o->fd_plus_1 > 0);
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    if (result != 0)
        return err_sys(e, "cannot sync '%s'", o->partial_path);
    o->fd_plus_1 = 0;
    if (!partial_promote(o, fd, e)) {
        if (!o->keep)
            unlink(o->partial_path);
        return false;
    }
    bool ok = dir_sync(path_parent(&a, o->path), e);
    arena_release(&a);
    output_release(o);
    return ok;
}

void output_release(struct output *o)
{
    /* Without the descriptor the file is not ours to remove: partial_claim may
     * have found that another process writes it. */
    if (o->fd_plus_1) {
        if (!o->keep)
            unlink(o->partial_path);
        close(o->fd_plus_1 - 1);
    }
    mem_free(o->path);
    mem_free(o->partial_path);
    *o = (struct output){0};
}

bool file_write_whole(const char *path, const void *data, size_t bytes, struct err *e)
{
    struct output o = {0};
    bool ok = output_open(&o, path, bytes, false, e) && output_write(&o, 0, data, bytes, e) && output_commit(&o, e);

    output_release(&o);
    return ok;
}

static bool copy_all(const struct file *in, struct output *out, char *step, struct err *e)
{
    for (uint64_t at = 0; at < in->bytes;) {
        uint64_t left = in->bytes - at;
        size_t bytes = left < COPY_BYTES ? (size_t)left : COPY_BYTES;

        if (signal_cancelled())
            return err_set(e, ERR_CANCELLED, "cancelled");
        if (!file_read(in, at, step, bytes, e) || !output_write(out, at, step, bytes, e))
            return false;
        at += bytes;
    }
    return true;
}

bool file_copy(const char *from, const char *to, struct err *e)
{
    struct file in = {0};
    struct output out = {0};
    char *step = NULL;
    bool ok = false;

    if (!file_open(&in, from, e) || !output_open(&out, to, in.bytes, false, e))
        goto done;
    step = mem_aligned(COPY_BYTES);
    if (!copy_all(&in, &out, step, e))
        goto done;
    ok = output_commit(&out, e);
done:
    mem_free(step);
    output_release(&out);
    file_close(&in);
    return ok || err_in(e, "copying '%s'", from);
}
