#include "convert/recipe_private.h"

#include <string.h>

#define EXPERTS_INT4(method) EXPERTS_INT4_GROUP("128", method)
#define EXPERTS_INT4_GROUP(group, method)                                                                              \
    "{\"match\": \"routed_expert\", \"scheme\": \"int4\", \"group\": " group ", \"method\": \"" method "\"}"

/* Texts in the language that users write, so that the parser is the only way in. */
static const struct builtin {
    const char *name, *description, *rules;
} builtins[] = {
    {"int4", "routed experts int4 (groups of 128), calibrated by ldlq, the rest BF16",
     EXPERTS_INT4("ldlq") ", {\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"int4-best", "as int4, in groups of 32: a quarter of a bit more, about half the error",
     EXPERTS_INT4_GROUP("32", "ldlq") ", {\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"int4-fast", "routed experts int4 (groups of 128, scales searched), the rest BF16; no calibration",
     EXPERTS_INT4("search") ", {\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"int4-absmax", "as int4-fast, with scales from the largest magnitude alone",
     EXPERTS_INT4("absmax") ", {\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"int4-fp8",
     "routed experts int4 (groups of 128, scales searched), the other linear layers FP8 blocks, the rest BF16",
     EXPERTS_INT4("search") ", {\"match\": [\"attention\", \"dense_mlp\", \"shared_expert\", \"indexer\"], "
                            "\"scheme\": \"fp8\", \"layout\": \"compressed-tensors\"}, "
                            "{\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"int4-all", "all linear layers but kv_b_proj int4 (groups of 128, scales searched), the rest BF16",
     "{\"match\": \"kv_b_proj\", \"scheme\": \"bf16\"}, "
     "{\"match\": [\"routed_expert\", \"shared_expert\", \"dense_mlp\", \"attention\"], "
     "\"scheme\": \"int4\", \"group\": 128, \"method\": \"search\"}, "
     "{\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"fp8", "linear layers FP8 in blocks of 128x128, as DeepSeek publishes them",
     "{\"match\": \"*\", \"scheme\": \"fp8\"}"},
    {"fp8-ue8m0", "as fp8, with scales that are powers of two", "{\"match\": \"*\", \"scheme\": \"fp8-ue8m0\"}"},
    {"fp8-ue8m0-ldlq", "as fp8-ue8m0, with codes calibrated by ldlq",
     "{\"match\": \"*\", \"scheme\": \"fp8-ue8m0\", \"method\": \"ldlq\"}"},
    {"fp8-static", "linear layers but kv_b_proj FP8, a scale for each matrix and a calibrated one for its inputs",
     "{\"match\": \"kv_b_proj\", \"scheme\": \"bf16\"}, "
     "{\"match\": [\"attention\", \"dense_mlp\", \"shared_expert\", \"routed_expert\"], "
     "\"scheme\": \"fp8-static\"}, {\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"fp8-block", "linear layers FP8 in blocks of 128x128, named as compressed-tensors does",
     "{\"match\": \"*\", \"scheme\": \"fp8\", \"layout\": \"compressed-tensors\"}"},
};

#define BUILTIN_COUNT (sizeof builtins / sizeof builtins[0])

/* The words that llm-compressor's users know. */
static const struct alias {
    const char *alias, *name;
} aliases[] = {
    {"W4A16", "int4-fast"},
    {"FP8_BLOCK", "fp8-block"},
};

const char *recipe_builtin_name(size_t i)
{
    return i < BUILTIN_COUNT ? builtins[i].name : NULL;
}

const char *recipe_builtin_description(size_t i)
{
    return i < BUILTIN_COUNT ? builtins[i].description : NULL;
}

static const struct builtin *find(const char *name)
{
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++)
        if (strcmp(aliases[i].alias, name) == 0)
            name = aliases[i].name;
    for (size_t i = 0; i < BUILTIN_COUNT; i++)
        if (strcmp(builtins[i].name, name) == 0)
            return &builtins[i];
    return NULL;
}

static bool parse_rules(struct recipe *r, const char *name, const char *description, const char *rules, struct err *e)
{
    struct buf text = {0};

    buf_puts(&text, "{\"name\": ");
    json_quote(&text, name);
    buf_puts(&text, ", \"description\": ");
    json_quote(&text, description);
    buf_printf(&text, ", \"rules\": [%s]}", rules);
    bool ok = recipe_parse(r, name, text.data, text.bytes, e);
    buf_release(&text);
    return ok;
}

