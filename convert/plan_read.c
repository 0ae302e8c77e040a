#include "convert/plan.h"

static uint64_t line_at(const struct plan_slice *s, uint64_t line)
{
    return s->offset + (s->line_order ? s->line_order[line] : line) * s->stride_bytes;
}

/* Lines that stand one behind the other are one read. */
bool plan_read(const struct plan *p, const struct plan_slice *s, void *to, struct err *e)
{
    const struct checkpoint *c = &p->source->checkpoint;
    uint64_t lines = s->line_bytes > 0 ? s->bytes / s->line_bytes : 0, next = 0;

    if (s->line_bytes == 0)
        return checkpoint_read(c, s->tensor, s->offset, to, s->bytes, e);
    for (uint64_t line = 0; line < lines; line = next) {
        next = line + 1;
        while (next < lines && line_at(s, next) == line_at(s, next - 1) + s->line_bytes)
            next++;
        if (!checkpoint_read(c, s->tensor, line_at(s, line), (uint8_t *)to + line * s->line_bytes,
                             (next - line) * s->line_bytes, e))
            return false;
    }
    return true;
}
