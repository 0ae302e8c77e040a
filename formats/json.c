#include "formats/json.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "formats/base/file.h"
#include "formats/json_scan.h"

static const cJSON *node(const struct json *v)
{
    return (const cJSON *)(const void *)v;
}

static const struct json *value(const cJSON *n)
{
    return (const struct json *)(const void *)n;
}

/* ---- parsing ---- */

/* cJSON answers a failed allocation like bad input; ours abort instead. */
static void install_hooks(void)
{
    cJSON_Hooks hooks = {.malloc_fn = mem_alloc, .free_fn = mem_free};

    cJSON_InitHooks(&hooks);
}

/* Walks the tree in document order and leaves each number's index in the field
 * that cJSON fills with a saturated int, of no use to us. */
static void number_the_numbers(cJSON *root, size_t number_count)
{
    cJSON *open[JSON_DEPTH_MAX];
    unsigned depth = 0;
    size_t numbered = 0;
    cJSON *n = root;

    while (n) {
        if (cJSON_IsNumber(n))
            n->valueint = (int)numbered++;
        if (n->child) {
            open[depth++] = n;
            n = n->child;
            continue;
        }
        while (n != root && !n->next)
            n = open[--depth];
        n = n == root ? NULL : n->next;
    }
    assert(numbered == number_count);
}

/* copy[bytes] is NUL; the scanner may write into it. */
static bool parse_copy(struct json_doc *d, char *copy, size_t bytes, unsigned flags, struct err *e)
{
    static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
    struct json_numbers numbers = {0};
    cJSON *tree = NULL;

    *d = (struct json_doc){0};
    if (!json_scan(copy, bytes, flags, &numbers, e))
        return false;
    if (numbers.count > INT_MAX) {
        mem_free(numbers.items);
        return err_set(e, ERR_LIMIT, "%zu numbers in one document, more than the limit of %d", numbers.count, INT_MAX);
    }
    pthread_once(&hooks_once, install_hooks);
    tree = cJSON_ParseWithLength(copy, bytes + 1);
    assert(tree); /* it accepts more than the scanner does */
    number_the_numbers(tree, numbers.count);
    *d = (struct json_doc){.root = value(tree), .tree = tree, .numbers = numbers.items};
    return true;
}

bool json_parse(struct json_doc *d, const char *text, size_t bytes, unsigned flags, struct err *e)
{
    struct buf copy = {0};
    bool ok = false;

    buf_add(&copy, text, bytes);
    ok = parse_copy(d, copy.data, copy.bytes, flags, e);
    buf_release(&copy);
    return ok;
}

bool json_load(struct json_doc *d, const char *path, uint64_t limit_bytes, unsigned flags, struct err *e)
{
    char *text = NULL;
    size_t bytes = 0;
    bool ok = false;

    *d = (struct json_doc){0};
    if (!file_slurp(path, limit_bytes, &text, &bytes, e))
        return false;
    ok = parse_copy(d, text, bytes, flags, e);
    mem_free(text);
    return ok || err_in(e, "'%s'", path);
}

void json_release(struct json_doc *d)
{
    cJSON_Delete(d->tree);
    mem_free(d->numbers);
    *d = (struct json_doc){0};
}

/* ---- look-ups ---- */

enum json_type json_type(const struct json *v)
{
    switch (node(v)->type & 0xff) {
    case cJSON_False:
    case cJSON_True:
        return JSON_BOOL;
    case cJSON_Number:
        return JSON_NUMBER;
    case cJSON_String:
        return JSON_STRING;
    case cJSON_Array:
        return JSON_ARRAY;
    case cJSON_Object:
        return JSON_OBJECT;
    default:
        return JSON_NULL;
    }
}

const char *json_type_name(enum json_type type)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",       [JSON_BOOL] = "a boolean", [JSON_NUMBER] = "a number",
        [JSON_STRING] = "a string", [JSON_ARRAY] = "an array", [JSON_OBJECT] = "an object",
    };

    return names[type];
}

size_t json_count(const struct json *v)
{
    size_t count = 0;

    for (const struct json *m = json_first(v); m; m = json_next(m))
        count++;
    return count;
}

const struct json *json_first(const struct json *v)
{
    return value(node(v)->child);
}

const struct json *json_next(const struct json *m)
{
    return value(node(m)->next);
}

const char *json_key(const struct json *m)
{
    return node(m)->string;
}

const struct json *json_get(const struct json *v, const char *key)
{
    if (json_type(v) != JSON_OBJECT)
        return NULL;
    for (const struct json *m = json_first(v); m; m = json_next(m))
        if (!strcmp(json_key(m), key))
            return m;
    return NULL;
}

