#include "formats/checkpoint.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/units.h"
#include "formats/index.h"
#include "formats/safetensors.h"

#define SINGLE_FILE_NAME "model.safetensors"
#define SUFFIX           ".safetensors"

/* What only opening needs; tensors move into one array when all shards are read. */
struct opening {
    struct checkpoint *c;
    struct index index;
    struct arena arena;
    struct safetensors *headers; /* one a shard */
    const struct err_sink *sink; /* NULL: the first defect ends it */
};

static void add_note(struct checkpoint *c, const char *rule, const char *text)
{
    bool full = !(c->note_count & (c->note_count - 1)); /* room doubles: 1, 2, 4, ... */
    struct checkpoint_note *notes = c->notes;

    if (full) {
        notes = arena_array(&c->arena, c->note_count ? c->note_count * 2 : 1, sizeof *notes);
        for (size_t i = 0; i < c->note_count; i++)
            notes[i] = c->notes[i];
    }
    notes[c->note_count++] = (struct checkpoint_note){.rule = rule, .text = text};
    c->notes = notes;
}

/* ---- which shards ---- */

/* Instead of "no such file" for a name that is there: a blob store that was not downloaded. Always false. */
static bool explain_link(const char *path, struct err *e)
{
    struct stat st;
    char target[256] = "";

    if (!e || e->sys != ENOENT || lstat(path, &st) != 0 || !S_ISLNK(st.st_mode))
        return false;
    if (readlink(path, target, sizeof target - 1) < 0)
        return false;
    return err_set(e, ERR_IO, "'%s' is a link to '%s', which is not there", path, target);
}

static void name_shards(struct checkpoint *c, const char *const *names, size_t count)
{
    c->shards = arena_array(&c->arena, count, sizeof *c->shards);
    c->shard_count = count;
    for (size_t i = 0; i < count; i++)
        c->shards[i].name = arena_strdup(&c->arena, names[i]);
}

static bool ends_with(const char *s, const char *suffix)
{
    size_t bytes = strlen(s), suffix_bytes = strlen(suffix);

    return bytes > suffix_bytes && !strcmp(s + bytes - suffix_bytes, suffix);
}

static bool find_index(struct opening *o, struct err *e)
{
    char *path = path_join(&o->arena, o->c->dir, INDEX_FILE_NAME);

    if (!index_load(&o->index, &o->arena, path, CHECKPOINT_INDEX_BYTES_MAX, e)) {
        explain_link(path, e);
        return err_rule(e, "index-malformed");
    }
    o->c->indexed = true;
    name_shards(o->c, o->index.shards, o->index.shard_count);
    return true;
}

static const char *skip_digits(const char *s)
{
    return s + strspn(s, "0123456789");
}

bool checkpoint_shard_part(const char *name, uint64_t *part, uint64_t *parts)
{
    const char *of = strstr(name, "-of-"), *digits = of;

    while (of && digits > name && digits[-1] >= '0' && digits[-1] <= '9')
        digits--;
    if (!of || digits == of || strcmp(skip_digits(of + 4), SUFFIX) != 0 || of[4] == '.')
        return false;
    *part = strtoull(digits, NULL, 10);
    *parts = strtoull(of + 4, NULL, 10);
    return *parts > 1;
}

static bool find_single(struct opening *o, char **names, size_t name_count, struct err *e)
{
    const char *found = NULL;
    uint64_t part = 0, parts = 0;
    size_t count = 0;

    for (size_t i = 0; i < name_count; i++) {
        if (!ends_with(names[i], SUFFIX))
            continue;
        count++;
        if (!found || !strcmp(names[i], SINGLE_FILE_NAME))
            found = names[i];
    }
    if (!found)
        return err_broken(e, ERR_FORMAT, "shard-missing", "no " INDEX_FILE_NAME " and no " SUFFIX " file in '%s'",
                          o->c->dir);
    if (count > 1 && strcmp(found, SINGLE_FILE_NAME) != 0)
        return err_broken(e, ERR_FORMAT, "index-missing", "no " INDEX_FILE_NAME " in '%s', but %zu " SUFFIX " files",
                          o->c->dir, count);
    if (checkpoint_shard_part(found, &part, &parts))
        return err_broken(e, ERR_FORMAT, "index-missing",
                          "'%s' is part %" PRIu64 " of %" PRIu64 ", and there is no " INDEX_FILE_NAME " in '%s'", found,
                          part, parts, o->c->dir);
    if (count > 1)
        add_note(o->c, "shard-unread",
                 arena_printf(&o->c->arena, "%zu " SUFFIX " files beside '%s' are not read: there is no index",
                              count - 1, found));
    name_shards(o->c, &found, 1);
    return true;
}

