#include "verify/forward_options.h"

#include <inttypes.h>
#include <string.h>

bool forward_choose(struct forward_options *o, const struct forward_choices *c, struct err *e)
{
    *o = (struct forward_options){
        .threads = (unsigned)c->threads, .memory_bytes = c->memory_bytes, .mla_norm_eps = c->mla_norm_eps};
    if (c->emulate && strcmp(c->emulate, "bf16") == 0)
        o->emulate = EMULATE_BF16;
    else if (c->emulate && strcmp(c->emulate, "fp8-activations") == 0)
        o->emulate = EMULATE_FP8_ACTIVATIONS;
    else if (c->emulate && strcmp(c->emulate, "none") != 0)
        return err_set(e, ERR_USAGE, "--emulate is bf16, fp8-activations or none, not '%s'", c->emulate);
    return (c->mla_norm_eps >= 0 && c->mla_norm_eps < 1) ||
           err_set(e, ERR_USAGE, "--mla-norm-eps %g is not between 0 and 1", c->mla_norm_eps);
}

static const char *emulate_name(enum emulate emulate)
{
    switch (emulate) {
    case EMULATE_NONE:
        return "none";
    case EMULATE_BF16:
        return "bf16";
    case EMULATE_FP8_ACTIVATIONS:
        return "fp8-activations";
    }
    return "";
}

const char *forward_numbers(struct arena *a, const struct forward_options *o)
{
    const char *name = emulate_name(o->emulate);

    if (o->mla_norm_eps == 0 || o->mla_norm_eps == MLA_NORM_EPS)
        return name;
    if (o->emulate == EMULATE_NONE)
        return arena_printf(a, "mla-norm-eps %g", o->mla_norm_eps);
    return arena_printf(a, "%s, mla-norm-eps %g", name, o->mla_norm_eps);
}

const char *forward_caveat(struct arena *a, const struct source *s)
{
    uint64_t dense = forward_dense_tokens(s);

    return dense == UINT64_MAX
               ? NULL
               : arena_printf(a,
                              "the indexer of '%s' is not run: up to %" PRIu64 " tokens its sparse attention is dense",
                              s->checkpoint.path, dense);
}
