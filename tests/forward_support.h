/* Small checkpoints for forward passes, drawn as tests/oracle/make_forward_golden.py draws them, and what must come
 * out (tests/fixtures/forward). */
#ifndef TESTS_FORWARD_SUPPORT_H
#define TESTS_FORWARD_SUPPORT_H

#include "formats/weight.h"
#include "tests/ckpt_support.h"
#include "verify/batch.h"
#include "verify/forward.h"

/* A checkpoint of a kind; what the caller changes before forward_made_open comes out changed. */
struct made {
    struct ckpt_maker maker;
    struct arch arch;
    struct source source;
    char *config;
    const char *dir;
};
void made_init(struct made *m, const char *kind);
/* The same, with one text in its config.json in the place of another. */
void made_init_with(struct made *m, const char *kind, const char *from, const char *to);
/* Writes it and opens it as a source. */
void made_open(struct made *m);
void made_release(struct made *m);

/* Byte i of a name's stream. */
uint8_t made_byte(const char *name, uint64_t i);
/* [count] ids below the model's vocabulary, in m's arena. */
uint32_t *made_ids(struct made *m, size_t count);

/* Contexts of 150 and of 21 tokens. */
#define MADE_TOKENS 171u
extern const struct sequence made_contexts[2];
struct batch made_batch(struct made *m);

/* Runs all layers: the last hidden state [tokens][hidden] and logits [tokens][vocab], in memory of m; either may be
 * NULL. False: e says why. */
bool made_run(struct made *m, const struct forward_options *o, const struct batch *b, const struct observer *observer,
              float **hidden, float **logits, struct err *e);

#endif
