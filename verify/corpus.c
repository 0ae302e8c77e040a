#include "verify/corpus.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/random.h"
#include "formats/base/units.h"
#include "verify/corpus_private.h"

/* ---- cutting ---- */

/* Whole parts of `part` tokens, the rest dropped; what is shorter than one is a part of its own. part 0: all is one. */
static void cut(struct spans *parts, const struct span *text, size_t part)
{
    if (!part || text->count < part) {
        spans_add(parts, text->first, text->count);
        return;
    }
    for (size_t at = 0; at + part <= text->count; at += part)
        spans_add(parts, text->first + at, part);
}

static size_t tokens_of(const struct spans *s)
{
    size_t tokens = 0;

    for (size_t i = 0; i < s->count; i++)
        tokens += s->items[i].count;
    return tokens;
}

/* From the first on, as long as they have no more than `tokens` together. */
static void keep_first(struct spans *s, uint64_t tokens)
{
    uint64_t kept_tokens = 0;
    size_t kept = 0;

    while (kept < s->count && kept_tokens + s->items[kept].count <= tokens)
        kept_tokens += s->items[kept++].count;
    s->count = kept;
}

static int by_place(const void *a, const void *b)
{
    const struct span *x = a, *y = b;

    return (x->first > y->first) - (x->first < y->first);
}

/* The same of a shuffled order, and then back in place. */
static void keep_random(struct spans *s, uint64_t tokens, uint64_t seed)
{
    struct random_state r = {seed};

    for (size_t i = s->count; i > 1; i--) {
        size_t other = (size_t)random_below(&r, i);
        struct span swapped = s->items[i - 1];
        s->items[i - 1] = s->items[other];
        s->items[other] = swapped;
    }
    keep_first(s, tokens);
    qsort(s->items, s->count, sizeof *s->items, by_place);
}

/* ---- assembling ---- */

static void assemble(struct corpus *c, const struct texts *x, const struct spans *parts, const struct tokenizer *t)
{
    c->sequences = mem_alloc(parts->count * sizeof *c->sequences);
    for (size_t i = 0; i < parts->count; i++) {
        const struct span *p = &parts->items[i];
        struct sequence *s = &c->sequences[i];

        s->first = c->ids.count;
        if (c->has_bos)
            id_list_add(&c->ids, t->bos_id);
        for (size_t k = p->first; k < p->first + p->count; k++)
            id_list_add(&c->ids, x->ids.ids[k]);
        s->tokens = c->ids.count - s->first;
    }
    c->batch = (struct batch){
        .ids = c->ids.ids, .tokens = c->ids.count, .sequences = c->sequences, .sequence_count = parts->count};
}

/* How many of the texts have a part; both lists are in order. */
static size_t texts_used(const struct spans *texts, const struct spans *parts)
{
    size_t used = 0, part = 0;

    for (size_t i = 0; i < texts->count && part < parts->count; i++) {
        size_t end = texts->items[i].first + texts->items[i].count, before = part;
        while (part < parts->count && parts->items[part].first < end)
            part++;
        used += part > before;
    }
    return used;
}

/* ---- checking ---- */

static bool check_options(const struct arch *arch, const struct corpus_options *o, struct err *e)
{
    if (o->text && o->ids)
        return err_set(e, ERR_USAGE, "give --text or --ids, not both");
    if (o->context == 1)
        return err_set(e, ERR_USAGE, "--context 1 is no context: 2 is the least");
    if (o->context > arch->max_positions)
        return err_set(e, ERR_USAGE, "--context %" PRIu64 " is past the model's %" PRIu64 " positions", o->context,
                       arch->max_positions);
    return true;
}

/* A tokenizer may know more than the model has rows for. */
static bool check_ids(const struct texts *x, const struct tokenizer *t, const struct arch *arch, struct err *e)
{
    for (size_t i = 0; i < x->ids.count; i++) {
        uint32_t id = x->ids.ids[i];
        size_t bytes = 0;
        if (id < arch->vocab_size)
            continue;
        const char *text = tokenizer_bytes(t, id, &bytes);
        return err_set(e, ERR_FORMAT, "token '%.*s' has id %u, past the model's vocabulary of %" PRIu64,
                       bytes < 40 ? (int)bytes : 40, text, id, arch->vocab_size);
    }
    return true;
}

