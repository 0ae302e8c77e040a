#include "verify/generate.h"

#include <assert.h>
#include <time.h>

#include "formats/base/progress.h"
#include "verify/step.h"

static double now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

struct generating {
    struct forward *f;
    const struct generate_options *o;
    struct sampler sampler;
    struct cache cache;
    float *logits;
    size_t vocabulary; /* what may be taken */
};

static bool take_tokens(struct generating *x, generate_visit *visit, void *ctx, struct generation *g, struct err *e)
{
    while (g->tokens < x->o->tokens) {
        uint32_t id = sampler_pick(&x->sampler, x->logits, x->vocabulary);

        if (x->o->stops && stop_ids_has(x->o->stops, id)) {
            g->stopped = true;
            return true;
        }
        g->tokens++;
        if (!visit(ctx, id, e))
            return false;
        if (g->tokens == x->o->tokens)
            return true;
        if (signal_cancelled())
            return err_set(e, ERR_CANCELLED, "interrupted");
        if (!forward_step(x->f, &x->cache, id, x->logits, e))
            return false;
    }
    return true;
}

bool generate(struct forward *f, const struct arch *arch, const struct tokenizer *t, const struct id_list *prompt,
              const struct generate_options *o, generate_visit *visit, void *ctx, struct generation *g, struct err *e)
{
    struct generating x = {.f = f, .o = o};
    double start = now_seconds();
    bool ok = false;

    assert(prompt->count > 0);
    *g = (struct generation){.prompt_tokens = prompt->count};
    x.vocabulary = (size_t)(t->bpe.id_limit < arch->vocab_size ? t->bpe.id_limit : arch->vocab_size);
    x.logits = mem_alloc((size_t)arch->vocab_size * sizeof *x.logits);
    sampler_init(&x.sampler, &o->sampling);
    cache_open(&x.cache, f, o->start_pos, prompt->count + o->tokens);
    ok = forward_prefill(f, &x.cache, prompt->ids, prompt->count, x.logits, e);
    g->prompt_seconds = now_seconds() - start;
    start = now_seconds();
    ok = ok && take_tokens(&x, visit, ctx, g, e);
    g->token_seconds = now_seconds() - start;
    g->cache_bytes = (uint64_t)x.cache.layers * x.cache.tokens * x.cache.width * sizeof(float);
    cache_release(&x.cache);
    sampler_release(&x.sampler);
    mem_free(x.logits);
    return ok;
}
