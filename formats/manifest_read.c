/* Reading quern.json, by the table that writes it. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "formats/manifest_fields.h"

struct reading {
    struct arena *arena;
    const struct json_doc *doc;
    const char *text; /* of the whole document */
    size_t bytes;
};

static bool read_struct(const struct reading *r, const struct table *t, const struct json *o, size_t from, char *s,
                        struct err *e);

/* ---- single values ---- */

static bool wrong_type(const struct json *v, const char *want, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s, not %s", json_type_name(json_type(v)), want);
}

static bool read_text(const struct reading *r, const struct json *v, const char **text, struct err *e)
{
    if (json_type(v) != JSON_STRING)
        return wrong_type(v, "a string", e);
    *text = arena_strdup(r->arena, json_string(v));
    return true;
}

static bool read_sha256(const struct reading *r, const struct json *v, const char **text, struct err *e)
{
    if (!read_text(r, v, text, e))
        return false;
    return (strlen(*text) == 64 && strspn(*text, "0123456789abcdef") == 64) ||
           err_set(e, ERR_FORMAT, "'%s', not 64 lower-case hex digits", *text);
}

static bool read_u64(const struct reading *r, const struct json *v, uint64_t most, uint64_t *n, struct err *e)
{
    if (json_type(v) != JSON_NUMBER)
        return wrong_type(v, "a number", e);
    if (!json_u64(r->doc, v, n))
        return err_set(e, ERR_FORMAT, "%.17g, not a whole number from 0", json_double(r->doc, v));
    return *n <= most || err_set(e, ERR_FORMAT, "%" PRIu64 ", more than %" PRIu64, *n, most);
}

static bool read_version(const struct reading *r, const struct json *v, uint64_t *version, struct err *e)
{
    return read_u64(r, v, UINT64_MAX, version, e) &&
           (*version == MANIFEST_VERSION ||
            err_set(e, ERR_UNSUPPORTED, "version %" PRIu64 ", and this program knows version %u", *version,
                    MANIFEST_VERSION));
}

/* What was not finite was written as null. */
static bool read_error(const struct reading *r, const struct json *v, double *x, struct err *e)
{
    *x = INFINITY;
    if (json_type(v) == JSON_NULL)
        return true;
    if (json_type(v) != JSON_NUMBER)
        return wrong_type(v, "a number", e);
    *x = json_double(r->doc, v);
    return *x >= 0 || err_set(e, ERR_FORMAT, "%g, less than 0", *x);
}

static bool read_flag(const struct json *v, bool *flag, struct err *e)
{
    if (json_type(v) != JSON_BOOL)
        return wrong_type(v, "a boolean", e);
    *flag = json_bool(v);
    return true;
}

/* The value's own text, as it stands at the top of the document. */
static bool read_json(const struct reading *r, const struct field *f, const char **text, struct err *e)
{
    size_t begin = 0, end = 0;

    if (!json_member_span(r->text, r->bytes, f->key, &begin, &end))
        return err_set(e, ERR_FORMAT, "not found in the text");
    *text = arena_strndup(r->arena, r->text + begin, end - begin);
    return true;
}

/* ---- arrays ---- */

static bool read_item(const struct reading *r, enum field_kind kind, const struct json *v, void *items, size_t i,
                      struct err *e)
{
    uint64_t n = 0;

    switch ((int)kind) {
    case FIELD_TEXTS:
        return read_text(r, v, (const char **)items + i, e);
    case FIELD_U64S:
        return read_u64(r, v, UINT64_MAX, (uint64_t *)items + i, e);
    case FIELD_U32S:
        if (!read_u64(r, v, UINT32_MAX, &n, e))
            return false;
        ((uint32_t *)items)[i] = (uint32_t)n;
        return true;
    default:
        if (json_type(v) != JSON_NUMBER)
            return wrong_type(v, "a number", e);
        ((double *)items)[i] = json_double(r->doc, v);
        return true;
    }
}

static size_t item_bytes(enum field_kind kind)
{
    return kind == FIELD_TEXTS ? sizeof(char *) : kind == FIELD_U32S ? sizeof(uint32_t) : 8;
}

static bool read_items(const struct reading *r, enum field_kind kind, const struct json *v, void **items, size_t *count,
                       struct err *e)
{
    if (json_type(v) != JSON_ARRAY)
        return wrong_type(v, "an array", e);
    *items = arena_array(r->arena, json_count(v), item_bytes(kind));
    for (const struct json *m = json_first(v); m; m = json_next(m), ++*count)
        if (!read_item(r, kind, m, *items, *count, e))
            return err_in(e, "item %zu", *count);
    return true;
}

