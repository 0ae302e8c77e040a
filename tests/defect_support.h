/* Good bundles of the sample, and a walk over ways to spoil one. */
#ifndef TESTS_DEFECT_SUPPORT_H
#define TESTS_DEFECT_SUPPORT_H

#include "formats/base/mem.h"
#include "verify/verification.h"

#define SAMPLE "samples/tiny-v3"

enum base { BASE_INT4, BASE_FP8, BASE_SPLIT, BASE_COUNT };
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

extern const char *defect_bases[BASE_COUNT]; /* folders */
/* Makes them where the test may write. */
bool defect_bases_make(struct arena *a);
bool defect_verify(struct verification *v, const char *dir, unsigned how);
/* All findings are shown when the wanted one is not there. */
void expect_finding(const struct verification *v, const char *id);

#endif
