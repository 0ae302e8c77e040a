#include "convert/recipe_private.h"

#include <string.h>

#include "formats/base/gzip.h"

/* Recipes are written by hand; a hundred rules are many. */
#define RECIPE_BYTES_MAX (1u << 20)
#define RECIPE_RULES_MAX 1000u

/* ---- the canonical text ---- */

static void put_widths(struct json_writer *w, const struct recipe_widths *widths)
{
    json_begin_object(w, "widths");
    json_put_double(w, "target_bpw", widths->target_bpw);
    json_put_string(w, "statistics_sha256", widths->statistics_sha256);
    json_end(w, '}');
}

static void write_text(struct recipe *r)
{
    struct buf text = {0};
    struct json_writer w = {.out = &text, .compact = true};

    json_begin_object(&w, NULL);
    json_put_string(&w, "name", r->name);
    if (r->description)
        json_put_string(&w, "description", r->description);
    if (r->widths)
        put_widths(&w, r->widths);
    json_begin_array(&w, "rules");
    for (size_t i = 0; i < r->rule_count; i++)
        recipe_put_rule(&w, &r->rules[i]);
    json_end(&w, ']');
    json_end(&w, '}');
    r->text = arena_strdup(&r->arena, text.data);
    buf_release(&text);
}

/* ---- the whole ---- */

static bool is_keep_all(const struct recipe_rule *rule)
{
    return rule->keep && rule->match_count == 1 && rule->matches[0].any && !rule->narrowed;
}

/* What no rule names is kept. It is part of the text, so that the text is complete. */
static void add_keep_all(struct recipe *r)
{
    if (r->rule_count && is_keep_all(&r->rules[r->rule_count - 1]))
        return;
    struct recipe_rule *rule = &r->rules[r->rule_count++];
    rule->matches = arena_array(&r->arena, 1, sizeof *rule->matches);
    rule->matches[0] = (struct recipe_match){.text = "*", .any = true, .named = ROLE_COUNT};
    rule->match_count = 1;
    rule->scheme_name = "keep";
    rule->keep = true;
    rule->implicit = true;
}

static bool read_rules(struct recipe *r, const struct json_doc *d, const struct json *rules, struct err *e)
{
    size_t count = json_count(rules);

    if (json_type(rules) != JSON_ARRAY)
        return recipe_wrong_type("rules", "a list", rules, e);
    if (count == 0)
        return err_set(e, ERR_FORMAT, "key 'rules' is an empty list");
    if (count > RECIPE_RULES_MAX)
        return err_set(e, ERR_LIMIT, "key 'rules' has %zu entries; the limit is %u", count, RECIPE_RULES_MAX);
    r->rules = arena_array(&r->arena, count + 1, sizeof *r->rules);
    for (const struct json *m = json_first(rules); m; m = json_next(m)) {
        struct recipe_rule *rule = &r->rules[r->rule_count++];
        if (!recipe_read_rule(r, rule, d, m, e))
            return err_in(e, "rule %zu", r->rule_count);
    }
    add_keep_all(r);
    return true;
}

static bool read_text(struct recipe *r, const char *key, const struct json *v, const char **out, struct err *e)
{
    const char *text = json_string(v);

    if (!text || !*text)
        return text ? err_set(e, ERR_FORMAT, "key '%s' is empty", key) : recipe_wrong_type(key, "a string", v, e);
    *out = arena_strdup(&r->arena, text);
    return true;
}

/* A record: the rules already say what came of it. */
static bool read_widths(struct recipe *r, const struct json_doc *d, const struct json *v, struct err *e)
{
    struct recipe_widths *widths = arena_alloc(&r->arena, sizeof *widths);
    const char *sha256 = NULL;

    if (json_type(v) != JSON_OBJECT)
        return recipe_wrong_type("widths", "an object", v, e);
    for (const struct json *m = json_first(v); m; m = json_next(m))
        if (strcmp(json_key(m), "target_bpw") != 0 && strcmp(json_key(m), "statistics_sha256") != 0)
            return err_set(e, ERR_FORMAT, "key 'widths' has '%s'; known are target_bpw, statistics_sha256",
                           json_key(m));
    if (!json_need_double(d, v, "target_bpw", &widths->target_bpw, e) ||
        !json_need_string(v, "statistics_sha256", &sha256, e))
        return err_in(e, "key 'widths'");
    widths->statistics_sha256 = arena_strdup(&r->arena, sha256);
    r->widths = widths;
    return true;
}