static bool check_lengths(const struct spans *parts, const struct arch *arch, struct err *e)
{
    for (size_t i = 0; i < parts->count; i++)
        if (parts->items[i].count > arch->max_positions)
            return err_set(e, ERR_FORMAT, "sequence %zu has %zu tokens, past the model's %" PRIu64 " positions", i + 1,
                           parts->items[i].count, arch->max_positions);
    return true;
}

/* ---- opening ---- */

static bool read_all(struct corpus *c, struct texts *x, const struct tokenizer *t, const struct arch *arch,
                     const struct corpus_options *o, struct err *e)
{
    uint64_t ids_wanted = o->seed ? 0 : o->tokens;

    if (o->ids)
        return corpus_read_ids(x, o->ids, arch->vocab_size, e);
    if (t->add_bos && t->bos_id >= arch->vocab_size)
        return err_set(e, ERR_FORMAT, "the tokenizer's bos_token has id %u, past the model's vocabulary of %" PRIu64,
                       t->bos_id, arch->vocab_size);
    if (o->text ? !corpus_read_texts(x, t, o->text, ids_wanted, e) : !corpus_read_builtin(x, t, ids_wanted, e))
        return false;
    return check_ids(x, t, arch, e) || err_in(e, "'%s'", c->source);
}

static void cut_all(struct corpus *c, const struct texts *x, struct spans *parts, const struct corpus_options *o)
{
    size_t part = (size_t)c->context - (c->has_bos ? 1 : 0);

    for (size_t i = 0; i < x->spans.count; i++)
        cut(parts, &x->spans.items[i], c->is_ids && !o->context ? 0 : part);
    if (o->tokens && o->seed)
        keep_random(parts, o->tokens, o->seed);
    else if (o->tokens && c->is_ids)
        keep_first(parts, o->tokens);
}

static bool fill(struct corpus *c, const struct texts *x, const struct tokenizer *t, const struct arch *arch,
                 const struct corpus_options *o, struct err *e)
{
    struct spans parts = {0};
    bool ok = false;

    if (!x->spans.count) {
        err_set(e, ERR_FORMAT, "there %s in '%s'", c->is_ids ? "are no ids" : "is no text", c->source);
        goto done;
    }
    cut_all(c, x, &parts, o);
    if (!parts.count) {
        err_set(e, ERR_USAGE, "--tokens %" PRIu64 " is less than one context of '%s' has", o->tokens, c->source);
        goto done;
    }
    if (!check_lengths(&parts, arch, e)) {
        err_in(e, "'%s'", c->source);
        goto done;
    }
    assemble(c, x, &parts, t);
    c->text_count = texts_used(&x->spans, &parts);
    c->text_tokens = x->ids.count;
    c->dropped_tokens = x->ids.count - tokens_of(&parts);
    c->is_short = o->tokens > x->ids.count;
    ok = true;
done:
    mem_free(parts.items);
    return ok;
}

bool corpus_open(struct corpus *c, const struct tokenizer *t, const struct arch *arch, const struct corpus_options *o,
                 struct err *e)
{
    struct texts x = {0};
    bool ok = false;

    *c = (struct corpus){.source = o->ids    ? o->ids
                                   : o->text ? o->text
                                             : "built-in texts",
                         .is_ids = o->ids != NULL,
                         .is_builtin = !o->ids && !o->text,
                         .has_bos = !o->ids && t->add_bos,
                         .context = o->context};
    if (!c->context)
        c->context =
            CORPUS_CONTEXT_DEFAULT < arch->max_positions && !c->is_ids ? CORPUS_CONTEXT_DEFAULT : arch->max_positions;
    ok = check_options(arch, o, e) && read_all(c, &x, t, arch, o, e) && fill(c, &x, t, arch, o, e);
    texts_release(&x);
    if (!ok)
        corpus_release(c);
    return ok;
}

void corpus_release(struct corpus *c)
{
    id_list_release(&c->ids);
    mem_free(c->sequences);
    *c = (struct corpus){0};
}

void corpus_describe(const struct corpus *c, struct buf *out)
{
    size_t count = c->batch.sequence_count, longest = batch_longest(&c->batch);
    bool all_equal = longest * count == c->batch.tokens;

    buf_printf(out, "%zu context%s of %s%zu token%s from %s%s%s", count, plural(count), all_equal ? "" : "up to ",
               longest, plural(longest), c->is_builtin ? "" : "'", c->source, c->is_builtin ? "" : "'");
}
