/* Added tokens: strings that are cut out of the raw text before anything else looks at it, and become their id
 * directly. As the Hugging Face tokenizers do it: at each place the longest that fits, from left to right. */
#ifndef FORMATS_ADDED_TOKENS_H
#define FORMATS_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/base/pattern.h"

#define ADDED_TOKENS_MAX 100000u
#define ADDED_NONE       UINT32_MAX

struct added_token {
    const char *text; /* in the arena of added_tokens */
    uint32_t id;
    bool single_word;    /* only between characters that belong to no word */
    bool lstrip, rstrip; /* swallows the white space before it, behind it */
    bool normalized;     /* looked for after the others, in what they leave */
    bool special;        /* no difference here; decoding may leave it out */
};

struct added_tokens {
    struct arena arena;
    struct added_token *items; /* in the order they came */
    size_t count;
    /* private */
    size_t room;
    struct trie_node *nodes;
    size_t node_count, node_room;
    struct pattern word; /* a character of a word; compiled when a token asks for it */
};

/* The text is copied; it is valid UTF-8 and not empty. One given twice is refused. */
bool added_add(struct added_tokens *t, const struct added_token *token, struct err *e) CHECKED;
const struct added_token *added_find(const struct added_tokens *t, const char *text); /* NULL: none */

/* Gets text[begin, end) and the id of the token that it is, or ADDED_NONE for what lies between. false ends the walk.
 */
typedef bool added_visit(void *ctx, uint32_t id, size_t begin, size_t end, struct err *e);
/* Cuts valid UTF-8 text at the tokens of one kind. Thread-safe. */
bool added_cut(const struct added_tokens *t, bool normalized, const char *text, size_t bytes, added_visit *visit,
               void *ctx, struct err *e) CHECKED;

void added_release(struct added_tokens *t);

#endif
