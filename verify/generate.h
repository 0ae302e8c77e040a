/* Text from a model, token by token: the prompt at once, then one step for each token, with the latent cache. */
#ifndef VERIFY_GENERATE_H
#define VERIFY_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/tokenizer.h"
#include "verify/forward.h"
#include "verify/sampler.h"
#include "verify/stop_ids.h"

struct generate_options {
    size_t tokens;      /* at most; fewer when a stop comes first */
    uint64_t start_pos; /* position of the prompt's first token */
    struct sampler_options sampling;
    const struct stop_ids *stops; /* NULL: none ends the text */
};

struct generation {
    size_t prompt_tokens, tokens;
    double prompt_seconds, token_seconds; /* the first token is the prompt's */
    uint64_t cache_bytes;                 /* of the tokens that are in it, float32 */
    bool stopped;                         /* by a stop, which is not among the tokens */
};

/* Gets each token as it comes. false ends the text: set e. */
typedef bool generate_visit(void *ctx, uint32_t id, struct err *e);
/* ids: the prompt, at least one. From start_pos, prompt and tokens together fit the model's positions; that is the
 * caller's. Ids that the tokenizer has not (a padded vocabulary) are never taken. */
bool generate(struct forward *f, const struct arch *arch, const struct tokenizer *t, const struct id_list *prompt,
              const struct generate_options *o, generate_visit *visit, void *ctx, struct generation *g,
              struct err *e) CHECKED;

#endif