static bool is_there(const char *path, struct err *e)
{
    struct stat st;

    if (lstat(path, &st) == 0 || (errno != ENOENT && errno != ENOTDIR))
        return true; /* what else is wrong, opening says */
    return err_set(e, ERR_IO, "there is no such folder or file");
}

static bool find_shards(struct opening *o, const char *path, struct err *e)
{
    struct checkpoint *c = o->c;
    char **names = NULL;
    const char *name = NULL;
    size_t name_count = 0;

    c->path = arena_strdup(&c->arena, path);
    if (!is_there(path, e))
        return false;
    if (!path_is_dir(path)) {
        c->dir = path_parent(&c->arena, path);
        name = path_base(c->path);
        name_shards(c, &name, 1);
        return true;
    }
    c->dir = c->path;
    if (path_exists(path_join(&o->arena, path, INDEX_FILE_NAME)))
        return find_index(o, e);
    return dir_list(path, &o->arena, &names, &name_count, e) && find_single(o, names, name_count, e);
}

/* ---- opening them ---- */

/* Every shard keeps a descriptor, and 163 of them twice (verify compares two
 * checkpoints) is close to the 1024 of an ordinary login when other files are
 * open too. Where the hard limit is in the way, opening says so. */
static void raise_descriptor_limit(size_t more)
{
    struct rlimit limit = {0};

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return;
    limit.rlim_cur = limit.rlim_max - limit.rlim_cur > more ? limit.rlim_cur + more : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int64_t file_mtime(const struct file *f)
{
    struct stat st;

    return fstat(f->fd_plus_1 - 1, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec : 0;
}

static char *removed_path(struct arena *a, const struct checkpoint *c, const struct shard *s)
{
    return arena_printf(a, "%s%s", path_join(a, c->dir, s->name), CHECKPOINT_REMOVED_SUFFIX);
}

/* Cut to its header, or, after a kill at the wrong moment, not cut yet. */
static bool open_removed(struct opening *o, size_t i, struct err *e)
{
    struct shard *s = &o->c->shards[i];
    struct safetensors *header = &o->headers[i];

    if (!file_open(&s->file, removed_path(&o->arena, o->c, s), e))
        return false;
    s->mtime_ns = file_mtime(&s->file);
    s->removed = true;
    add_note(o->c, "shard-removed",
             arena_printf(&o->c->arena, "shard '%s' was removed by --delete-source; only its header is left", s->name));
    if (!safetensors_read_cut(header, &o->arena, &s->file, e))
        return false;
    s->data_offset = s->bytes = header->data_offset;
    if (header->tensor_count > 0) {
        const struct tensor *last = &header->tensors[header->tensor_count - 1];
        s->bytes = last->offset + last->bytes;
    }
    return true;
}

static bool open_shard(struct opening *o, size_t i, struct err *e)
{
    struct shard *s = &o->c->shards[i];
    char *path = path_join(&o->arena, o->c->dir, s->name);
    struct safetensors *header = &o->headers[i];

    if (!path_exists(path) && path_exists(removed_path(&o->arena, o->c, s)))
        return open_removed(o, i, e);
    if (!file_open(&s->file, path, e))
        return explain_link(path, e);
    if (!safetensors_read(header, &o->arena, &s->file, e))
        return false;
    s->bytes = s->file.bytes;
    s->data_offset = header->data_offset;
    s->mtime_ns = file_mtime(&s->file);
    if (header->ignored_fields)
        add_note(o->c, "header-fields",
                 arena_printf(&o->c->arena, "shard '%s': %zu unknown field%s of tensors %s ignored", s->name,
                              header->ignored_fields, plural(header->ignored_fields), is_are(header->ignored_fields)));
    return true;
}

/* Which tensor the index expects there, for the message about a shard that cannot be opened. */
static const char *first_tensor_of(const struct index *x, size_t shard)
{
    for (size_t i = 0; i < x->entry_count; i++)
        if (x->entries[i].shard == shard)
            return x->entries[i].tensor;
    return "";
}

/* Always false. */
static bool refuse_shard(const struct opening *o, size_t i, struct err *e)
{
    const struct shard *s = &o->c->shards[i];
    bool opened = s->file.fd_plus_1 != 0;

    /* An index that promises what is not there is a broken checkpoint, not a system that refuses. */
    if (o->c->indexed && e && e->code == ERR_IO && e->sys == ENOENT)
        e->code = ERR_FORMAT;
    err_rule(e, opened ? "shard-malformed" : "shard-missing");
    if (o->c->indexed && !opened)
        err_in(e, "the index names it for tensor '%s'", first_tensor_of(&o->index, i));
    return err_in(e, "shard '%s'", s->name);
}

static bool open_shards(struct opening *o, struct err *e)
{
    struct checkpoint *c = o->c;

    raise_descriptor_limit(c->shard_count);
    o->headers = arena_array(&o->arena, c->shard_count, sizeof *o->headers);
    for (size_t i = 0; i < c->shard_count; i++) {
        if (open_shard(o, i, e) || refuse_shard(o, i, e))
            continue;
        if (!err_pass(o->sink, e))
            return false;
        c->shards[i].broken = true;
        o->headers[i] = (struct safetensors){0};
    }
    return true;
}

/* ---- the tensors ---- */

static bool add_tensor(struct checkpoint *c, const struct tensor *t, uint32_t shard, struct err *e)
{
    size_t i = c->tensor_count;

    c->tensors[i] = *t;
    c->tensors[i].shard = shard;
    c->tensors[i].name = arena_strdup(&c->arena, t->name);
    if (!map_put(&c->by_name, c->tensors[i].name, i))
        return err_broken(e, ERR_FORMAT, "tensor-twice", "tensor '%s' is in two shards, '%s' and '%s'", t->name,
                          c->shards[checkpoint_find(c, t->name)->shard].name, c->shards[shard].name);
    c->tensor_count++;
    c->tensor_bytes += t->bytes;
    return true;
}

static bool collect_tensors(struct opening *o, struct err *e)
{
    struct checkpoint *c = o->c;
    size_t count = 0;

    for (size_t i = 0; i < c->shard_count; i++)
        count += o->headers[i].tensor_count;
    c->tensors = arena_array(&c->arena, count, sizeof *c->tensors);
    for (size_t i = 0; i < c->shard_count; i++)
        for (size_t k = 0; k < o->headers[i].tensor_count; k++)
            if (!add_tensor(c, &o->headers[i].tensors[k], (uint32_t)i, e) && !err_pass(o->sink, e))
                return false;
    return true;
}

/* ---- index and shards, both ways ---- */

static bool check_entry(const struct checkpoint *c, const struct index_entry *entry, struct err *e)
{
    const struct tensor *t = checkpoint_find(c, entry->tensor);

    if (!t)
        return err_broken(e, ERR_FORMAT, "index-names-absent-tensor",
                          "tensor '%s' is not in shard '%s', where the index has it", entry->tensor,
                          c->shards[entry->shard].name);
    return t->shard == entry->shard ||
           err_broken(e, ERR_FORMAT, "index-wrong-shard", "tensor '%s' is in shard '%s', but the index has it in '%s'",
                      entry->tensor, c->shards[t->shard].name, c->shards[entry->shard].name);
}

static bool check_entries(const struct opening *o, struct err *e)
{
    for (size_t i = 0; i < o->index.entry_count; i++) {
        const struct index_entry *entry = &o->index.entries[i];
        if (o->c->shards[entry->shard].broken) /* said already */
            continue;
        if (!check_entry(o->c, entry, e) && !err_pass(o->sink, e))
            return false;
    }
    return true;
}

static bool refuse_unlisted(const struct checkpoint *c, const struct tensor *t, struct err *e)
{
    return err_broken(e, ERR_FORMAT, "index-lacks-tensor", "tensor '%s' of shard '%s' is not in the index", t->name,
                      c->shards[t->shard].name);
}

static bool check_leftovers(const struct opening *o, struct err *e)
{
    const struct checkpoint *c = o->c;
    struct map named = {0};
    bool ok = true;

    /* The index has no name twice, and without a sink all its names were found: equal counts mean nothing is left. */
    if (!o->sink && o->index.entry_count == c->tensor_count)
        return true;
    for (size_t i = 0; i < o->index.entry_count; i++)
        map_put(&named, o->index.entries[i].tensor, i);
    for (size_t i = 0; i < c->tensor_count && ok; i++)
        if (map_get(&named, c->tensors[i].name) == MAP_NONE)
            ok = refuse_unlisted(c, &c->tensors[i], e) || err_pass(o->sink, e);
    map_release(&named);
    return ok;
}

static bool any_broken(const struct checkpoint *c)
{
    for (size_t i = 0; i < c->shard_count; i++)
        if (c->shards[i].broken)
            return true;
    return false;
}

static bool check_index(struct opening *o, struct err *e)
{
    struct checkpoint *c = o->c;

    if (!c->indexed)
        return true;
    if (!check_entries(o, e) || !check_leftovers(o, e))
        return false;
    if (o->index.has_total_size && o->index.total_size != c->tensor_bytes && !any_broken(c))
        add_note(c, "index-total-size",
                 arena_printf(&c->arena, "index: total_size %" PRIu64 " is not the %" PRIu64 " that headers say",
                              o->index.total_size, c->tensor_bytes));
    return true;
}

/* ---- config ---- */

static bool load_config(struct checkpoint *c, struct err *e)
{
    char *path = path_join(&c->arena, c->dir, "config.json");
    char *text = NULL;

    if (!path_exists(path))
        return true;
    if (!file_slurp(path, CHECKPOINT_CONFIG_BYTES_MAX, &text, &c->config_bytes, e))
        return explain_link(path, e);
    c->config = arena_alloc(&c->arena, c->config_bytes + 1);
    memcpy(c->config, text, c->config_bytes);
    mem_free(text);
    return true;
}

/* ---- entry ---- */

bool checkpoint_open(struct checkpoint *c, const char *path, struct err *e)
{
    return checkpoint_open_all(c, path, NULL, e);
}

bool checkpoint_open_all(struct checkpoint *c, const char *path, const struct err_sink *sink, struct err *e)
{
    struct opening o = {.c = c, .sink = sink};
    bool ok = false;

    *c = (struct checkpoint){0};
    ok = find_shards(&o, path, e) && open_shards(&o, e) && collect_tensors(&o, e) && check_index(&o, e) &&
         load_config(c, e);
    arena_release(&o.arena);
    if (!ok)
        checkpoint_close(c);
    return ok || err_in(e, "checkpoint '%s'", path);
}

const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name)
{
    size_t i = map_get(&c->by_name, name);

    return i == MAP_NONE ? NULL : &c->tensors[i];
}

bool checkpoint_read(const struct checkpoint *c, const struct tensor *t, uint64_t offset, void *data, size_t bytes,
                     struct err *e)
{
    const struct shard *s = &c->shards[t->shard];

    assert(offset <= t->bytes && bytes <= t->bytes - offset);
    if (s->removed)
        return err_set(e, ERR_FORMAT, "shard '%s' was removed by --delete-source: tensor '%s' cannot be read", s->name,
                       t->name);
    return file_read(&s->file, t->offset + offset, data, bytes, e) ||
           err_in(e, "shard '%s': tensor '%s'", s->name, t->name);
}

void checkpoint_expect(const struct checkpoint *c, const struct tensor *t)
{
    const struct shard *s = &c->shards[t->shard];

    if (!s->removed)
        file_expect(&s->file, t->offset, t->bytes);
}

void checkpoint_close(struct checkpoint *c)
{
    for (size_t i = 0; i < c->shard_count; i++)
        file_close(&c->shards[i].file);
    map_release(&c->by_name);
    arena_release(&c->arena);
    *c = (struct checkpoint){0};
}
