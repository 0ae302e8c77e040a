/* One rule of a recipe: from JSON, and to its canonical text. */
#include "convert/recipe_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RECIPE_MATCHES_MAX 1000u
#define RECIPE_LAYER_MAX   99999u

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- the words of the language ---- */

enum rule_key {
    KEY_MATCH = 1,
    KEY_LAYERS = 2,
    KEY_SCHEME = 4,
    KEY_GROUP = 8,
    KEY_ASYMMETRIC = 16,
    KEY_METHOD = 32,
    KEY_POSITIVE_SCALES = 64,
    KEY_LAYOUT = 128,
    KEY_SCALE_DTYPE = 256,
};
#define KEYS_ALL_RULES (KEY_MATCH | KEY_LAYERS | KEY_SCHEME)
#define KEYS_INT4      (KEY_GROUP | KEY_ASYMMETRIC | KEY_METHOD | KEY_POSITIVE_SCALES)
#define KEYS_FP8       (KEY_LAYOUT | KEY_SCALE_DTYPE | KEY_METHOD)

static const struct key_word {
    const char *name;
    enum rule_key key;
} key_words[] = {
    {"match", KEY_MATCH},
    {"layers", KEY_LAYERS},
    {"scheme", KEY_SCHEME},
    {"group", KEY_GROUP},
    {"asymmetric", KEY_ASYMMETRIC},
    {"method", KEY_METHOD},
    {"positive_scales", KEY_POSITIVE_SCALES},
    {"layout", KEY_LAYOUT},
    {"scale_dtype", KEY_SCALE_DTYPE},
};

#define PLAIN_SCHEME(dtype_)                                                                                           \
    {                                                                                                                  \
        .kind = SCHEME_PLAIN, .dtype = (dtype_), .method = METHOD_ROUND                                                \
    }
#define FP8_BLOCK_SCHEME(scale_)                                                                                       \
    {                                                                                                                  \
        .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = (scale_), .block_rows = FP8_BLOCK_ELEMS,            \
        .block_cols = FP8_BLOCK_ELEMS, .method = METHOD_ABSMAX                                                         \
    }

/* A scheme's word, what it is when nothing more is said, and the keys that say more. */
static const struct scheme_word {
    const char *name;
    unsigned keys;
    bool keep;
    struct scheme scheme;
} scheme_words[] = {
    {"keep", KEYS_ALL_RULES, true, {0}},
    {"bf16", KEYS_ALL_RULES, false, PLAIN_SCHEME(DTYPE_BF16)},
    {"f16", KEYS_ALL_RULES, false, PLAIN_SCHEME(DTYPE_F16)},
    {"f32", KEYS_ALL_RULES, false, PLAIN_SCHEME(DTYPE_F32)},
    {"fp8", KEYS_ALL_RULES | KEYS_FP8, false, FP8_BLOCK_SCHEME(SCALE_F32)},
    {"fp8-ue8m0", KEYS_ALL_RULES | KEYS_FP8, false, FP8_BLOCK_SCHEME(SCALE_F32_POW2)},
    {"fp8-channel",
     KEYS_ALL_RULES | KEYS_FP8,
     false,
     {.kind = SCHEME_FP8_CHANNEL, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .method = METHOD_ABSMAX}},
    {"fp8-static",
     KEYS_ALL_RULES | KEY_LAYOUT | KEY_SCALE_DTYPE,
     false,
     {.kind = SCHEME_FP8_TENSOR,
      .dtype = DTYPE_F8_E4M3,
      .scale = SCALE_F32,
      .static_input = true,
      .method = METHOD_ABSMAX}},
    {"int4",
     KEYS_ALL_RULES | KEYS_INT4,
     false,
     {.kind = SCHEME_INT4,
      .dtype = DTYPE_I32,
      .scale = SCALE_BF16,
      .group_cols = 128,
      .shape_i64 = true,
      .method = METHOD_SEARCH}},
};

static const char *const layouts[] = {"deepseek", "compressed-tensors"};
static const char *const scale_dtypes[] = {"f32", "e8m0"};

