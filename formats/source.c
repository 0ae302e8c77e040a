#include <string.h>

#include "formats/weight.h"

static bool open_all(struct source *s, bool read_shapes, struct err *e)
{
    const struct checkpoint *c = &s->checkpoint;

    if (!c->config)
        return err_set(e, ERR_FORMAT, "there is no config.json in '%s'", c->dir);
    if (!arch_parse(&s->arch, &s->checkpoint.arena, c->config, c->config_bytes, e))
        return false;
    if (s->arch.quant == QUANT_OTHER)
        return err_set(e, ERR_UNSUPPORTED,
                       "config.json: quantization method '%s' cannot be read, only fp8 and "
                       "compressed-tensors can",
                       s->arch.quant_format);
    return weights_open(&s->weights, c, &s->arch, read_shapes, e);
}

bool source_open(struct source *s, const char *path, bool read_shapes, struct err *e)
{
    memset(s, 0, sizeof *s);
    if (!checkpoint_open(&s->checkpoint, path, e))
        return false;
    if (open_all(s, read_shapes, e))
        return true;
    source_close(s);
    return err_in(e, "'%s'", path);
}

void source_close(struct source *s)
{
    weights_release(&s->weights);
    checkpoint_close(&s->checkpoint);
    memset(s, 0, sizeof *s);
}