static bool read_member(struct recipe *r, const struct json_doc *d, const struct json *m, struct err *e)
{
    const char *key = json_key(m);

    if (strcmp(key, "name") == 0)
        return read_text(r, key, m, &r->name, e);
    if (strcmp(key, "description") == 0)
        return read_text(r, key, m, &r->description, e);
    if (strcmp(key, "widths") == 0)
        return read_widths(r, d, m, e);
    return err_set(e, ERR_FORMAT, "unknown key '%s'; known are name, description, widths, rules", key);
}

static bool read_recipe(struct recipe *r, const struct json_doc *d, struct err *e)
{
    const struct json *rules = NULL;

    if (json_type(d->root) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "%s, not an object", json_type_name(json_type(d->root)));
    for (const struct json *m = json_first(d->root); m; m = json_next(m)) {
        if (strcmp(json_key(m), "rules") == 0)
            rules = m;
        else if (!read_member(r, d, m, e))
            return false;
    }
    if (!rules)
        return err_set(e, ERR_FORMAT, "key 'rules' is missing");
    return read_rules(r, d, rules, e);
}

static bool parse(struct recipe *r, const char *name, const char *text, size_t bytes, struct err *e)
{
    struct json_doc d = {0};

    *r = (struct recipe){0};
    bool ok = json_parse(&d, text, bytes, JSON_COMMENTS, e) && read_recipe(r, &d, e);
    if (ok) {
        if (!r->name)
            r->name = arena_strdup(&r->arena, name);
        write_text(r);
    } else {
        recipe_release(r);
    }
    json_release(&d);
    return ok;
}

bool recipe_parse(struct recipe *r, const char *name, const char *text, size_t bytes, struct err *e)
{
    return parse(r, name, text, bytes, e) || err_in(e, "recipe '%s'", name);
}

/* "samples/recipes/edges-fp8.json" gives "edges-fp8". */
static char *stem(const char *path)
{
    const char *base = path_base(path);
    size_t bytes = strlen(base);
    struct buf name = {0};

    if (bytes > 5 && strcmp(base + bytes - 5, ".json") == 0)
        bytes -= 5;
    buf_add(&name, base, bytes);
    return name.data;
}

static bool load_file(struct recipe *r, const char *path, struct err *e)
{
    char *text = NULL, *name = stem(path);
    size_t bytes = 0;

    *r = (struct recipe){0};
    bool ok = gzip_slurp(path, RECIPE_BYTES_MAX, &text, &bytes, e) && parse(r, name, text, bytes, e);
    mem_free(text);
    mem_free(name);
    return ok || err_in(e, "recipe '%s'", path);
}

static bool is_path(const char *name)
{
    size_t bytes = strlen(name);

    return strchr(name, '/') || (bytes > 5 && strcmp(name + bytes - 5, ".json") == 0);
}

static bool refuse_name(const char *name, struct err *e)
{
    struct buf known = {0};

    for (size_t i = 0; recipe_builtin_name(i); i++)
        buf_printf(&known, "%s%s", i ? ", " : "", recipe_builtin_name(i));
    err_set(e, ERR_USAGE, "unknown recipe '%s'; known are %s, or a file (with a '/', or ending in .json)", name,
            known.data);
    buf_release(&known);
    return false;
}

bool recipe_load(struct recipe *r, const char *name_or_path, struct err *e)
{
    bool found;

    *r = (struct recipe){0};
    if (is_path(name_or_path))
        return load_file(r, name_or_path, e);
    if (recipe_load_builtin(r, name_or_path, &found, e))
        return true;
    return found ? false : refuse_name(name_or_path, e);
}

bool recipe_is_calibrated(const struct recipe *r)
{
    for (size_t i = 0; i < r->rule_count; i++)
        if (scheme_is_calibrated(&r->rules[i].scheme))
            return true;
    return false;
}

void recipe_release(struct recipe *r)
{
    for (size_t i = 0; i < r->rule_count; i++)
        for (size_t m = 0; m < r->rules[i].match_count; m++)
            pattern_release(&r->rules[i].matches[m].pattern);
    arena_release(&r->arena);
    *r = (struct recipe){0};
}
