#include "verify/quant_claim.h"

#include <inttypes.h>
#include <string.h>

#include "formats/base/map.h"
#include "formats/base/pattern.h"
#include "formats/json.h"

/* A module name, a regular expression behind "re:", or (in targets) a class. */
struct claim_name {
    const char *name;
    struct pattern pattern;
};

struct claim_group {
    struct claim_name *targets;
    size_t target_count;
    struct scheme scheme;
    const char *format; /* its own, or the one for all; NULL: none is named */
};

/* NULL for a member of nothing, so that look-ups can be chained. */
static const struct json *member(const struct json *object, const char *key)
{
    return object ? json_get(object, key) : NULL;
}

static const struct json *first(const struct json *list)
{
    return list ? json_first(list) : NULL;
}

static size_t count_of(const struct json *list)
{
    return list ? json_count(list) : 0;
}

static bool read_names(struct quant_claim *q, const struct json *list, struct claim_name **names, size_t *count,
                       struct err *e)
{
    *names = arena_array(&q->arena, count_of(list) + 1, sizeof **names);
    *count = 0;
    for (const struct json *m = first(list); m; m = json_next(m)) {
        const char *s = json_string(m);
        if (!s)
            return err_set(e, ERR_FORMAT, "a module name is %s", json_type_name(json_type(m)));
        struct claim_name *n = &(*names)[*count];
        n->name = arena_strdup(&q->arena, s);
        ++*count; /* counted first, so that close releases it */
        if (strncmp(s, "re:", 3) == 0 && !pattern_compile(&n->pattern, n->name + 3, e))
            return err_in(e, "'%s'", s);
    }
    return true;
}

static bool is_text(const struct json *v, const char *text)
{
    const char *s = v ? json_string(v) : NULL;

    return s && strcmp(s, text) == 0;
}

static uint32_t read_u32(const struct json_doc *d, const struct json *v)
{
    uint64_t n = 0;

    return v && json_u64(d, v, &n) && n <= UINT32_MAX ? (uint32_t)n : 0;
}

/* Kinds that no reader here knows become SCHEME_RAW: quantized, and never as stored. */
static struct scheme read_scheme(const struct json_doc *d, const struct json *weights)
{
    struct scheme s = {.kind = SCHEME_RAW};
    uint32_t bits = read_u32(d, member(weights, "num_bits"));
    const struct json *strategy = member(weights, "strategy"), *symmetric = member(weights, "symmetric");
    const struct json *block = member(weights, "block_structure");

    if (is_text(member(weights, "type"), "float") && bits == 8) {
        s.kind = SCHEME_FP8_TENSOR;
        if (is_text(strategy, "channel"))
            s.kind = SCHEME_FP8_CHANNEL;
        if (is_text(strategy, "block") && count_of(block) == 2) {
            s.kind = SCHEME_FP8_BLOCK;
            s.block_rows = read_u32(d, first(block));
            s.block_cols = read_u32(d, json_next(first(block)));
        }
    } else if (bits == 4 && !is_text(member(weights, "type"), "float")) {
        s.kind = SCHEME_INT4;
        s.group_cols = is_text(strategy, "channel") ? 0 : read_u32(d, member(weights, "group_size"));
        s.asymmetric = symmetric && json_type(symmetric) == JSON_BOOL && !json_bool(symmetric);
    }
    return s;
}

static bool read_compressed_tensors(struct quant_claim *q, const struct json_doc *d, const struct json *claim,
                                    struct err *e)
{
    const struct json *groups = member(claim, "config_groups");