bool recipe_wrong_type(const char *key, const char *want, const struct json *v, struct err *e)
{
    return err_set(e, ERR_FORMAT, "key '%s' is %s, not %s", key, json_type_name(json_type(v)), want);
}

/* "bf16, f16, f32", of every `keys` that the reader knows. */
static void list_keys(struct buf *out, unsigned keys)
{
    for (size_t i = 0; i < COUNT(key_words); i++)
        if (keys & key_words[i].key)
            buf_printf(out, "%s%s", out->bytes ? ", " : "", key_words[i].name);
}

/* One of a few words; *index says which. */
static bool read_word(const char *key, const struct json *v, const char *const *words, size_t count, size_t *index,
                      struct err *e)
{
    const char *got = json_string(v);
    struct buf known = {0};

    if (!got)
        return recipe_wrong_type(key, "a string", v, e);
    for (*index = 0; *index < count; ++*index)
        if (strcmp(words[*index], got) == 0)
            return true;
    for (size_t i = 0; i < count; i++)
        buf_printf(&known, "%s%s", i ? ", " : "", words[i]);
    err_set(e, ERR_FORMAT, "key '%s' is '%s'; known are %s", key, got, known.data);
    buf_release(&known);
    return false;
}

static bool read_bool(const char *key, const struct json *v, bool *out, struct err *e)
{
    if (json_type(v) != JSON_BOOL)
        return recipe_wrong_type(key, "true or false", v, e);
    *out = json_bool(v);
    return true;
}

/* ---- "match" ---- */

static const char *find_group(const char *text)
{
    for (enum role role = ROLE_UNKNOWN + 1; role < ROLE_COUNT; role++)
        if (strcmp(role_get(role)->group, text) == 0)
            return role_get(role)->group;
    return NULL;
}

static bool refuse_match(const char *text, struct err *e)
{
    struct buf known = {0};

    for (enum role role = ROLE_UNKNOWN + 1; role < ROLE_COUNT; role++) {
        const char *group = role_get(role)->group;
        bool seen = false;
        for (enum role before = ROLE_UNKNOWN + 1; before < role; before++)
            seen |= strcmp(role_get(before)->group, group) == 0;
        if (!seen)
            buf_printf(&known, "%s%s", known.bytes ? ", " : "", group);
    }
    err_set(
        e, ERR_FORMAT,
        "key 'match' has '%s'; known are '*', 're:' patterns, the groups %s, and the roles in them (quern-recipe(5))",
        text, known.data);
    buf_release(&known);
    return false;
}

static bool read_match_word(struct recipe *r, struct recipe_match *m, const struct json *v, struct err *e)
{
    const char *text = json_string(v);

    if (!text)
        return recipe_wrong_type("match", "a string or a list of strings", v, e);
    *m = (struct recipe_match){.text = arena_strdup(&r->arena, text), .named = ROLE_COUNT};
    if (strncmp(text, "re:", 3) == 0)
        return pattern_compile(&m->pattern, text + 3, e) || err_in(e, "key 'match'");
    m->any = strcmp(text, "*") == 0;
    if (m->any)
        return true;
    m->named = role_find(text);
    if (m->named == ROLE_UNKNOWN)
        m->named = ROLE_COUNT;
    m->group = find_group(text);
    return m->named != ROLE_COUNT || m->group || refuse_match(text, e);
}

static bool read_match(struct recipe *r, struct recipe_rule *rule, const struct json *v, struct err *e)
{
    bool is_list = json_type(v) == JSON_ARRAY;
    size_t count = is_list ? json_count(v) : 1;

    if (count == 0)
        return err_set(e, ERR_FORMAT, "key 'match' is an empty list");
    if (count > RECIPE_MATCHES_MAX)
        return err_set(e, ERR_LIMIT, "key 'match' has %zu entries; the limit is %u", count, RECIPE_MATCHES_MAX);
    rule->matches = arena_array(&r->arena, count, sizeof *rule->matches);
    for (const struct json *m = is_list ? json_first(v) : v; m; m = is_list ? json_next(m) : NULL)
        if (!read_match_word(r, &rule->matches[rule->match_count++], m, e))
            return false;
    return true;
}

