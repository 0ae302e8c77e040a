/* A recipe: which scheme each weight gets. Rules are tried in order, the first
 * that matches wins. Built-in recipes are texts in the same language, parsed
 * by the same parser; quern-recipe(5) documents it.
 *
 *     {
 *       "name": "int4-fast",
 *       "rules": [
 *         {"match": "routed_expert", "scheme": "int4", "group": 128, "method": "search"},
 *         {"match": "*", "scheme": "bf16"}
 *       ]
 *     }
 *
 * match: a role ("kv_b_proj"), a group of roles ("attention"), "*", a `re:` pattern held against the module's
 * name from its start, or a list of these. "layers": "0-2", "3-", "5,7-9", "mtp" narrows a rule. Roles that must
 * not change (norms, router, correction bias) are kept whatever "*" or a pattern says; only a rule that names the
 * role itself touches them. */
#ifndef CONVERT_RECIPE_H
#define CONVERT_RECIPE_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/json.h"
#include "formats/scheme.h"
#include "formats/weight.h"

struct recipe_rule; /* recipe.c's */

/* Where rules for widths came from: quern quantize --target-bpw. */
struct recipe_widths {
    double target_bpw;
    const char *statistics_sha256; /* of the file with the losses */
};

struct recipe {
    struct arena arena;
    const char *name;        /* "int4-fast", or the file's "name" */
    const char *description; /* one line for the model card, or NULL */
    const struct recipe_widths *widths; /* NULL: none were chosen */
    struct recipe_rule *rules;
    size_t rule_count;
    char *text; /* canonical: what quern.json records; the same for the same rules however written */
};

/* What a weight gets. */
struct choice {
    struct scheme scheme; /* RAW with METHOD_COPY: bytes as they are */
    const char
        *why; /* "rule 1: routed_expert", "kept: norm", "group 128 does not divide 192: BF16"; in the arena given */
    bool fell_back; /* a width that the group does not divide: listed in the plan */
};

/* name_or_path: a built-in name, an alias (W4A16, FP8_BLOCK), or a file (it has a '/' or ends in .json).
 * Unknown names are ERR_USAGE. */
bool recipe_load(struct recipe *r, const char *name_or_path, struct err *e) CHECKED;
/* A recipe from text; name is used in messages, and where the text has none. */
bool recipe_parse(struct recipe *r, const char *name, const char *text, size_t bytes, struct err *e) CHECKED;
/* The recipe behind `convert --to`: bf16, f16, f32, fp8, fp8-ue8m0, fp8-channel, int4[:g32|g64|g128][:asym][:absmax].
 */
bool recipe_to(struct recipe *r, const char *to, struct err *e) CHECKED;
/* Names and one-line descriptions of the built-in recipes, for --help and the manual's test. NULL: past the end. */
const char *recipe_builtin_name(size_t i);
const char *recipe_builtin_description(size_t i);
/* What recipe_to takes, for shell completion; of int4's endings one each. NULL: past the end. */
const char *recipe_to_name(size_t i);

/* ERR_UNSUPPORTED naming module, width and the groups that fit when a routed expert cannot be packed. */
bool recipe_choose(const struct recipe *r, struct arena *a, const struct arch *arch, const struct weight *w,
                   struct choice *out, struct err *e) CHECKED;
/* Whether a rule asks for what needs the inputs of the linears: quern quantize has them. */
bool recipe_is_calibrated(const struct recipe *r);
void recipe_release(struct recipe *r);

#endif
