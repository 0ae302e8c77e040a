#include "convert/stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
    if (content && !force) {
        err_set(e, ERR_USAGE, "destination '%s' is not empty; --force replaces what is there", dst);
        goto done;
    }
    ok = true;
done:
    arena_release(&a);
    return ok;
}

bool stage_open(struct stage *s, const char *dst, const char *source_dir, bool force, bool resume, struct err *e)
{
    *s = (struct stage){0};
    if (!stage_check(dst, source_dir, force, e))
        return false;
    s->dst = arena_strdup(&s->arena, dst);
    s->dir = path_join(&s->arena, dst, STAGE_FOLDER);
    s->made_dst = !path_exists(dst);
    s->open = true;
    if (!resume && !dir_remove_tree(s->dir, e))
        goto failed;
    if (!dir_make(s->dir, e))
        goto failed;
    return true;
failed:
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

bool stage_publish(struct stage *s, struct err *e)
{
    char **names = NULL;
    size_t count = 0;

    if (!dir_list(s->dir, &s->arena, &names, &count, e) || !dir_sync(s->dir, e) || !remove_old_bundle(s, e))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!is_model_file(names[i]) && !move_up(s, names[i], e))
            return false;
    for (size_t i = 0; i < MODEL_FILE_COUNT; i++)
        if (path_exists(stage_path(s, model_files[i])) && !move_up(s, model_files[i], e))
            return false;
    if (rmdir(s->dir) != 0)
        return err_sys(e, "removing '%s'", s->dir);
    s->open = false;
    return dir_sync(s->dst, e);
}

void stage_release(struct stage *s, bool keep)
{
    struct err ignored = {0};

    if (s->open && !keep) {
        if (!dir_remove_tree(s->dir, &ignored))
            log_warn("%s", ignored.text);
        if (s->made_dst)
            (void)rmdir(s->dst);
    }
    arena_release(&s->arena);
    *s = (struct stage){0};
}