/* ---- "layers" ---- */

static bool read_layer(const char **text, uint64_t *layer)
{
    const char *p = *text;

    *layer = 0;
    for (; *p >= '0' && *p <= '9' && *layer <= RECIPE_LAYER_MAX; p++)
        *layer = *layer * 10 + (uint64_t)(*p - '0');
    bool ok = p != *text && *layer <= RECIPE_LAYER_MAX;
    *text = p;
    return ok;
}

/* "3", "3-5", "3-", "mtp"; *text moves past it. */
static bool read_range(struct recipe_rule *rule, const char **text)
{
    struct recipe_range range;

    if (strncmp(*text, "mtp", 3) == 0) {
        *text += 3;
        return rule->mtp = true;
    }
    if (!read_layer(text, &range.first))
        return false;
    range.last = range.first;
    if (**text == '-') {
        ++*text;
        range.last = UINT64_MAX;
        if (**text != '\0' && **text != ',' && !read_layer(text, &range.last))
            return false;
    }
    rule->ranges[rule->range_count++] = range;
    return range.first <= range.last;
}

static int compare_ranges(const void *a, const void *b)
{
    const struct recipe_range *x = a, *y = b;

    return (x->first > y->first) - (x->first < y->first);
}

/* Sorted, with ranges that touch joined, so that the same layers always read the same. */
static void join_ranges(struct recipe_rule *rule)
{
    struct recipe_range *ranges = rule->ranges;
    size_t kept = 0;

    qsort(ranges, rule->range_count, sizeof *ranges, compare_ranges);
    for (size_t i = 0; i < rule->range_count; i++) {
        struct recipe_range *last = kept ? &ranges[kept - 1] : NULL;
        if (last && (last->last == UINT64_MAX || ranges[i].first <= last->last + 1)) {
            if (ranges[i].last > last->last)
                last->last = ranges[i].last;
        } else {
            ranges[kept++] = ranges[i];
        }
    }
    rule->range_count = kept;
}

static bool read_layers(struct recipe *r, struct recipe_rule *rule, const struct json *v, struct err *e)
{
    const char *text = json_string(v);

    if (!text)
        return recipe_wrong_type("layers", "a string such as \"0-2\", \"3-\", \"5,7-9\" or \"mtp\"", v, e);
    rule->narrowed = true;
    rule->ranges = arena_array(&r->arena, strlen(text) + 1, sizeof *rule->ranges);
    for (const char *p = text;; p++) {
        if (!read_range(rule, &p) || (*p != ',' && *p != '\0'))
            return err_set(e, ERR_FORMAT,
                           "key 'layers' is '%s'; it is a list such as \"0-2\", \"3-\", \"5,7-9\" or \"mtp\"", text);
        if (*p == '\0')
            break;
    }
    join_ranges(rule);
    return true;
}

/* ---- the scheme's own keys ---- */

static bool read_group(struct scheme *s, const struct json_doc *d, const struct json *v, struct err *e)
{
    uint64_t group = 0;

    if (json_string(v) && strcmp(json_string(v), "channel") == 0)
        group = 0;
    else if (!json_u64(d, v, &group) || (group != 32 && group != 64 && group != 128))
        return err_set(e, ERR_FORMAT, "key 'group' is %s; known are 32, 64, 128, \"channel\"",
                       json_type(v) == JSON_NUMBER ? "another number" : json_type_name(json_type(v)));
    s->group_cols = (uint32_t)group;
    return true;
}

