#include "convert/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/stage_private.h"
#include "formats/base/file.h"
#include "formats/base/log.h"

/* Anything but a run's own folders. */
static bool has_content(const char *dst, struct arena *a, bool *content, struct err *e)
{
    char **names = NULL;
    size_t count = 0;

    *content = false;
    if (!dir_list(dst, a, &names, &count, e))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], STAGE_FOLDER) != 0 && strcmp(names[i], STAGE_PUBLISHED) != 0 &&
            strcmp(names[i], "lost+found") != 0)
            *content = true;
    return true;
}

bool stage_is_publishing(const char *dst)
{
    struct arena a = {0};
    bool is = path_exists(path_join(&a, path_join(&a, dst, STAGE_FOLDER), STAGE_PUBLISHING));

    arena_release(&a);
    return is;
}

bool stage_check(const char *dst, const char *source_dir, bool force, struct err *e)
{
    struct arena a = {0};
    bool content = false;
    bool ok = false;

    if (path_same(dst, source_dir)) {
        err_set(e, ERR_USAGE, "source and destination are the same folder '%s'", dst);
        goto done;
    }
    if (path_exists(dst) && !path_is_dir(dst)) {
        err_set(e, ERR_USAGE, "destination '%s' is there and is not a folder", dst);
        goto done;
    }
    if (path_exists(dst) && !has_content(dst, &a, &content, e))
        goto done;
    if (content && !force && !stage_is_publishing(dst)) {
        err_set(e, ERR_USAGE, "destination '%s' is not empty; --force replaces what is there", dst);
        goto done;
    }
    ok = true;
done:
    arena_release(&a);
    return ok;
}

void stage_tidy(const char *dst)
{
    struct arena a = {0};
    struct err ignored = {0};

    if (path_is_dir(dst) && !dir_remove_tree(path_join(&a, dst, STAGE_PUBLISHED), &ignored))
        log_warn("'%s' is whole, but its '%s' could not be removed: %s", dst, STAGE_PUBLISHED, ignored.text);
    arena_release(&a);
}

uint64_t stage_held_bytes(const char *dst)
{
    struct arena a = {0};
    const char *dir = path_join(&a, dst, STAGE_FOLDER);
    struct err ignored = {0};
    char **names = NULL;
    size_t count = 0;
    uint64_t bytes = 0;

    if (!path_is_dir(dir) || !dir_list(dir, &a, &names, &count, &ignored))
        count = 0;
    for (size_t i = 0; i < count; i++) {
        struct stat st;
        if (lstat(path_join(&a, dir, names[i]), &st) == 0)
            bytes += (uint64_t)st.st_blocks * 512; /* the unit of st_blocks, whatever the file system's */
    }
    arena_release(&a);
    return bytes;
}

/* A folder can be locked through a descriptor of itself; the lock goes with the process. */
static bool lock_dst(struct stage *s, struct err *e)
{
    struct stat held, named;
    int fd = open(s->dst, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_sys(e, "cannot open the folder '%s'", s->dst);
    s->lock_fd_plus_1 = fd + 1;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return err_set(e, ERR_IO, "destination '%s' is being written by another run", s->dst);
    /* File systems without locks: go on. But a run that failed may have removed the folder behind our open. */
    if (fstat(fd, &held) != 0 || stat(s->dst, &named) != 0 || held.st_ino != named.st_ino ||
        held.st_dev != named.st_dev)
        return err_set(e, ERR_IO, "destination '%s' is being written by another run", s->dst);
    return true;
}

static bool begin_stage(struct stage *s, bool restart, struct err *e)
{
    stage_tidy(s->dst);
    s->publishing = stage_is_publishing(s->dst);
    if (!restart)
        return dir_make(s->dir, e);
    if (s->publishing && !stage_take_back(s, e))
        return false;
    s->publishing = false;
    return dir_remove_tree(s->dir, e) && dir_make(s->dir, e);
}

bool stage_open(struct stage *s, const char *dst, const char *source_dir, bool force, bool restart, struct err *e)
{
    *s = (struct stage){0};
    if (!stage_check(dst, source_dir, force, e))
        return false;
    s->dst = arena_strdup(&s->arena, dst);
    s->dir = path_join(&s->arena, dst, STAGE_FOLDER);
    s->made_dst = !path_exists(dst);
    if (dir_make(s->dst, e) && lock_dst(s, e) && begin_stage(s, restart, e)) {
        s->open = true;
        return true;
    }
    stage_release(s, false);
    return false;
}

bool stage_prune(struct stage *s, stage_belongs *belongs, void *ctx, struct err *e)
{
    struct arena a = {0};
    char **names = NULL;
    size_t count = 0;
    bool ok = dir_list(s->dir, &a, &names, &count, e);

    for (size_t i = 0; i < count && ok; i++)
        if (!belongs(ctx, names[i]))
            ok = dir_remove_tree(path_join(&a, s->dir, names[i]), e);
    arena_release(&a);
    return ok;
}

char *stage_path(struct stage *s, const char *name)
{
    return path_join(&s->arena, s->dir, name);
}

bool stage_finish(struct stage *s, struct err *e)
{
    const char *published = path_join(&s->arena, s->dst, STAGE_PUBLISHED);

    if (rename(s->dir, published) != 0)
        return err_sys(e, "cannot rename '%s' to '%s'", s->dir, published);
    s->open = false;
    return dir_sync(s->dst, e);
}

void stage_release(struct stage *s, bool keep)
{
    struct err ignored = {0};

    if (s->open && dir_is_empty(s->dir))
        keep = false;
    if (s->open && !keep && !dir_remove_tree(s->dir, &ignored))
        log_warn("%s", ignored.text);
    if (s->made_dst && !keep)
        (void)rmdir(s->dst); /* only when nothing is in it */
    if (s->lock_fd_plus_1 > 0)
        close(s->lock_fd_plus_1 - 1);
    arena_release(&s->arena);
    *s = (struct stage){0};
}
