#include "formats/index.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/map.h"
#include "formats/checkpoint.h"
#include "formats/json.h"

/* Only a file right beside the index: an index comes from strangers. */
static bool is_plain_file_name(const char *name)
{
    return *name && strcmp(name, ".") != 0 && !strpbrk(name, "/\\") && !strstr(name, "..");
}

static bool is_safetensors_name(const char *name)
{
    size_t bytes = strlen(name), ending = strlen(".safetensors");

    return bytes > ending && strcmp(name + bytes - ending, ".safetensors") == 0;
}

/* Shards in the order they are first named; entries point into it. */
static bool read_entry(struct index *x, struct arena *a, struct map *shards, const struct json *m, struct err *e)
{
    const char *tensor = json_key(m), *name = json_string(m);
    size_t shard = 0;

    if (!name)
        return err_set(e, ERR_FORMAT, "the shard of tensor '%s' is %s, not a string", tensor,
                       json_type_name(json_type(m)));
    shard = map_get(shards, name);
    if (shard == MAP_NONE) {
        if (!is_plain_file_name(name))
            return err_set(e, ERR_FORMAT, "the shard of tensor '%s' is '%s', not a plain file name", tensor, name);
        /* Any other name could be that of config.json, or of a side file that travels along. */
        if (!is_safetensors_name(name))
            return err_set(e, ERR_FORMAT, "the shard of tensor '%s' is '%s', not a .safetensors file", tensor, name);
        if (x->shard_count == CHECKPOINT_SHARDS_MAX)
            return err_set(e, ERR_LIMIT, "more shards than the limit of %u", CHECKPOINT_SHARDS_MAX);
        shard = x->shard_count++;
        x->shards[shard] = arena_strdup(a, name);
        map_put(shards, x->shards[shard], shard);
    }
    x->entries[x->entry_count++] = (struct index_entry){.tensor = arena_strdup(a, tensor), .shard = (uint32_t)shard};
    return true;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void sort_shards(struct index *x, struct map *shards)
{
    uint32_t *place = mem_alloc(x->shard_count * sizeof *place);

    qsort(x->shards, x->shard_count, sizeof *x->shards, by_text);
    for (size_t i = 0; i < x->shard_count; i++)
        place[map_get(shards, x->shards[i])] = (uint32_t)i;
    for (size_t i = 0; i < x->entry_count; i++)
        x->entries[i].shard = place[x->entries[i].shard];
    mem_free(place);
}

static bool read_weight_map(struct index *x, struct arena *a, const struct json *weight_map, struct err *e)
{
    struct map shards = {0};
    size_t count = json_count(weight_map);
    bool ok = true;

    x->entries = arena_array(a, count, sizeof *x->entries);
    x->shards = arena_array(a, count < CHECKPOINT_SHARDS_MAX ? count : CHECKPOINT_SHARDS_MAX, sizeof *x->shards);
    for (const struct json *m = json_first(weight_map); ok && m; m = json_next(m))
        ok = read_entry(x, a, &shards, m, e);
    if (ok)
        sort_shards(x, &shards);
    map_release(&shards);
    return ok;
}

static bool read_document(struct index *x, struct arena *a, const struct json_doc *d, struct err *e)
{
    const struct json *weight_map = NULL, *metadata = NULL, *total_size = NULL;

    if (json_type(d->root) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "the index is %s, not an object", json_type_name(json_type(d->root)));
    weight_map = json_get(d->root, "weight_map");
    if (!weight_map)
        return err_set(e, ERR_FORMAT, "weight_map is missing");
    if (json_type(weight_map) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "weight_map is %s, not an object", json_type_name(json_type(weight_map)));
    if (!json_first(weight_map))
        return err_set(e, ERR_FORMAT, "weight_map is empty");
    metadata = json_get(d->root, "metadata");
    total_size = metadata ? json_get(metadata, "total_size") : NULL;
    x->has_total_size = total_size && json_u64(d, total_size, &x->total_size);
    return read_weight_map(x, a, weight_map, e);
}

bool index_parse(struct index *x, struct arena *a, const char *text, size_t bytes, struct err *e)
{
    struct json_doc d = {0};
    bool ok = false;

    *x = (struct index){0};
    ok = json_parse(&d, text, bytes, JSON_STRICT, e) && read_document(x, a, &d, e);
    json_release(&d);
    return ok;
}

bool index_load(struct index *x, struct arena *a, const char *path, uint64_t limit_bytes, struct err *e)
{
    struct json_doc d = {0};
    bool ok = false;

    *x = (struct index){0};
    if (!json_load(&d, path, limit_bytes, JSON_STRICT, e))
        return false; /* names the path */
    ok = read_document(x, a, &d, e) || err_in(e, "'%s'", path);
    json_release(&d);
    return ok;
}