/* FP8 scales are not searched: clipping gains nothing there. */
static bool read_method(struct scheme *s, const struct json *v, struct err *e)
{
    static const enum method int4[] = {METHOD_ABSMAX, METHOD_SEARCH, METHOD_GPTQ, METHOD_LDLQ};
    static const enum method fp8[] = {METHOD_ABSMAX, METHOD_LDLQ};
    const enum method *methods = s->kind == SCHEME_INT4 ? int4 : fp8;
    size_t count = s->kind == SCHEME_INT4 ? COUNT(int4) : COUNT(fp8);
    const char *words[COUNT(int4)];
    size_t index;

    for (size_t i = 0; i < count; i++)
        words[i] = scheme_method_name(methods[i]);
    if (!read_word("method", v, words, count, &index, e))
        return false;
    s->method = methods[index];
    return true;
}

/* A scale per row or matrix has no DeepSeek layout: its readers know blocks. */
static bool read_layout(struct scheme *s, const struct json *v, struct err *e)
{
    size_t first = s->kind == SCHEME_FP8_BLOCK ? 0 : 1;
    size_t index;

    if (!read_word("layout", v, layouts + first, COUNT(layouts) - first, &index, e))
        return false;
    s->compressed_tensors = s->kind == SCHEME_FP8_BLOCK && index == 1;
    return true;
}

static bool read_scale_dtype(struct scheme *s, const struct json *v, struct err *e)
{
    bool pow2 = s->scale == SCALE_F32_POW2;
    size_t index;

    if (!read_word("scale_dtype", v, scale_dtypes, pow2 ? 2 : 1, &index, e))
        return false;
    if (index == 1)
        s->scale = SCALE_E8M0;
    return true;
}

static bool read_key(struct recipe *r, struct recipe_rule *rule, enum rule_key key, const struct json_doc *d,
                     const struct json *v, struct err *e)
{
    struct scheme *s = &rule->scheme;

    switch (key) {
    case KEY_MATCH:
        return read_match(r, rule, v, e);
    case KEY_LAYERS:
        return read_layers(r, rule, v, e);
    case KEY_SCHEME:
        return true; /* was read first */
    case KEY_GROUP:
        return read_group(s, d, v, e);
    case KEY_ASYMMETRIC:
        return read_bool("asymmetric", v, &s->asymmetric, e);
    case KEY_METHOD:
        return read_method(s, v, e);
    case KEY_POSITIVE_SCALES:
        return read_bool("positive_scales", v, &s->positive_scales, e);
    case KEY_LAYOUT:
        return read_layout(s, v, e);
    case KEY_SCALE_DTYPE:
        return read_scale_dtype(s, v, e);
    }
    return true;
}

/* ---- a rule ---- */

static const struct scheme_word *read_scheme(const struct json *o, struct err *e)
{
    const char *names[COUNT(scheme_words)];
    const struct json *v = json_get(o, "scheme");
    size_t index;

    for (size_t i = 0; i < COUNT(scheme_words); i++)
        names[i] = scheme_words[i].name;
    if (!v) {
        err_set(e, ERR_FORMAT, "key 'scheme' is missing");
        return NULL;
    }
    return read_word("scheme", v, names, COUNT(names), &index, e) ? &scheme_words[index] : NULL;
}

/* 0: the language has no such key, or this scheme has no use for it. */
static unsigned find_key(const char *name, const struct scheme_word *word, struct err *e)
{
    struct buf known = {0};
    bool exists = false;

    for (size_t i = 0; i < COUNT(key_words); i++) {
        if (strcmp(key_words[i].name, name) != 0)
            continue;
        if (word->keys & key_words[i].key)
            return key_words[i].key;
        exists = true;
    }
    list_keys(&known, word->keys);
    err_set(e, ERR_FORMAT, "%s '%s'; known with scheme '%s' are %s", exists ? "misplaced key" : "unknown key", name,
            word->name, known.data);
    buf_release(&known);
    return 0;
}

