/* --target-bpw: a recipe whose widths were chosen by measured losses. The choice (convert/allocate.h, over the units of
 * convert/width_units.h) becomes rules by layer and matrix, before the rules of the recipe it began with, so that the
 * plan, the bundle and whoever repeats it see a recipe like any other. */
#ifndef CONVERT_WIDTH_RECIPE_H
#define CONVERT_WIDTH_RECIPE_H

#include <stdbool.h>

#include "convert/recipe.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/weight.h"

struct width_options {
    double target_bpw;      /* mean bits of the weights that are chosen for, scales included */
    const char *statistics; /* a file of quern calibrate --losses */
    bool split;             /* a layer's experts may have one scheme for gate and up, another for down */
};

/* The table for the plan: its lines, and a JSON value. */
struct width_report {
    struct buf text, json;
    double above; /* the most bits there is use for, when the target is above that; else 0 */
};
void width_report_release(struct width_report *r); /* idempotent */

/* out: the new recipe; base and source are borrowed until it is made. Refused: statistics of another model, or without
 * losses; what width_units_make refuses; a target below the least, with both. */
bool width_recipe_make(struct recipe *out, struct width_report *report, const struct recipe *base,
                       const struct source *s, const struct width_options *o, struct err *e) CHECKED;

#endif
