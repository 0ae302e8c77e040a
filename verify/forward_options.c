#include "verify/forward_options.h"

#include <string.h>

bool forward_choose(struct forward_options *o, const struct forward_choices *c, struct err *e)
{
    *o = (struct forward_options){
        .threads = (unsigned)c->threads, .memory_bytes = c->memory_bytes, .mla_norm_eps = c->mla_norm_eps};
    if (c->emulate && strcmp(c->emulate, "bf16") == 0)
        o->emulate = EMULATE_BF16;
    else if (c->emulate && strcmp(c->emulate, "fp8-activations") == 0)
        o->emulate = EMULATE_FP8_ACTIVATIONS;
    else if (c->emulate)
        return err_set(e, ERR_USAGE, "--emulate is bf16 or fp8-activations, not '%s'", c->emulate);
    return (c->mla_norm_eps >= 0 && c->mla_norm_eps < 1) ||
           err_set(e, ERR_USAGE, "--mla-norm-eps %g is not between 0 and 1", c->mla_norm_eps);
}
