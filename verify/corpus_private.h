/* How corpus.c and corpus_read.c share the work: texts to ids, and ids to contexts. */
#ifndef VERIFY_CORPUS_PRIVATE_H
#define VERIFY_CORPUS_PRIVATE_H

#include "verify/corpus.h"

/* A text, or a part of one that becomes a context: ids [first, first + count) of `ids`. */
struct span {
    size_t first, count;
};

struct spans {
    struct span *items; /* mem_free */
    size_t count, room;
};
void spans_add(struct spans *s, size_t first, size_t count);

/* The encoded texts, in their order. */
struct texts {
    struct id_list ids;
    struct spans spans; /* a text each; those without tokens are left out */
};
void texts_release(struct texts *x);

/* Reads what the options name. Of plain texts no more than ids_wanted ids are encoded (0: all). */
bool corpus_read_texts(struct texts *x, const struct tokenizer *t, const char *path, uint64_t ids_wanted,
                       struct err *e) CHECKED;
bool corpus_read_builtin(struct texts *x, const struct tokenizer *t, uint64_t ids_wanted, struct err *e) CHECKED;
bool corpus_read_ids(struct texts *x, const char *path, uint64_t id_limit, struct err *e) CHECKED;

#endif
