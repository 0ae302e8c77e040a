/* Regular expressions, the one door to Oniguruma. Python's syntax, because the
 * patterns in recipes and in quantization_config are Python's; and Ruby's, with
 * which the Hugging Face tokenizers compile theirs. */
#ifndef FORMATS_BASE_PATTERN_H
#define FORMATS_BASE_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

struct pattern {
    void *re; /* NULL: holds nothing */
};
bool pattern_compile(struct pattern *p, const char *regex, struct err *e) CHECKED;
/* As Python's re.match: anchored at the start, not at the end. A pattern that
 * backtracks past the engine's limit does not match. */
bool pattern_match(const struct pattern *p, const char *text);
bool pattern_search(const struct pattern *p, const char *text); /* as re.search */

#define PATTERN_TEXT_BYTES_MAX ((size_t)INT32_MAX)

/* In Ruby's syntax, for text that is split: has && between classes, and ^ and $ at every line. */
bool pattern_compile_ruby(struct pattern *p, const char *regex, struct err *e) CHECKED;
/* Gets [begin, end) of a match. false ends the walk; set e, unless the end is what was wanted. */
typedef bool pattern_visit(void *ctx, size_t begin, size_t end, struct err *e);
/* Visits the matches from left to right, none overlapping: where an empty one would touch the match before it, the
 * search goes on one character later. text is valid UTF-8 of at most PATTERN_TEXT_BYTES_MAX; look-around sees it and
 * no more. Backtracking is bounded by the length of the text: what passes that is ERR_LIMIT. Thread-safe. */
bool pattern_find_all(const struct pattern *p, const char *text, size_t bytes, pattern_visit *visit, void *ctx,
                      struct err *e) CHECKED;
void pattern_release(struct pattern *p);

#endif