    q->groups = arena_array(&q->arena, count_of(groups) + 1, sizeof *q->groups);
    for (const struct json *m = first(groups); m; m = json_next(m)) {
        struct claim_group *g = &q->groups[q->group_count++];
        const struct json *weights = member(m, "weights");
        if (!read_names(q, member(m, "targets"), &g->targets, &g->target_count, e))
            return err_in(e, "targets of '%s'", json_key(m));
        if (!weights || json_type(weights) != JSON_OBJECT)
            return err_set(e, ERR_FORMAT, "'%s' has no \"weights\" object", json_key(m));
        g->scheme = read_scheme(d, weights);
        const struct json *format = member(m, "format");
        if (!format || json_type(format) == JSON_NULL)
            format = member(claim, "format");
        if (format && json_string(format))
            g->format = arena_strdup(&q->arena, json_string(format));
    }
    if (q->group_count == 0)
        return err_set(e, ERR_FORMAT, "\"config_groups\" is empty or absent");
    return read_names(q, member(claim, "ignore"), &q->ignore, &q->ignore_count, e) || err_in(e, "ignore");
}

static bool read_fp8(struct quant_claim *q, const struct arch *arch, const struct json *claim, struct err *e)
{
    const struct json *ignore = member(claim, "ignored_layers");

    q->groups = arena_array(&q->arena, 1, sizeof *q->groups);
    q->group_count = 1;
    q->groups[0].scheme = (struct scheme){.kind = arch->quant_block_rows ? SCHEME_FP8_BLOCK : SCHEME_FP8_TENSOR,
                                          .block_rows = (uint32_t)arch->quant_block_rows,
                                          .block_cols = (uint32_t)arch->quant_block_cols};
    if (!ignore || count_of(ignore) == 0)
        ignore = member(claim, "modules_to_not_convert");
    return read_names(q, ignore, &q->ignore, &q->ignore_count, e) || err_in(e, "modules_to_not_convert");
}

bool quant_claim_open(struct quant_claim *q, const struct arch *arch, const char *config, size_t bytes, struct err *e)
{
    struct json_doc d = {0};
    bool ok = false;

    *q = (struct quant_claim){.quant = arch->quant};
    if (arch->quant != QUANT_FP8 && arch->quant != QUANT_COMPRESSED_TENSORS)
        return true;
    if (!json_parse(&d, config, bytes, JSON_STRICT, e))
        goto done;
    const struct json *claim = member(member(d.root, "text_config"), "quantization_config"); /* as arch_parse */
    if (!claim)
        claim = member(d.root, "quantization_config");
    ok = arch->quant == QUANT_FP8 ? read_fp8(q, arch, claim, e) : read_compressed_tensors(q, &d, claim, e);
done:
    json_release(&d);
    return ok || err_in(e, "quantization_config");
}

static void release_names(struct claim_name *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        pattern_release(&names[i].pattern);
}

void quant_claim_close(struct quant_claim *q)
{
    for (size_t i = 0; i < q->group_count; i++)
        release_names(q->groups[i].targets, q->groups[i].target_count);
    release_names(q->ignore, q->ignore_count);
    arena_release(&q->arena);
    *q = (struct quant_claim){0};
}

static bool name_matches(const struct claim_name *n, const char *module)
{
    if (n->pattern.re)
        return pattern_match(&n->pattern, module);
    size_t bytes = strlen(n->name);
    return strncmp(n->name, module, bytes) == 0 && (module[bytes] == '\0' || module[bytes] == '.');
}

static bool names_match(const struct claim_name *names, size_t count, const struct weight *w)
{
    for (size_t i = 0; i < count; i++) {
        if (name_matches(&names[i], w->module))
            return true;
        if (strcmp(names[i].name, "Linear") == 0 && role_get(w->id.role)->linear)
            return true;
    }
    return false;
}

static const struct claim_group *find_group(const struct quant_claim *q, const struct weight *w)
{
    if (w->id.part != NAME_WEIGHT && w->id.part != NAME_PACKED)
        return NULL;
    /* Engines build every other module without quantization, whatever the config says, unless it is stored so. */
    const struct role_info *role = role_get(w->id.role);
    bool plain = w->stored.kind == SCHEME_PLAIN || w->stored.kind == SCHEME_RAW;
    if ((!role->quantizable && (plain || !role->linear)) || names_match(q->ignore, q->ignore_count, w))
        return NULL;
    for (size_t i = 0; i < q->group_count; i++)
        if (q->quant == QUANT_FP8 || names_match(q->groups[i].targets, q->groups[i].target_count, w))
            return &q->groups[i];
    return NULL;
}