bool recipe_load_builtin(struct recipe *r, const char *name, bool *found, struct err *e)
{
    const struct builtin *b = find(name);

    *found = b != NULL;
    return b && parse_rules(r, b->name, b->description, b->rules, e);
}

/* ---- convert --to ---- */

static const struct builtin targets[] = {
    {"bf16", "every matrix BF16; norms, router and correction bias exact", "{\"match\": \"*\", \"scheme\": \"bf16\"}"},
    {"f16", "every matrix F16; norms, router and correction bias exact", "{\"match\": \"*\", \"scheme\": \"f16\"}"},
    {"f32", "every matrix F32; norms, router and correction bias exact", "{\"match\": \"*\", \"scheme\": \"f32\"}"},
    {"fp8", "linear layers FP8 in blocks of 128x128", "{\"match\": \"*\", \"scheme\": \"fp8\"}"},
    {"fp8-ue8m0", "linear layers FP8 in blocks of 128x128, scales powers of two",
     "{\"match\": \"*\", \"scheme\": \"fp8-ue8m0\"}"},
    {"fp8-channel", "linear layers FP8, a scale per row", "{\"match\": \"*\", \"scheme\": \"fp8-channel\"}"},
};

#define TARGETS_KNOWN "bf16, f16, f32, fp8, fp8-ue8m0, fp8-channel, int4[:g32|g64|g128][:asym][:absmax]"

static const char *const int4_names[] = {"int4", "int4:g32", "int4:g64", "int4:g128", "int4:asym", "int4:absmax"};

const char *recipe_to_name(size_t i)
{
    size_t target_count = sizeof targets / sizeof targets[0];

    if (i < target_count)
        return targets[i].name;
    i -= target_count;
    return i < sizeof int4_names / sizeof int4_names[0] ? int4_names[i] : NULL;
}

/* ":g64:asym" -> the keys of a rule. Each option once. */
struct int4_options {
    unsigned group; /* 0: not said */
    bool asymmetric, absmax;
};

static bool read_option(struct int4_options *o, const char *word, size_t bytes)
{
    static const struct {
        const char *word;
        unsigned group;
    } groups[] = {{"g32", 32}, {"g64", 64}, {"g128", 128}};

    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
        if (strlen(groups[i].word) == bytes && memcmp(groups[i].word, word, bytes) == 0 && o->group == 0) {
            o->group = groups[i].group;
            return true;
        }
    if (bytes == 4 && memcmp(word, "asym", 4) == 0 && !o->asymmetric)
        return o->asymmetric = true;
    if (bytes == 6 && memcmp(word, "absmax", 6) == 0 && !o->absmax)
        return o->absmax = true;
    return false;
}

static bool read_options(struct int4_options *o, const char *text)
{
    while (*text == ':') {
        size_t bytes = strcspn(++text, ":");
        if (!read_option(o, text, bytes))
            return false;
        text += bytes;
    }
    return *text == '\0';
}

static bool to_int4(struct recipe *r, const char *to, struct err *e)
{
    struct int4_options o = {0};
    struct buf rules = {0};

    if (!read_options(&o, to + strlen("int4")))
        return err_set(e, ERR_USAGE, "unknown target '%s'; known are " TARGETS_KNOWN, to);
    buf_printf(
        &rules,
        "{\"match\": \"routed_expert\", \"scheme\": \"int4\", \"group\": %u, \"asymmetric\": %s, \"method\": \"%s\"}",
        o.group ? o.group : 128, o.asymmetric ? "true" : "false", o.absmax ? "absmax" : "search");
    buf_puts(&rules, ", {\"match\": \"*\", \"scheme\": \"bf16\"}");
    bool ok = parse_rules(r, to, "routed experts int4, the rest BF16", rules.data, e);
    buf_release(&rules);
    return ok;
}

bool recipe_to(struct recipe *r, const char *to, struct err *e)
{
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
        if (strcmp(targets[i].name, to) == 0)
            return parse_rules(r, to, targets[i].description, targets[i].rules, e);
    if (strncmp(to, "int4", 4) == 0 && (to[4] == ':' || to[4] == '\0'))
        return to_int4(r, to, e);
    return err_set(e, ERR_USAGE, "unknown target '%s'; known are " TARGETS_KNOWN, to);
}
