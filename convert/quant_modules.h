/* The linear modules of a file, and lists of names and `re:` patterns that pick
 * some of them: what quantization_config's "ignore" and "targets" are. */
#ifndef CONVERT_QUANT_MODULES_H
#define CONVERT_QUANT_MODULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/base/map.h"
#include "formats/base/mem.h"
#include "formats/base/pattern.h"
#include "formats/engine.h"
#include "formats/scheme.h"

struct module {
    const char *name; /* without ".weight"; borrowed from the weight */
    enum role role;   /* ROLE_UNKNOWN: a matrix that may well be linear */
    int64_t layer;    /* -1: none */
    const struct scheme *scheme, *stored;
    uint32_t set; /* the caller's; modules_cover picks by it */
};

struct modules {
    struct module *items;
    size_t count;
};

/* Whether a scheme makes a module a quantized one. */
bool scheme_is_quantized(const struct scheme *s);

/* Biases, norms and embeddings are not linear modules. Items are in the arena. */
void modules_collect(struct modules *m, struct arena *a, const struct engine_weight *rows, size_t count);

/* Entries that together match all modules of one set and no other: a pattern where a role or a family of roles is
 * in the set as a whole, or in whole layers; the name alone otherwise. In the arena. */
struct entries {
    const char **items;
    size_t count;
};
void modules_cover(const struct modules *m, struct arena *a, uint32_t set, struct entries *out);

/* A list as engines read it: `re:` patterns match as Python's re.match, anything else is a whole name. */
struct name_list {
    struct map names; /* borrowed keys */
    struct pattern *patterns;
    size_t pattern_count;
};
bool name_list_add(struct name_list *l, const char *entry, struct err *e) CHECKED;
bool name_list_match(const struct name_list *l, const char *module);
void name_list_release(struct name_list *l);

#endif