bool quant_claim_find(const struct quant_claim *q, const struct weight *w, struct scheme *claimed)
{
    const struct claim_group *g = find_group(q, w);

    if (g)
        *claimed = g->scheme;
    return g != NULL;
}

bool quant_claim_format_fits(const struct quant_claim *q, const struct weight *w, const char **format)
{
    const struct claim_group *g = find_group(q, w);

    *format = g ? g->format : NULL;
    if (!g || q->quant != QUANT_COMPRESSED_TENSORS || g->scheme.kind == SCHEME_RAW)
        return true;
    if (!g->format)
        return false;
    if (g->scheme.kind == SCHEME_INT4)
        return strcmp(g->format, "pack-quantized") == 0;
    return strcmp(g->format, "float-quantized") == 0 || strcmp(g->format, "naive-quantized") == 0;
}

/* ---- names that match nothing ---- */

/* A module and every module it is in: a plain name stands for all below it. */
static void add_prefixes(struct map *modules, struct arena *a, const char *module)
{
    for (size_t bytes = strlen(module); bytes > 0; bytes--)
        if ((module[bytes] == '\0' || module[bytes] == '.') && map_get_n(modules, module, bytes) == MAP_NONE)
            map_put(modules, arena_strndup(a, module, bytes), 0);
}

static bool pattern_matches_any(const struct pattern *p, const struct weights *weights)
{
    for (size_t i = 0; i < weights->count; i++)
        if (role_get(weights->items[i].id.role)->linear && pattern_match(p, weights->items[i].module))
            return true;
    return false;
}

void quant_claim_unmatched(const struct quant_claim *q, const struct weights *weights,
                           void (*say)(void *ctx, const char *name), void *ctx)
{
    struct map modules = {0};
    struct arena a = {0};

    for (size_t i = 0; i < weights->count && q->ignore_count > 0; i++)
        add_prefixes(&modules, &a, weights->items[i].module);
    for (size_t i = 0; i < q->ignore_count; i++) {
        const struct claim_name *n = &q->ignore[i];
        bool found = n->pattern.re ? pattern_matches_any(&n->pattern, weights)
                                   : map_get(&modules, n->name) != MAP_NONE || strcmp(n->name, "Linear") == 0;
        if (!found)
            say(ctx, n->name);
    }
    map_release(&modules);
    arena_release(&a);
}

bool quant_claim_fits(const struct scheme *claimed, const struct scheme *stored)
{
    if (claimed->kind != stored->kind)
        return false;
    if (claimed->kind == SCHEME_FP8_BLOCK)
        return claimed->block_rows == stored->block_rows && claimed->block_cols == stored->block_cols;
    if (claimed->kind == SCHEME_INT4)
        return claimed->group_cols == stored->group_cols && claimed->asymmetric == stored->asymmetric;
    return claimed->kind != SCHEME_RAW;
}

const char *quant_claim_text(struct quant_claim *q, const struct arch *arch)
{
    struct buf text = {0};
    char scheme[SCHEME_TEXT];
    const char *result;

    if (arch->quant == QUANT_NONE)
        return "none";
    if (arch->quant == QUANT_OTHER)
        return arena_printf(&q->arena, "%s (not known here)", arch->quant_format ? arch->quant_format : "?");
    if (arch->quant == QUANT_COMPRESSED_TENSORS)
        buf_printf(&text, "compressed-tensors %s: ", arch->quant_format ? arch->quant_format : "");
    for (size_t i = 0; i < q->group_count; i++)
        buf_printf(&text, "%s%s", i ? ", " : "",
                   q->groups[i].scheme.kind == SCHEME_RAW ? "not known here"
                                                          : scheme_text(&q->groups[i].scheme, scheme));
    if (arch->quant_ue8m0)
        buf_puts(&text, " ue8m0");
    result = arena_strdup(&q->arena, text.data ? text.data : "");
    buf_release(&text);
    return result;
}
