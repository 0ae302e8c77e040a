#include "formats/base/direct.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_BYTES_MAX ((uint64_t)1 << 30) /* Linux moves no more than 2 GiB in one call */

/* Linux tells the owner and those who may write; to others it says that everything is cached. */
static bool may_ask(const struct stat *st, const char *path)
{
    return geteuid() == 0 || st->st_uid == geteuid() || faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

void direct_open(struct direct *d, const struct file *f)
{
    struct stat open_one, named;
    int fd;

    assert(f->fd_plus_1 > 0);
    *d = (struct direct){.file = f};
    if (f->bytes == 0 || (fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT)) < 0)
        return;
    /* Another file may have taken the name. */
    if (fstat(f->fd_plus_1 - 1, &open_one) != 0 || fstat(fd, &named) != 0 || !same_file(&open_one, &named)) {
        close(fd);
        return;
    }
    d->fd_plus_1 = fd + 1;
    if (!may_ask(&named, f->path))
        return;
    void *map = mmap(NULL, (size_t)f->bytes, PROT_READ, MAP_SHARED, fd, 0);
    d->map = map == MAP_FAILED ? NULL : map;
}

void direct_close(struct direct *d)
{
    if (d->map)
        munmap((void *)d->map, (size_t)d->file->bytes);
    if (d->fd_plus_1)
        close(d->fd_plus_1 - 1);
    *d = (struct direct){0};
}

static uint64_t page_of(uint64_t offset)
{
    return offset / DIRECT_PAGE_BYTES * DIRECT_PAGE_BYTES;
}

uint64_t direct_room_bytes(uint64_t offset, uint64_t bytes)
{
    return page_of(offset + bytes + DIRECT_PAGE_BYTES - 1) - page_of(offset);
}

/* Copying what is there is several times faster than any disk; reading again a little that is there costs little. */
static bool mostly_cached(const struct direct *d, uint64_t begin, uint64_t end)
{
    unsigned char there[4096];
    long page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t page = page_bytes > 0 ? (uint64_t)page_bytes : DIRECT_PAGE_BYTES, cached = 0, pages = 0;

    if (!d->map)
        return false;
    for (uint64_t at = begin / page * page; at < end;) {
        uint64_t count = (end - at + page - 1) / page;
        count = count < sizeof there ? count : sizeof there;
        if (mincore((uint8_t *)d->map + at, (size_t)(count * page), there) != 0)
            return false;
        for (uint64_t i = 0; i < count; i++)
            cached += there[i] & 1;
        pages += count;
        at += count * page;
    }
    return cached * 2 > pages;
}

/* The first `wanted` bytes of whole pages. False: they did not all come, for whatever reason. */
static bool read_pages(const struct direct *d, uint64_t begin, uint64_t bytes, uint64_t wanted, uint8_t *to)
{
    uint64_t done = 0;

    while (done < wanted && done % DIRECT_PAGE_BYTES == 0) {
        uint64_t step = bytes - done < STEP_BYTES_MAX ? bytes - done : STEP_BYTES_MAX;
        ssize_t got = pread(d->fd_plus_1 - 1, to + done, (size_t)step, (off_t)(begin + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        done += (uint64_t)got;
    }
    return done >= wanted;
}

/* Where anything is odd, file_read reads it again and finds the words. */
bool direct_read(const struct direct *d, uint64_t offset, uint64_t bytes, uint8_t *room, struct err *e)
{
    uint64_t begin = page_of(offset), lead = offset - begin;
    bool inside = offset <= d->file->bytes && bytes <= d->file->bytes - offset;

    assert((uintptr_t)room % DIRECT_PAGE_BYTES == 0);
    if (d->fd_plus_1 && inside && !mostly_cached(d, offset, offset + bytes) &&
        read_pages(d, begin, direct_room_bytes(offset, bytes), lead + bytes, room))
        return true;
    return file_read(d->file, offset, room + lead, (size_t)bytes, e);
}