const char *json_string(const struct json *v)
{
    return json_type(v) == JSON_STRING ? node(v)->valuestring : NULL;
}

bool json_bool(const struct json *v)
{
    return (node(v)->type & 0xff) == cJSON_True;
}

static const struct json_number *number_of(const struct json_doc *d, const struct json *v)
{
    return json_type(v) == JSON_NUMBER ? &d->numbers[node(v)->valueint] : NULL;
}

double json_double(const struct json_doc *d, const struct json *v)
{
    const struct json_number *n = number_of(d, v);

    return n ? n->value : (double)NAN;
}

bool json_u64(const struct json_doc *d, const struct json *v, uint64_t *out)
{
    const struct json_number *n = number_of(d, v);

    if (!n || !n->is_u64)
        return false;
    *out = n->u64;
    return true;
}

/* ---- look-ups with an opinion ---- */

static const struct json *need(const struct json *o, const char *key, enum json_type type, struct err *e)
{
    const struct json *m = NULL;

    if (json_type(o) != JSON_OBJECT) {
        err_set(e, ERR_FORMAT, "%s stands where an object with '%s' should be", json_type_name(json_type(o)), key);
        return NULL;
    }
    m = json_get(o, key);
    if (!m) {
        err_set(e, ERR_FORMAT, "'%s' is missing", key);
        return NULL;
    }
    if (json_type(m) != type) {
        err_set(e, ERR_FORMAT, "'%s' is %s, not %s", key, json_type_name(json_type(m)), json_type_name(type));
        return NULL;
    }
    return m;
}

bool json_need_u64(const struct json_doc *d, const struct json *o, const char *key, uint64_t *out, struct err *e)
{
    const struct json *m = need(o, key, JSON_NUMBER, e);

    if (!m)
        return false;
    return json_u64(d, m, out) ||
           err_set(e, ERR_FORMAT, "'%s' is %.17g, not an integer from 0 to 2^64-1", key, json_double(d, m));
}

bool json_need_double(const struct json_doc *d, const struct json *o, const char *key, double *out, struct err *e)
{
    const struct json *m = need(o, key, JSON_NUMBER, e);

    if (!m)
        return false;
    *out = json_double(d, m);
    return true;
}

bool json_need_string(const struct json *o, const char *key, const char **out, struct err *e)
{
    const struct json *m = need(o, key, JSON_STRING, e);

    if (!m)
        return false;
    *out = json_string(m);
    return true;
}

/* ---- spans ---- */

static size_t skip_space(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && strchr(" \t\r\n", text[at]) && text[at])
        at++;
    return at;
}

/* at: the opening quote. Behind the closing one, or `bytes`. */
static size_t skip_string(const char *text, size_t bytes, size_t at)
{
    for (at++; at < bytes && text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at < bytes ? at + 1 : bytes;
}

/* The comma or bracket that ends the value at `at`, in valid JSON. */
static size_t skip_value(const char *text, size_t bytes, size_t at)
{
    unsigned depth = 0;

    while (at < bytes) {
        char c = text[at];
        if (c == '"') {
            at = skip_string(text, bytes, at);
            continue;
        }
        if (!depth && (c == ',' || c == '}'))
            break;
        depth += (c == '{' || c == '[') ? 1u : 0u;
        depth -= (c == '}' || c == ']') ? 1u : 0u;
        at++;
    }
    return at;
}

static bool key_is(const char *token, size_t bytes, const char *key)
{
    struct buf name = {0};
    bool same = false;

    buf_puts(&name, "");
    json_unescape(&name, token + 1, bytes - 2);
    same = name.bytes == strlen(key) && (!name.bytes || !memcmp(name.data, key, name.bytes));
    buf_release(&name);
    return same;
}

bool json_member_span(const char *text, size_t bytes, const char *key, size_t *begin, size_t *end)
{
    size_t at = skip_space(text, bytes, 0);

    if (at == bytes || text[at] != '{')
        return false;
    for (at = skip_space(text, bytes, at + 1); at < bytes && text[at] == '"'; at = skip_space(text, bytes, at + 1)) {
        size_t key_at = at, key_end = skip_string(text, bytes, at);
        *begin = skip_space(text, bytes, skip_space(text, bytes, key_end) + 1);
        at = skip_value(text, bytes, *begin);
        if (at >= bytes)
            return false; /* not valid JSON after all */
        if (key_is(text + key_at, key_end - key_at, key)) {
            for (*end = at; *end > *begin && strchr(" \t\r\n", text[*end - 1]);)
                (*end)--;
            return true;
        }
    }
    return false;
}
