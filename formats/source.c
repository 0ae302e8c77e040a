#include <string.h>

#include "formats/weight.h"

static bool open_all(struct source *s, bool read_shapes, const struct err_sink *sink, struct err *e)
{
    const struct checkpoint *c = &s->checkpoint;

    if (!c->config)
        return err_broken(e, ERR_FORMAT, "config-missing", "there is no config.json in '%s'", c->dir);
    if (!arch_parse(&s->arch, &s->checkpoint.arena, c->config, c->config_bytes, e))
        return err_rule(e, "config-malformed");
    if (s->arch.quant == QUANT_OTHER)
        return err_broken(e, ERR_UNSUPPORTED, "quant-config-malformed",
                          "config.json: quantization method '%s' cannot be read, only fp8 and "
                          "compressed-tensors can",
                          s->arch.quant_format);
    return weights_open(&s->weights, c, &s->arch, read_shapes, sink, e);
}

static bool open_with(struct source *s, const char *path, bool read_shapes, const struct err_sink *sink, struct err *e)
{
    memset(s, 0, sizeof *s);
    if (!checkpoint_open_all(&s->checkpoint, path, sink, e))
        return false;
    if (open_all(s, read_shapes, sink, e))
        return true;
    source_close(s);
    return err_in(e, "'%s'", path);
}

bool source_open(struct source *s, const char *path, bool read_shapes, struct err *e)
{
    return open_with(s, path, read_shapes, NULL, e);
}

bool source_open_all(struct source *s, const char *path, const struct err_sink *sink, struct err *e)
{
    return open_with(s, path, true, sink, e);
}

void source_close(struct source *s)
{
    weights_release(&s->weights);
    checkpoint_close(&s->checkpoint);
    memset(s, 0, sizeof *s);
}
