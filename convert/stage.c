#include "convert/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "convert/journal.h"
#include "formats/base/file.h"
#include "formats/base/log.h"
#include "formats/checkpoint.h"
#include "formats/json.h"

/* These make a folder a model: they go last, in this order, and leave first. */
static const char *const model_files[] = {"quern.json", "model.safetensors.index.json", "config.json"};
#define MODEL_FILE_COUNT (sizeof model_files / sizeof model_files[0])

static bool is_model_file(const char *name)
{
    for (size_t i = 0; i < MODEL_FILE_COUNT; i++)
        if (strcmp(name, model_files[i]) == 0)
            return true;
    return false;
}

/* Anything but an earlier run's stage. */
static bool has_content(const char *dst, struct arena *a, bool *content, struct err *e)
{
    char **names = NULL;
    size_t count = 0;

    *content = false;
    if (!dir_list(dst, a, &names, &count, e))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], STAGE_FOLDER) != 0 && strcmp(names[i], "lost+found") != 0)
            *content = true;
    return true;
}

/* A run was killed while its files moved up: the content is its own. */
static bool is_publishing(const char *dst, struct arena *a)
{
    return path_exists(path_join(a, path_join(a, dst, STAGE_FOLDER), STAGE_PUBLISHING));
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
    if (content && !force && !is_publishing(dst, &a)) {
        err_set(e, ERR_USAGE, "destination '%s' is not empty; --force replaces what is there", dst);
        goto done;
    }
    ok = true;
done:
    arena_release(&a);
    return ok;
}

/* A folder can be locked through a descriptor of itself; the lock goes with the process. */
static bool lock_dst(struct stage *s, struct err *e)
{
    int fd = open(s->dst, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_sys(e, "opening '%s'", s->dst);
    s->lock_fd_plus_1 = fd + 1;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return err_set(e, ERR_IO, "destination '%s' is being written by another run", s->dst);
    return true; /* file systems without locks: go on */
}

bool stage_clear(struct stage *s, struct err *e)
{
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
    if (dir_make(s->dst, e) && lock_dst(s, e)) {
        s->open = true;
        if (restart ? stage_clear(s, e) : dir_make(s->dir, e))
            return true;
    }
    stage_release(s, false);
    return false;
}

char *stage_path(struct stage *s, const char *name)
{
    return path_join(&s->arena, s->dir, name);
}

static bool remove_file(const char *path, struct err *e)
{
    return unlink(path) == 0 || errno == ENOENT || err_sys(e, "removing '%s'", path);
}

static bool move_up(struct stage *s, const char *name, struct err *e)
{
    const char *from = stage_path(s, name);
    const char *to = path_join(&s->arena, s->dst, name);

    return rename(from, to) == 0 || err_sys(e, "renaming '%s' to '%s'", from, to);
}

/* Files of the bundle that stood here before: named by its index, never guessed. */
static bool remove_old_shards(struct stage *s, struct err *e)
{
    const char *index = path_join(&s->arena, s->dst, "model.safetensors.index.json");
    struct json_doc d = {0};
    struct err ignored = {0};
    bool ok = true;

    if (!path_exists(index))
        return remove_file(path_join(&s->arena, s->dst, "model.safetensors"), e);
    if (!json_load(&d, index, CHECKPOINT_INDEX_BYTES_MAX, JSON_STRICT, &ignored))
        return true; /* not an index we understand: nothing is removed on its word */
    const struct json *map = json_get(d.root, "weight_map");
    for (const struct json *m = map ? json_first(map) : NULL; m && ok; m = json_next(m)) {
        const char *name = json_string(m);
        if (name && !strchr(name, '/') && strstr(name, ".safetensors"))
            ok = remove_file(path_join(&s->arena, s->dst, name), e);
    }
    json_release(&d);
    return ok;
}

static bool remove_old_bundle(struct stage *s, struct err *e)
{
    bool ok = remove_old_shards(s, e);

    for (size_t i = MODEL_FILE_COUNT; i > 0 && ok; i--)
        ok = remove_file(path_join(&s->arena, s->dst, model_files[i - 1]), e);
    return ok;
}

static bool stays_in_stage(const char *name)
{
    return strcmp(name, STAGE_PUBLISHING) == 0 || strcmp(name, JOURNAL_NAME) == 0;
}

static bool move_all(struct stage *s, char *const *names, size_t count, struct err *e)
{
    for (size_t i = 0; i < count; i++)
        if (!is_model_file(names[i]) && !stays_in_stage(names[i]) && !move_up(s, names[i], e))
            return false;
    for (size_t i = 0; i < MODEL_FILE_COUNT; i++)
        if (path_exists(stage_path(s, model_files[i])) && !move_up(s, model_files[i], e))
            return false;
    return dir_sync(s->dst, e);
}

bool stage_publish(struct stage *s, struct err *e)
{
    char **names = NULL;
    size_t count = 0;

    if (!path_exists(stage_path(s, STAGE_PUBLISHING)) &&
        (!remove_old_bundle(s, e) || !file_write_whole(stage_path(s, STAGE_PUBLISHING), "", 0, e)))
        return false;
    if (!dir_list(s->dir, &s->arena, &names, &count, e) || !move_all(s, names, count, e))
        return false;
    if (!dir_remove_tree(s->dir, e))
        return false;
    s->open = false;
    return dir_sync(s->dst, e);
}

void stage_release(struct stage *s, bool keep)
{
    struct err ignored = {0};

    if (s->open && !keep && !dir_remove_tree(s->dir, &ignored))
        log_warn("%s", ignored.text);
    if (s->made_dst && !keep)
        (void)rmdir(s->dst); /* only when nothing is in it */
    if (s->lock_fd_plus_1 > 0)
        close(s->lock_fd_plus_1 - 1);
    arena_release(&s->arena);
    *s = (struct stage){0};
}
