#include "verify/stop_ids.h"

#include "formats/base/file.h"
#include "formats/json.h"

#define GENERATION_CONFIG "generation_config.json"

static bool add_id(struct stop_ids *s, const struct json_doc *d, const struct json *v, struct err *e)
{
    uint64_t id = 0;

    if (!json_u64(d, v, &id) || id >= UINT32_MAX)
        return err_set(e, ERR_FORMAT, "eos_token_id is no token id and no list of them");
    id_list_add(&s->ids, (uint32_t)id);
    return true;
}

static bool read_document(struct stop_ids *s, const struct json_doc *d, struct err *e)
{
    const struct json *v = json_get(d->root, "eos_token_id");

    /* Kimi-K2.5 keeps what is about its text in an object of its own. */
    if (!v && json_get(d->root, "text_config"))
        v = json_get(json_get(d->root, "text_config"), "eos_token_id");
    if (!v || json_type(v) == JSON_NULL)
        return true;
    if (json_type(v) != JSON_ARRAY)
        return add_id(s, d, v, e);
    for (const struct json *m = json_first(v); m; m = json_next(m))
        if (!add_id(s, d, m, e))
            return false;
    return true;
}

static bool read_generation_config(struct stop_ids *s, const char *dir, struct err *e)
{
    struct arena a = {0};
    struct json_doc d = {0};
    const char *path = path_join(&a, dir, GENERATION_CONFIG);
    bool ok = !path_exists(path);

    if (!ok && json_load(&d, path, CHECKPOINT_CONFIG_BYTES_MAX, JSON_STRICT, e))
        ok = read_document(s, &d, e) || err_in(e, "'%s'", path);
    json_release(&d);
    arena_release(&a);
    return ok;
}

static bool read_config(struct stop_ids *s, const struct checkpoint *c, struct err *e)
{
    struct json_doc d = {0};
    bool ok = json_parse(&d, c->config, c->config_bytes, JSON_STRICT, e) && read_document(s, &d, e);

    json_release(&d);
    return ok || err_in(e, "config.json");
}

bool stop_ids_read(struct stop_ids *s, const struct checkpoint *c, const struct tokenizer *t, struct err *e)
{
    *s = (struct stop_ids){0};
    if (!read_generation_config(s, c->dir, e))
        return false;
    if (!s->ids.count && c->config && !read_config(s, c, e))
        return false;
    if (!s->ids.count && t->eos_id != BPE_NONE)
        id_list_add(&s->ids, t->eos_id);
    return true;
}

bool stop_ids_has(const struct stop_ids *s, uint32_t id)
{
    for (size_t i = 0; i < s->ids.count; i++)
        if (s->ids.ids[i] == id)
            return true;
    return false;
}

void stop_ids_release(struct stop_ids *s)
{
    id_list_release(&s->ids);
}
