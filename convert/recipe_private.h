/* What the recipe's three files share. */
#ifndef CONVERT_RECIPE_PRIVATE_H
#define CONVERT_RECIPE_PRIVATE_H

#include "convert/recipe.h"
#include "formats/base/pattern.h"

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

/* *found: there is a built-in recipe of this name or alias. */
bool recipe_load_builtin(struct recipe *r, const char *name, bool *found, struct err *e) CHECKED;

#endif
