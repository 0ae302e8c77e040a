/* A file of expert orders, a line per layer. */
#include <inttypes.h>
#include <string.h>

#include "convert/expert_order.h"
#include "formats/base/units.h"

struct reading {
    struct expert_orders *o;
    const char *at, *end; /* of the current line */
    size_t line;
    bool *told; /* per layer: it has a line of its own */
    bool all;   /* there was a line for "*" */
    uint32_t *ids;
};

static void skip_space(struct reading *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\r' || *r->at == ','))
        r->at++;
}

static bool read_number(struct reading *r, uint64_t *value)
{
    const char *begin = r->at;

    *value = 0;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9' && *value < UINT32_MAX)
        *value = *value * 10 + (uint64_t)(*r->at++ - '0');
    return r->at > begin;
}

/* layer: NULL for "*". */
static bool read_layer(struct reading *r, size_t *item, bool *all, struct err *e)
{
    uint64_t layer = 0;

    *all = r->at < r->end && *r->at == '*';
    *item = 0;
    if (*all)
        r->at++;
    else if (!read_number(r, &layer))
        return err_set(e, ERR_FORMAT, "line %zu does not begin with a layer's number or '*'", r->line);
    skip_space(r);
    if (r->at == r->end || *r->at != ':')
        return err_set(e, ERR_FORMAT, "line %zu has no ':' behind its layer", r->line);
    r->at++;
    while (!*all && *item < r->o->count && r->o->items[*item].layer != layer)
        ++*item;
    return *item < r->o->count ||
           err_set(e, ERR_FORMAT, "line %zu is for layer %" PRIu64 ", which has no routed experts", r->line, layer);
}

static bool read_ids(struct reading *r, struct err *e)
{
    uint64_t experts = r->o->experts, id = 0, count = 0;
    bool *seen = mem_alloc((size_t)experts + 1);
    bool ok = true;

    for (skip_space(r); r->at < r->end && ok; skip_space(r)) {
        if (!read_number(r, &id))
            ok = err_set(e, ERR_FORMAT, "line %zu has '%c' where an expert's number should be", r->line, *r->at);
        else if (id >= experts)
            ok = err_set(e, ERR_FORMAT, "line %zu names expert %" PRIu64 " of %" PRIu64, r->line, id, experts);
        else if (seen[id])
            ok = err_set(e, ERR_FORMAT, "line %zu names expert %" PRIu64 " twice", r->line, id);
        else {
            seen[id] = true;
            r->ids[count++] = (uint32_t)id;
        }
    }
    mem_free(seen);
    if (ok && count != experts)
        ok = err_set(e, ERR_FORMAT, "line %zu names %" PRIu64 " expert%s of %" PRIu64, r->line, count, plural(count),
                     experts);
    return ok;
}

static bool read_line(struct reading *r, struct err *e)
{
    bool all = false;
    size_t item = 0;

    skip_space(r);
    if (r->at == r->end)
        return true;
    if (!read_layer(r, &item, &all, e) || !read_ids(r, e))
        return false;
    if (all ? r->all : r->told[item])
        return err_set(e, ERR_FORMAT, "line %zu gives an order that there was a line for before", r->line);
    for (size_t i = 0; i < r->o->count; i++)
        if (all ? !r->told[i] : i == item)
            memcpy(r->o->items[i].experts, r->ids, (size_t)r->o->experts * sizeof *r->ids);
    if (all)
        r->all = true;
    else
        r->told[item] = true;
    return true;
}

bool expert_orders_parse(struct expert_orders *o, const char *text, size_t bytes, struct err *e)
{
    struct reading r = {
        .o = o,
        .told = mem_alloc(o->count + 1),
        .ids = mem_alloc(((size_t)o->experts + 1) * sizeof(uint32_t)),
    };
    const char *next = text, *end = text + bytes;
    bool ok = true;

    while (next < end && ok) {
        const char *newline = memchr(next, '\n', (size_t)(end - next));
        r.at = next;
        r.end = newline ? newline : end;
        next = newline ? newline + 1 : end;
        const char *comment = memchr(r.at, '#', (size_t)(r.end - r.at));
        r.end = comment ? comment : r.end;
        r.line++;
        ok = read_line(&r, e);
    }
    mem_free(r.told);
    mem_free(r.ids);
    return ok;
}
