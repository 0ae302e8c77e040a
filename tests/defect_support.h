/* Good bundles of the sample, and a walk over ways to spoil one. */
#ifndef TESTS_DEFECT_SUPPORT_H
#define TESTS_DEFECT_SUPPORT_H

#include "formats/base/mem.h"
#include "verify/verification.h"

#define SAMPLE "samples/tiny-v3"

enum base { BASE_INT4, BASE_FP8, BASE_STATIC, BASE_SPLIT, BASE_COUNT }; /* good ones come first */
enum how {
    HOW_PLAIN = 0,
    HOW_REHASH = 1, /* quern.json is brought up to date: lint finds it without the hashes */
    HOW_DEEP = 2,
    HOW_SOURCE = 4,
    HOW_ASK = 8, /* the forward pass */
};

/* Each is planted in a copy of its base, and must be found by the rule's name. */
struct defect {
    const char *rule;
    void (*plant)(const char *dir);
    enum base base;
    unsigned how;
};
void defects_check(const struct defect *defects, size_t count);

/* The folder of a good one, made when it is first asked for: tests read it and copy it, none changes it. NULL: it could
 * not be made, and the test has failed. */
const char *defect_base(enum base b);
/* A copy to spoil; in the arena, or NULL. */
const char *defect_copy(struct arena *a, enum base b);
/* Weights that are spoilt; in more than one test. */
#define DEFECT_EXPERT    "model.layers.1.mlp.experts.3.up_proj.weight"
#define DEFECT_ATTENTION "model.layers.2.self_attn.o_proj.weight"
/* BASE_FP8: what a converter did that divided by 448 twice: every scale of DEFECT_ATTENTION. */
void plant_fp8_scale_twice(const char *dir);
/* BASE_INT4: DEFECT_EXPERT and that of expert 5 change places: nothing that a header, a scale or a hash could tell. */
void plant_swapped_experts(const char *dir);

bool defect_verify(struct verification *v, const char *dir, unsigned how);
/* All findings are shown when the wanted one is not there. */
void expect_finding(const struct verification *v, const char *id);

#endif
