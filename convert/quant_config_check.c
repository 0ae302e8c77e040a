/* Reads quantization_config as vLLM and compressed-tensors do. Written apart
 * from the writer, from their rules: what both got wrong in the same way would
 * load as garbage. */
#include <inttypes.h>
#include <string.h>

#include "convert/quant_config.h"
#include "convert/quant_modules.h"
#include "formats/json.h"

#define GROUPS_READ_MAX 64u

struct group {
    bool all_linear; /* "Linear" is among the targets */
    struct name_list targets;
    const struct json *weights;
};

struct reading {
    struct json_doc doc;
    const struct json *quant; /* NULL: no quantization_config */
    struct name_list ignore;
    struct group groups[GROUPS_READ_MAX];
    size_t group_count;
};

static bool add_names(struct name_list *l, const struct json *array, struct err *e)
{
    for (const struct json *m = array ? json_first(array) : NULL; m; m = json_next(m)) {
        const char *entry = json_string(m);
        if (!entry)
            return err_set(e, ERR_FORMAT, "a list of modules has %s in it", json_type_name(json_type(m)));
        if (!name_list_add(l, entry, e))
            return false;
    }
    return true;
}

static bool read_group(struct group *g, const struct json *v, struct err *e)
{
    const struct json *targets = json_get(v, "targets");

    g->weights = json_get(v, "weights");
    if (!g->weights || !targets)
        return err_set(e, ERR_FORMAT, "'%s' has no weights or no targets", json_key(v));
    for (const struct json *m = json_first(targets); m; m = json_next(m))
        g->all_linear |= json_string(m) && strcmp(json_string(m), "Linear") == 0;
    return add_names(&g->targets, targets, e);
}

static bool read_groups(struct reading *r, struct err *e)
{
    const struct json *groups = json_get(r->quant, "config_groups");

    for (const struct json *m = groups ? json_first(groups) : NULL; m; m = json_next(m)) {
        if (r->group_count == GROUPS_READ_MAX)
            return err_set(e, ERR_LIMIT, "more than %u config groups", GROUPS_READ_MAX);
        if (!read_group(&r->groups[r->group_count++], m, e))
            return false;
    }
    return add_names(&r->ignore, json_get(r->quant, "ignore"), e);
}

/* ---- one module ---- */

static bool wrong(const struct module *m, const char *found, struct err *e)
{
    char text[SCHEME_TEXT];

    return err_set(e, ERR_FORMAT, "'%s' is %s, and quantization_config has it %s", m->name,
                   scheme_text(m->scheme, text), found);
}

/* null counts as 0. */
static uint64_t number(const struct reading *r, const struct json *o, const char *key)
{
    uint64_t value = 0;
    const struct json *v = json_get(o, key);

    return v && json_u64(&r->doc, v, &value) ? value : 0;
}

static bool has_word(const struct json *o, const char *key, const char *word)
{
    const struct json *v = json_get(o, key);

    return v && json_string(v) && strcmp(json_string(v), word) == 0;
}

static bool fits_group(const struct reading *r, const struct scheme *s, const struct json *weights)
{
    bool symmetric = json_get(weights, "symmetric") && json_bool(json_get(weights, "symmetric"));

    if (s->kind == SCHEME_INT4)
        return number(r, weights, "num_bits") == 4 && has_word(weights, "type", "int") &&
               number(r, weights, "group_size") == s->group_cols && symmetric == !s->asymmetric;
    return number(r, weights, "num_bits") == 8 && has_word(weights, "type", "float") &&
           has_word(weights, "strategy", s->kind == SCHEME_FP8_BLOCK ? "block" : "channel");
}

static const struct group *find_group(const struct reading *r, const char *module)
{
    for (size_t i = 0; i < r->group_count; i++)
        if (r->groups[i].all_linear || name_list_match(&r->groups[i].targets, module))
            return &r->groups[i];
    return NULL;
}

static bool check_compressed(const struct reading *r, const struct module *m, struct err *e)
{
    bool ignored = name_list_match(&r->ignore, m->name), quantized = scheme_is_quantized(m->scheme);

    if (!quantized)
        return ignored || wrong(m, "not in ignore", e);
    if (ignored)
        return wrong(m, "in ignore", e);
    const struct group *g = find_group(r, m->name);
    if (!g)
        return wrong(m, "in no group", e);
    return fits_group(r, m->scheme, g->weights) || wrong(m, "in a group of another scheme", e);
}

static bool check_fp8(const struct reading *r, const struct module *m, struct err *e)
{
    bool listed = json_get(r->quant, "ignored_layers") != NULL;
    bool skipped = listed ? name_list_match(&r->ignore, m->name) : !role_get(m->role)->quantizable;
    bool quantized = scheme_is_quantized(m->scheme);

    if (quantized == skipped)
        return wrong(m, skipped ? "not quantized" : "quantized", e);
    return true;
}

static bool check_module(const struct reading *r, const struct module *m, struct err *e)
{
    if (!r->quant)
        return !scheme_is_quantized(m->scheme) || wrong(m, "absent", e);
    if (has_word(r->quant, "quant_method", "fp8"))
        return check_fp8(r, m, e);
    return check_compressed(r, m, e);
}

static bool read(struct reading *r, const char *config, size_t bytes, struct err *e)
{
    if (!json_parse(&r->doc, config, bytes, JSON_STRICT, e))
        return false;
    const struct json *text = json_get(r->doc.root, "text_config"); /* the inner one counts: Kimi-K2.5's class */
    r->quant = text ? json_get(text, "quantization_config") : NULL;
    if (!r->quant)
        r->quant = json_get(r->doc.root, "quantization_config");
    if (!r->quant)
        return true;
    if (has_word(r->quant, "quant_method", "fp8"))
        return add_names(&r->ignore, json_get(r->quant, "ignored_layers"), e);
    return read_groups(r, e);
}

bool quant_config_check(const char *config, size_t bytes, const struct engine_weight *rows, size_t count, struct err *e)
{
    struct reading r = {0};
    struct arena arena = {0};
    struct modules modules = {0};

    bool ok = read(&r, config, bytes, e);
    if (ok)
        modules_collect(&modules, &arena, rows, count);
    for (size_t i = 0; ok && i < modules.count; i++)
        ok = check_module(&r, &modules.items[i], e);
    for (size_t i = 0; i < r.group_count; i++)
        name_list_release(&r.groups[i].targets);
    name_list_release(&r.ignore);
    json_release(&r.doc);
    arena_release(&arena);
    return ok;
}
