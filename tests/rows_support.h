/* A model's weights without their bytes, and what a recipe makes of them: for
 * tests of whatever reads such rows. */
#ifndef TESTS_ROWS_SUPPORT_H
#define TESTS_ROWS_SUPPORT_H

#include "convert/recipe.h"
#include "formats/engine.h"
#include "tests/ckpt_support.h"

/* Zero is empty. */
struct rows {
    struct arena arena;
    struct arch arch;
    const char *config; /* config.json's text */
    struct weight *weights;
    struct scheme *schemes;
    struct choice *choices;
    struct engine_weight *items; /* weights and schemes, side by side */
    size_t count, room;
};

/* V3.2 (it has every role) with fewer layers and experts: 0 and 1 dense, 2 to 4 with experts, 5 for MTP. */
struct model rows_small_model(void);
/* All weights of a model; what the family's published files quantize is stored as `linear`, the rest BF16, the
 * router's bias F32. Each gets its own scheme again. */
void rows_model(struct rows *r, const struct model *m, const struct scheme *linear);
/* One more weight. rows 0: a vector of cols elements. */
struct weight *rows_add(struct rows *r, const char *module, uint64_t rows, uint64_t cols, const struct scheme *stored);
/* Schemes as a built-in recipe, a recipe's text (it begins with '{') or a target "to:bf16" chooses them. */
bool rows_choose(struct rows *r, const char *recipe, struct err *e) CHECKED;
/* NULL: no such module, which fails the test. */
const struct choice *rows_choice(const struct rows *r, const char *module);
void rows_release(struct rows *r);

extern const struct scheme stored_bf16, stored_fp8, stored_int4_g32;

#endif
