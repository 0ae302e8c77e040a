#include "convert/calibration.h"

#include <inttypes.h>
#include <string.h>

#include "convert/measured.h"
#include "formats/base/hash.h"
#include "formats/base/log.h"
#include "formats/base/units.h"

static bool check_word(const char *option, const char *word, const char *a, const char *b, struct err *e)
{
    return strcmp(word, a) == 0 || strcmp(word, b) == 0 ||
           err_set(e, ERR_USAGE, "--%s is '%s'; known are %s, %s", option, word, a, b);
}

static bool check_outputs(const struct plan *p, struct err *e)
{
    size_t count = 0;

    for (size_t o = 0; o < p->output_count; o++)
        count += plan_is_calibrated(&p->outputs[o]);
    return count <= 1 || err_set(e, ERR_UNSUPPORTED,
                                 "%zu of the recipes are calibrated, and each needs a run of its own: the next layer "
                                 "sees what was rounded",
                                 count);
}

/* Ids and where contexts begin, as four bytes each. */
static void hash_batch(const struct batch *b, char hex[HASH_HEX_BYTES])
{
    struct hash h = {0};

    hash_init(&h);
    hash_update(&h, b->ids, b->tokens * sizeof *b->ids);
    for (size_t i = 0; i < b->sequence_count; i++) {
        uint32_t first = (uint32_t)b->sequences[i].first;
        hash_update(&h, &first, sizeof first);
    }
    hash_final_hex(&h, hex);
}

const char *calibration_batch_text(const struct batch *b, struct arena *a)
{
    char hex[HASH_HEX_BYTES];

    hash_batch(b, hex);
    return arena_printf(a, "%zu token%s in %zu context%s, sha256 %s", b->tokens, plural(b->tokens), b->sequence_count,
                        plural(b->sequence_count), hex);
}

/* Then every expert is starved for certain, and a mistake in the command is likelier than that. */
bool calibration_check_text(const struct corpus *t, uint64_t min_tokens, struct err *e)
{
    size_t tokens = t->batch.tokens;

    return tokens >= min_tokens ||
           err_set(e, ERR_FORMAT,
                   "%zu token%s of '%s' %s fewer than --min-tokens %" PRIu64 ": no expert can have enough", tokens,
                   plural(tokens), t->source, is_are(tokens), min_tokens);
}

void calibration_note_text(const struct corpus *t, uint64_t tokens)
{
    if (t->is_builtin)
        log_warn(
            "calibrating on the built-in texts, %zu token%s: --text FILE with text like what the model will see is "
            "better",
            t->batch.tokens, plural(t->batch.tokens));
    else if (t->is_short)
        log_note("'%s' has %zu token%s, fewer than the %" PRIu64 " asked for: all of it is used", t->source,
                 t->text_tokens, plural(t->text_tokens), tokens);
}

bool calibration_open(struct calibration *c, struct plan *p, struct err *e)
{
    const struct source *s = p->source;

    if (!check_word("propagate", c->propagate, "on", "off", e) ||
        !check_word("on-starved", c->on_starved, "warn", "fail", e) || !check_outputs(p, e))
        return false;
    if (!c->text.ids && !tokenizer_open(&c->tokenizer, s->checkpoint.path, e))
        return err_in(e, "calibration text");
    if (!corpus_open(&c->corpus, c->text.ids ? NULL : &c->tokenizer, &s->arch, &c->text, e))
        return err_in(e, "calibration text");
    if (!calibration_check_text(&c->corpus, c->min_tokens, e))
        return err_in(e, "calibration text");
    p->calibration = arena_printf(&p->arena, "%s, propagate %s", calibration_batch_text(&c->corpus.batch, &p->arena),
                                  c->propagate);
    p->min_tokens = c->min_tokens;
    calibration_note_text(&c->corpus, c->text.tokens);
    return true;
}

/* An expert's gate speaks for it, as in the coverage. */
static bool check_starved(const struct calibration *c, const struct plan *p, struct err *e)
{
    for (size_t o = 0; o < p->output_count; o++)
        for (size_t i = 0; i < p->weight_count; i++) {
            const struct measured *m = p->outputs[o].rows[i].measured;
            const struct tensor_id *id = &p->weights[i]->id;
            if (m && id->role == ROLE_EXPERT_GATE && m->about.tokens < c->min_tokens)
                return err_set(e, ERR_UNSUPPORTED,
                               "layer %" PRId64 ", expert %" PRId64 ": %" PRIu64
                               " tokens reached it, fewer than --min-tokens %" PRIu64 ": take statistics of more text",
                               id->layer, id->expert, m->about.tokens, c->min_tokens);
        }
    return true;
}

static bool any_measured(const struct plan *p)
{
    for (size_t o = 0; o < p->output_count; o++)
        if (plan_is_fed(p, &p->outputs[o]))
            return true;
    return false;
}

bool calibration_by_statistics(const struct calibration *c, struct plan *p, struct err *e)
{
    const struct routing_stats *r = &p->statistics->stats.routing;

    if (!check_word("on-starved", c->on_starved, "warn", "fail", e))
        return false;
    if (!any_measured(p))
        return err_set(e, ERR_USAGE,
                       "--stats has no say in recipe '%s': in int4 by search or ldlq it has, and in static FP8",
                       p->outputs[0].recipe->name);
    if (strcmp(c->on_starved, "fail") == 0 && !check_starved(c, p, e))
        return err_in(e, "statistics '%s'", p->statistics->path);
    p->calibration =
        arena_printf(&p->arena, "statistics of %" PRIu64 " token%s in %zu context%s, sha256 %s", r->tokens,
                     plural(r->tokens), r->sequence_count, plural(r->sequence_count), p->statistics->sha256);
    p->min_tokens = c->min_tokens;
    return true;
}

void calibration_close(struct calibration *c)
{
    corpus_release(&c->corpus);
    tokenizer_release(&c->tokenizer);
}

struct pipeline_options calibration_pipeline(const struct calibration *c, unsigned threads, uint64_t memory_bytes)
{
    return (struct pipeline_options){
        .threads = threads,
        .memory_bytes = memory_bytes,
        .batch = &c->corpus.batch,
        .propagate = strcmp(c->propagate, "on") == 0,
        .min_tokens = c->min_tokens,
        .save_seconds = c->save_seconds,
        .starved_fails = strcmp(c->on_starved, "fail") == 0,
    };
}
