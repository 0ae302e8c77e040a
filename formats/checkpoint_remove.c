/* Taking shards away that are wanted no more; the contract is in checkpoint.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/checkpoint.h"

bool checkpoint_check_removable(const struct checkpoint *c, struct err *e)
{
    struct arena a = {0};
    bool ok = true;

    for (size_t i = 0; i < c->shard_count && ok; i++) {
        struct stat st;
        const char *path = path_join(&a, c->dir, c->shards[i].name);
        if (!c->shards[i].removed && lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
            ok = err_set(e, ERR_UNSUPPORTED,
                         "shard '%s' is a link: what it leads to may serve others, and --delete-source leaves it alone",
                         path);
    }
    arena_release(&a);
    return ok;
}

/* Cuts the file behind its header; its time stays, since a resumed run compares it. */
static bool cut(const char *path, uint64_t bytes, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    bool ok = false;

    if (fd < 0)
        return err_sys(e, "opening '%s'", path);
    if (fstat(fd, &st) != 0 || ftruncate(fd, (off_t)bytes) != 0) {
        err_sys(e, "cutting '%s'", path);
    } else {
        const struct timespec times[2] = {st.st_atim, st.st_mtim};
        ok = (futimens(fd, times) == 0 && fsync(fd) == 0) || err_sys(e, "syncing '%s'", path);
    }
    close(fd);
    return ok;
}

bool checkpoint_remove_shard(struct checkpoint *c, size_t shard, struct err *e)
{
    struct shard *s = &c->shards[shard];
    struct arena a = {0};
    const char *from = path_join(&a, c->dir, s->name);
    const char *to = arena_printf(&a, "%s%s", from, CHECKPOINT_REMOVED_SUFFIX);
    bool ok = s->removed || rename(from, to) == 0 || err_sys(e, "renaming '%s' to '%s'", from, to);

    /* The folder first: a name that came back after a power cut would stand before a cut file. */
    ok = ok && dir_sync(c->dir, e) && cut(to, s->data_offset, e);
    s->removed = true;
    arena_release(&a);
    return ok;
}

bool checkpoint_remove_headers(const struct checkpoint *c, struct err *e)
{
    struct arena a = {0};
    bool ok = true;

    for (size_t i = 0; i < c->shard_count && ok; i++) {
        const char *path = arena_printf(&a, "%s%s", path_join(&a, c->dir, c->shards[i].name), CHECKPOINT_REMOVED_SUFFIX);
        ok = unlink(path) == 0 || errno == ENOENT || err_sys(e, "removing '%s'", path);
    }
    arena_release(&a);
    return ok;
}