/* What the keys may not say together. */
static bool check_rule(const struct recipe_rule *rule, struct err *e)
{
    const struct scheme *s = &rule->scheme;

    if (s->positive_scales && s->method != METHOD_SEARCH && s->method != METHOD_LDLQ)
        return err_set(e, ERR_FORMAT,
                       "key 'positive_scales' needs method 'search' or 'ldlq': others give no negative scales");
    if (s->scale == SCALE_E8M0 && s->compressed_tensors)
        return err_set(e, ERR_FORMAT, "key 'scale_dtype' is 'e8m0', which layout 'compressed-tensors' does not have");
    for (size_t i = 0; i < rule->match_count; i++) {
        const struct recipe_match *m = &rule->matches[i];
        const struct role_info *role = m->named != ROLE_COUNT ? role_get(m->named) : NULL;
        if (!rule->keep && role && scheme_quantizes(s) && (role->exact || !role->linear))
            return err_set(e, ERR_FORMAT, "key 'match' has '%s', which no engine loads as '%s'", m->text,
                           rule->scheme_name);
    }
    return true;
}

bool recipe_read_rule(struct recipe *r, struct recipe_rule *rule, const struct json_doc *d, const struct json *o,
                      struct err *e)
{
    if (json_type(o) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "%s, not an object", json_type_name(json_type(o)));
    const struct scheme_word *word = read_scheme(o, e);
    if (!word)
        return false;
    rule->scheme_name = word->name;
    rule->keep = word->keep;
    rule->scheme = word->scheme;
    for (const struct json *m = json_first(o); m; m = json_next(m)) {
        unsigned key = find_key(json_key(m), word, e);
        if (!key || !read_key(r, rule, (enum rule_key)key, d, m, e))
            return false;
    }
    if (!rule->matches)
        return err_set(e, ERR_FORMAT, "key 'match' is missing");
    return check_rule(rule, e);
}

/* ---- the canonical text ---- */

static void put_match(struct json_writer *w, const struct recipe_rule *rule)
{
    if (rule->match_count == 1) {
        json_put_string(w, "match", rule->matches[0].text);
        return;
    }
    json_begin_array(w, "match");
    for (size_t i = 0; i < rule->match_count; i++)
        json_put_string(w, NULL, rule->matches[i].text);
    json_end(w, ']');
}

static void put_layers(struct json_writer *w, const struct recipe_rule *rule)
{
    struct buf text = {0};

    if (!rule->narrowed)
        return;
    for (size_t i = 0; i < rule->range_count; i++) {
        const struct recipe_range *range = &rule->ranges[i];
        buf_printf(&text, "%s%" PRIu64, i ? "," : "", range->first);
        if (range->last == UINT64_MAX)
            buf_puts(&text, "-");
        else if (range->last > range->first)
            buf_printf(&text, "-%" PRIu64, range->last);
    }
    if (rule->mtp)
        buf_printf(&text, "%smtp", text.bytes ? "," : "");
    json_put_string(w, "layers", text.data);
    buf_release(&text);
}

static void put_int4(struct json_writer *w, const struct scheme *s)
{
    if (s->group_cols == 0)
        json_put_string(w, "group", "channel");
    else
        json_put_u64(w, "group", s->group_cols);
    json_put_bool(w, "asymmetric", s->asymmetric);
    json_put_string(w, "method", scheme_method_name(s->method));
    json_put_bool(w, "positive_scales", s->positive_scales);
}

static void put_fp8(struct json_writer *w, const struct scheme *s)
{
    bool compressed_tensors = s->compressed_tensors || s->kind != SCHEME_FP8_BLOCK;

    json_put_string(w, "layout", layouts[compressed_tensors ? 1 : 0]);
    json_put_string(w, "scale_dtype", scale_dtypes[s->scale == SCALE_E8M0 ? 1 : 0]);
    if (s->method != METHOD_ABSMAX)
        json_put_string(w, "method", scheme_method_name(s->method));
}

void recipe_put_rule(struct json_writer *w, const struct recipe_rule *rule)
{
    json_begin_object(w, NULL);
    put_match(w, rule);
    put_layers(w, rule);
    json_put_string(w, "scheme", rule->scheme_name);
    if (rule->scheme.kind == SCHEME_INT4)
        put_int4(w, &rule->scheme);
    else if (scheme_quantizes(&rule->scheme))
        put_fp8(w, &rule->scheme);
    json_end(w, '}');
}
