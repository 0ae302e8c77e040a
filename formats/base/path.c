/* Paths and folders; the contracts are in file.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "formats/base/file.h"

/* Names */

char *path_join(struct arena *a, const char *dir, const char *name)
{
    size_t bytes = strlen(dir);
    const char *slash = bytes && dir[bytes - 1] != '/' ? "/" : "";

    return arena_printf(a, "%s%s%s", dir, slash, name);
}

const char *path_base(const char *path)
{
    const char *end = path + strlen(path);

    while (end > path + 1 && end[-1] == '/')
        end--;
    while (end > path && end[-1] != '/')
        end--;
    return *end ? end : end > path ? end - 1 : path;
}

char *path_parent(struct arena *a, const char *path)
{
    const char *base = path_base(path);

    if (base == path)
        return arena_strdup(a, *path == '/' ? "/" : ".");
    while (base > path + 1 && base[-1] == '/')
        base--;
    return arena_strndup(a, path, (size_t)(base - path));
}

/* What is there */

bool path_exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

bool path_is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool path_same(const char *a, const char *b)
{
    struct stat at_a, at_b;

    return stat(a, &at_a) == 0 && stat(b, &at_b) == 0 && at_a.st_dev == at_b.st_dev && at_a.st_ino == at_b.st_ino;
}

bool path_same_place(const char *a, const char *b)
{
    struct arena arena = {0};
    bool same = path_same(a, b) || (strcmp(path_base(a), path_base(b)) == 0 &&
                                    path_same(path_parent(&arena, a), path_parent(&arena, b)));

    arena_release(&arena);
    return same;
}

const char *path_nearest(struct arena *a, const char *path)
{
    struct stat st;

    while (stat(path, &st) != 0 && (errno == ENOENT || errno == ENOTDIR) && strcmp(path, "/") != 0 &&
           strcmp(path, ".") != 0)
        path = path_parent(a, path);
    return path;
}

bool path_same_device(const char *a, const char *b)
{
    struct arena arena = {0};
    struct stat at_a, at_b;
    bool same = stat(path_nearest(&arena, a), &at_a) == 0 && stat(path_nearest(&arena, b), &at_b) == 0 &&
                at_a.st_dev == at_b.st_dev;

    arena_release(&arena);
    return same;
}

bool path_free_bytes(const char *path, uint64_t *bytes, struct err *e)
{
    struct arena a = {0};
    struct statvfs fs;
    bool ok = statvfs(path_nearest(&a, path), &fs) == 0 || err_sys(e, "cannot look at the file system of '%s'", path);

    if (ok)
        *bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    arena_release(&a);
    return ok;
}

/* Folders */

static bool make_one(const char *path, struct err *e)
{
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && path_is_dir(path)))
        return true;
    /* The root of a read-only or foreign file system answers other things than EEXIST. */
    int why = errno;
    if (path_is_dir(path))
        return true;
    errno = why;
    return err_sys(e, "cannot make the folder '%s'", path);
}

bool dir_make(const char *path, struct err *e)
{
    struct arena a = {0};
    char *step = arena_strdup(&a, path);
    bool ok = true;

    for (char *s = step; ok && *s; s++) {
        if (*s != '/' || s == step)
            continue;
        *s = '\0';
        ok = make_one(step, e);
        *s = '/';
    }
    ok = ok && make_one(step, e);
    arena_release(&a);
    return ok;
}

bool dir_sync(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_sys(e, "cannot open the folder '%s'", path);
    int result;
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    /* EINVAL: a file system that has no sync for folders. */
    bool ok = result == 0 || errno == EINVAL || err_sys(e, "cannot sync the folder '%s'", path);
    close(fd);
    return ok;
}

/* The next name but . and ..; NULL at the end, with errno set when that is an error. */
static const char *next_name(DIR *d)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(d);
        if (!entry)
            return NULL;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return entry->d_name;
    }
}

static bool remove_at(int parent_fd, const char *name, const char *top, struct err *e);

/* Takes the descriptor. */
static bool remove_inside(int fd, const char *top, struct err *e)
{
    DIR *d = fdopendir(fd);
    const char *name;
    bool ok = true;

    if (!d) {
        err_sys(e, "cannot read a folder in '%s'", top);
        close(fd);
        return false;
    }
    while (ok && (name = next_name(d)))
        ok = remove_at(dirfd(d), name, top, e);
    if (ok && errno)
        ok = err_sys(e, "cannot read a folder in '%s'", top);
    closedir(d);
    return ok;
}

static bool remove_at(int parent_fd, const char *name, const char *top, struct err *e)
{
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM) /* EPERM: what POSIX says for a folder */
        return err_sys(e, "cannot remove '%s' in '%s'", name, top);
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, "cannot remove '%s' in '%s'", name, top);
    if (!remove_inside(fd, top, e))
        return false;
    if (unlinkat(parent_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        return err_sys(e, "cannot remove the folder '%s' in '%s'", name, top);
    return true;
}

bool dir_remove_tree(const char *path, struct err *e)
{
    return remove_at(AT_FDCWD, path, path, e);
}

bool dir_is_empty(const char *path)
{
    DIR *d = opendir(path);

    if (!d)
        return false;
    bool empty = !next_name(d) && !errno;
    closedir(d);
    return empty;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool dir_list(const char *path, struct arena *a, char ***names, size_t *count, struct err *e)
{
    DIR *d = opendir(path);
    char **found = NULL;
    size_t found_count = 0, room = 0;
    const char *name;

    if (!d)
        return err_sys(e, "cannot open the folder '%s'", path);
    while ((name = next_name(d))) {
        if (found_count == room) {
            room = room ? room * 2 : 64;
            found = mem_grow(found, room, sizeof *found);
        }
        found[found_count++] = arena_strdup(a, name);
    }
    bool ok = !errno || err_sys(e, "cannot read the folder '%s'", path);
    closedir(d);
    if (ok) {
        if (found_count)
            qsort(found, found_count, sizeof *found, by_bytes);
        *names = arena_array(a, found_count, sizeof **names);
        if (found_count)
            memcpy(*names, found, found_count * sizeof **names);
        *count = found_count;
    }
    mem_free(found);
    return ok;
}
