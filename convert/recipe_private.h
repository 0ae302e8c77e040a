/* What the recipe's files share. */
#ifndef CONVERT_RECIPE_PRIVATE_H
#define CONVERT_RECIPE_PRIVATE_H

#include "convert/recipe.h"
#include "formats/base/pattern.h"
#include "formats/json.h"

/* One word of a rule's "match". */
struct recipe_match {
    const char *text;       /* as written */
    bool any;               /* "*" */
    enum role named;        /* the role itself, ROLE_COUNT: none */
    const char *group;      /* a group of roles, or NULL */
    struct pattern pattern; /* "re:...", or empty */
};

/* Layers first..last, both included. */
struct recipe_range {
    uint64_t first, last;
};

struct recipe_rule {
    struct recipe_match *matches;
    size_t match_count;
    bool narrowed; /* "layers" was given: ranges and mtp say which */
    bool mtp;
    struct recipe_range *ranges; /* sorted, apart */
    size_t range_count;
    const char *scheme_name; /* "fp8-ue8m0" */
    bool keep;
    bool implicit;        /* the rule behind the last one written */
    struct scheme scheme; /* the target, method included; unused by keep */
};

static inline bool scheme_quantizes(const struct scheme *s)
{
    return s->kind == SCHEME_FP8_BLOCK || s->kind == SCHEME_FP8_CHANNEL || s->kind == SCHEME_FP8_TENSOR ||
           s->kind == SCHEME_INT4;
}

/* One entry of "rules"; the rule is zero, its memory the recipe's. */
bool recipe_read_rule(struct recipe *r, struct recipe_rule *rule, const struct json_doc *d, const struct json *o,
                      struct err *e) CHECKED;
/* The rule with every default in words. */
void recipe_put_rule(struct json_writer *w, const struct recipe_rule *rule);
/* The refusal of a key whose value has another type than `want`. */
bool recipe_wrong_type(const char *key, const char *want, const struct json *v, struct err *e);

/* *found: there is a built-in recipe of this name or alias. */
bool recipe_load_builtin(struct recipe *r, const char *name, bool *found, struct err *e) CHECKED;

#endif