static bool read_structs(const struct reading *r, const struct field *f, const struct json *v, void **structs,
                         size_t *count, struct err *e)
{
    bool map = f->kind == FIELD_MAP;
    char *items;

    if (json_type(v) != (map ? JSON_OBJECT : JSON_ARRAY))
        return wrong_type(v, map ? "an object" : "an array", e);
    *structs = items = arena_array(r->arena, json_count(v), f->of->struct_bytes);
    for (const struct json *m = json_first(v); m; m = json_next(m), ++*count) {
        char *s = items + *count * f->of->struct_bytes;
        if (map)
            *(const char **)(void *)s = arena_strdup(r->arena, json_key(m));
        if (!read_struct(r, f->of, m, map ? 1 : 0, s, e))
            return map ? err_in(e, "'%s'", json_key(m)) : err_in(e, "item %zu", *count);
    }
    return true;
}

static bool read_object(const struct reading *r, const struct field *f, const struct json *v, void **s, struct err *e)
{
    *s = arena_alloc(r->arena, f->of->struct_bytes);
    return read_struct(r, f->of, v, 0, *s, e);
}

/* ---- structs ---- */

static bool read_field(const struct reading *r, const struct field *f, const struct json *v, char *s, struct err *e)
{
    void *at = s + f->offset;
    size_t *count = (size_t *)(void *)(s + f->count_offset);

    switch (f->kind) {
    case FIELD_VERSION:
        return read_version(r, v, at, e);
    case FIELD_TEXT:
        return read_text(r, v, at, e);
    case FIELD_SHA256:
        return read_sha256(r, v, at, e);
    case FIELD_JSON:
        return read_json(r, f, at, e);
    case FIELD_U64:
        return read_u64(r, v, UINT64_MAX, at, e);
    case FIELD_FLAG:
        return read_flag(v, at, e);
    case FIELD_ERROR:
        return read_error(r, v, at, e);
    case FIELD_TEXTS:
    case FIELD_U64S:
    case FIELD_U32S:
    case FIELD_F64S:
        return read_items(r, f->kind, v, at, count, e);
    case FIELD_OBJECT:
        return read_object(r, f, v, at, e);
    case FIELD_LIST:
    case FIELD_MAP:
        return read_structs(r, f, v, at, count, e);
    }
    return false;
}

static const struct field *find_field(const struct table *t, size_t from, const char *key)
{
    for (size_t i = from; i < t->field_count; i++)
        if (strcmp(t->fields[i].key, key) == 0)
            return &t->fields[i];
    return NULL;
}

/* An error that was not measured is not 0. */
static void set_absent(const struct table *t, char *s)
{
    for (size_t i = 0; i < t->field_count; i++)
        if (t->fields[i].kind == FIELD_ERROR)
            *(double *)(void *)(s + t->fields[i].offset) = -1;
}

static bool read_struct(const struct reading *r, const struct table *t, const struct json *o, size_t from, char *s,
                        struct err *e)
{
    if (json_type(o) != JSON_OBJECT)
        return wrong_type(o, "an object", e);
    set_absent(t, s);
    for (const struct json *m = json_first(o); m; m = json_next(m)) {
        const struct field *f = find_field(t, from, json_key(m));
        if (!f)
            return err_set(e, ERR_FORMAT, "'%s' is not known here", json_key(m));
        if (!read_field(r, f, m, s, e))
            return err_in(e, "'%s'", f->key);
    }
    for (size_t i = from; i < t->field_count; i++)
        if (!t->fields[i].optional && !json_get(o, t->fields[i].key))
            return err_set(e, ERR_FORMAT, "'%s' is missing", t->fields[i].key);
    return true;
}

/* A later version may have other fields: its number is looked at before them. */
static bool check_version(const struct reading *r, struct err *e)
{
    const struct json *v = json_get(r->doc->root, "manifest");
    uint64_t version = 0;

    return !v || read_version(r, v, &version, e) || err_in(e, "'manifest'");
}

bool manifest_parse(struct manifest *m, struct arena *a, const char *text, size_t bytes, struct err *e)
{
    struct json_doc doc = {0};
    struct reading r = {.arena = a, .doc = &doc, .text = text, .bytes = bytes};

    *m = (struct manifest){0};
    bool ok = json_parse(&doc, text, bytes, JSON_STRICT, e) && check_version(&r, e) &&
              read_struct(&r, &manifest_table, doc.root, 0, (char *)m, e);
    json_release(&doc);
    return ok;
}

bool manifest_load(struct manifest *m, struct arena *a, const char *path, struct err *e)
{
    char *text = NULL;
    size_t bytes = 0;

    if (!file_slurp(path, MANIFEST_BYTES_MAX, &text, &bytes, e))
        return false;
    bool ok = manifest_parse(m, a, text, bytes, e);
    mem_free(text);
    return ok || err_in(e, "'%s'", path);
}
