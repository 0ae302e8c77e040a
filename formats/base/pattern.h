/* Regular expressions, the one door to Oniguruma. Python's syntax, because the
 * patterns in recipes and in quantization_config are Python's. */
#ifndef FORMATS_BASE_PATTERN_H
#define FORMATS_BASE_PATTERN_H

#include <stdbool.h>

#include "formats/base/err.h"

struct pattern {
    void *re; /* NULL: holds nothing */
};
bool pattern_compile(struct pattern *p, const char *regex, struct err *e) CHECKED;
/* As Python's re.match: anchored at the start, not at the end. A pattern that
 * backtracks past the engine's limit does not match. */
bool pattern_match(const struct pattern *p, const char *text);
bool pattern_search(const struct pattern *p, const char *text); /* as re.search */
void pattern_release(struct pattern *p);

#endif
