/* How the files of a stage move up into DST. A list of what goes and what comes is written first, durably: a kill at
 * any moment leaves either nothing done, or a list by which the next run does the rest, or takes it back. */
#include "convert/stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "convert/journal.h"
#include "convert/stage_private.h"
#include "formats/base/file.h"
#include "formats/checkpoint.h"
#include "formats/json.h"

#define INDEX_NAME     "model.safetensors.index.json"
#define LIST_BYTES_MAX (64u << 20)

/* These make a folder a model: they come last, in this order, and go first, in the other. */
static const char *const model_files[] = {"quern.json", INDEX_NAME, "config.json"};
#define MODEL_FILE_COUNT (sizeof model_files / sizeof model_files[0])

static bool is_model_file(const char *name)
{
    for (size_t i = 0; i < MODEL_FILE_COUNT; i++)
        if (strcmp(name, model_files[i]) == 0)
            return true;
    return false;
}

/* ---- the list: "-NAME" goes, "+NAME" comes, each ended by NUL, as a file name may hold anything else ---- */

static void list_add(struct buf *list, char sign, const char *name)
{
    buf_add(list, &sign, 1);
    buf_add(list, name, strlen(name) + 1);
}

static const char *list_next(const struct buf *list, const char *entry)
{
    const char *next = entry ? entry + strlen(entry) + 1 : list->data;

    return next && next < list->data + list->bytes ? next : NULL;
}

static bool list_has(const struct buf *list, char sign, const char *name)
{
    for (const char *entry = list_next(list, NULL); entry; entry = list_next(list, entry))
        if (entry[0] == sign && strcmp(entry + 1, name) == 0)
            return true;
    return false;
}

static bool list_load(struct stage *s, struct buf *list, struct err *e)
{
    char *data = NULL;
    size_t bytes = 0;

    if (!file_slurp(stage_path(s, STAGE_PUBLISHING), LIST_BYTES_MAX, &data, &bytes, e))
        return false;
    buf_add(list, data, bytes);
    mem_free(data);
    return true;
}

static bool is_shard_name(const char *name)
{
    const char *ending = strrchr(name, '.');

    return !strchr(name, '/') && ending && strcmp(ending, ".safetensors") == 0;
}

/* Shards of the bundle that stands in DST: named by its index, never guessed. */
static bool list_old_shards(struct stage *s, struct buf *list, struct err *e)
{
    const char *index = path_join(&s->arena, s->dst, INDEX_NAME);
    struct json_doc d = {0};
    struct err why = {0};
    const char *last = "";

    if (!path_exists(index)) {
        list_add(list, '-', "model.safetensors");
        return true;
    }
    if (!json_load(&d, index, CHECKPOINT_INDEX_BYTES_MAX, JSON_STRICT, &why)) {
        if (why.code != ERR_IO)
            return true; /* not an index we understand: nothing is removed on its word */
        if (e)
            *e = why;
        return false;
    }
    const struct json *map = json_get(d.root, "weight_map");
    for (const struct json *m = map ? json_first(map) : NULL; m; m = json_next(m)) {
        const char *name = json_string(m);
        if (!name || !is_shard_name(name) || strcmp(name, last) == 0)
            continue;
        last = name; /* an index names a shard many times in a row */
        if (!list_has(list, '-', name))
            list_add(list, '-', name);
    }
    json_release(&d);
    return true;
}

static bool moves_up(const char *name)
{
    return strcmp(name, STAGE_PUBLISHING) != 0 && strcmp(name, JOURNAL_NAME) != 0;
}

static bool list_make(struct stage *s, struct buf *list, char *const *names, size_t count, struct err *e)
{
    if (s->publishing && !list_load(s, list, e))
        return false;
    if (!s->publishing && !list_old_shards(s, list, e))
        return false;
    for (size_t i = 0; i < count; i++)
        if (moves_up(names[i]) && (!s->publishing || !list_has(list, '+', names[i])))
            list_add(list, '+', names[i]);
    if (!file_write_whole(stage_path(s, STAGE_PUBLISHING), list->data, list->bytes, e))
        return false;
    s->publishing = true;
    return true;
}

/* ---- what it says, done ---- */

static bool remove_file(struct stage *s, const char *name, struct err *e)
{
    const char *path = path_join(&s->arena, s->dst, name);

    return unlink(path) == 0 || errno == ENOENT || err_sys(e, "cannot remove '%s'", path);
}

static bool move_up(struct stage *s, const char *name, struct err *e)
{
    const char *from = stage_path(s, name);
    const char *to = path_join(&s->arena, s->dst, name);

    return rename(from, to) == 0 || err_sys(e, "cannot rename '%s' to '%s'", from, to);
}

/* First what makes it a model, then its shards; but nothing that has moved up already. */
static bool remove_old(struct stage *s, const struct buf *list, struct err *e)
{
    for (size_t i = MODEL_FILE_COUNT; i > 0; i--)
        if (!remove_file(s, model_files[i - 1], e))
            return false;
    if (!dir_sync(s->dst, e))
        return false;
    for (const char *entry = list_next(list, NULL); entry; entry = list_next(list, entry)) {
        bool moved = list_has(list, '+', entry + 1) && !path_exists(stage_path(s, entry + 1));
        if (entry[0] == '-' && !moved && !remove_file(s, entry + 1, e))
            return false;
    }
    return true;
}

static bool move_all(struct stage *s, char *const *names, size_t count, struct err *e)
{
    for (size_t i = 0; i < count; i++)
        if (!is_model_file(names[i]) && moves_up(names[i]) && !move_up(s, names[i], e))
            return false;
    if (!dir_sync(s->dst, e))
        return false;
    for (size_t i = 0; i < MODEL_FILE_COUNT; i++)
        if (path_exists(stage_path(s, model_files[i])) && !move_up(s, model_files[i], e))
            return false;
    return dir_sync(s->dst, e);
}

/* The stage holds every model file, also when a run before had moved some: they are written anew, and so the ones in
 * DST may go. */
bool stage_publish(struct stage *s, struct err *e)
{
    struct buf list = {0};
    char **names = NULL;
    size_t count = 0;
    bool ok = dir_list(s->dir, &s->arena, &names, &count, e) && list_make(s, &list, names, count, e) &&
              remove_old(s, &list, e) && move_all(s, names, count, e);

    buf_release(&list);
    return ok;
}

bool stage_take_back(struct stage *s, struct err *e)
{
    struct buf list = {0};
    bool ok = list_load(s, &list, e);

    for (const char *entry = list_next(&list, NULL); entry && ok; entry = list_next(&list, entry))
        if (entry[0] == '+' && !path_exists(stage_path(s, entry + 1)))
            ok = remove_file(s, entry + 1, e);
    buf_release(&list);
    return ok;
}
