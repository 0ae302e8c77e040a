#include "convert/conversion_notes.h"

#include "convert/measured.h"
#include "formats/base/log.h"
#include "formats/base/units.h"
#include "formats/engine.h"
#include "verify/lint.h"

static void say_line(void *ctx, const char *rule, const char *line)
{
    (void)ctx;
    (void)rule;
    log_note("%s", line);
}

static void note_limits(const struct plan *p, const struct plan_output *o)
{
    struct engine_weight *list = mem_alloc((p->weight_count + 1) * sizeof *list);
    size_t count = 0;

    for (size_t i = 0; i < p->weight_count; i++)
        if (p->weights[i]->id.part != NAME_INPUT_SCALE)
            list[count++] = (struct engine_weight){.weight = p->weights[i], .scheme = &o->rows[i].scheme};
    engine_check_limits(list, count, say_line, NULL);
    mem_free(list);
}

#define FALL_BACKS_LISTED 8u

static void note_drops(const struct plan_output *o)
{
    if (o->drop_count > 0)
        log_note("%zu source tensor%s %s left out, '%s' first: %s", o->drop_count, plural(o->drop_count),
                 is_are(o->drop_count), o->drops[0].name, o->drops[0].why);
}

static void note_fall_backs(const struct plan *p, const struct plan_output *o)
{
    size_t count = 0;

    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].fell_back && count++ < FALL_BACKS_LISTED)
            log_note("'%s' stays wider: %s", p->weights[i]->name, o->rows[i].why);
    if (count > FALL_BACKS_LISTED)
        log_note("%zu more weight%s wider; --dry-run --verbose lists them", count - FALL_BACKS_LISTED,
                 count - FALL_BACKS_LISTED == 1 ? " stays" : "s stay");
}

/* What statistics could not do as it was asked. */
static void note_measured(const struct plan *p, const struct plan_output *o)
{
    size_t count[REASON_COUNT] = {0};

    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].measured)
            count[o->rows[i].measured->about.reason]++;
    for (enum reason reason = 0; reason < REASON_COUNT; reason++) {
        size_t n = count[reason];
        const char *get = n == 1 ? "gets" : "get";
        if (n > 0 && reason == REASON_VARIANCES)
            log_note("%zu weight%s that recipe '%s' rounds by ldlq %s a search that weighs channels: %s; --text runs "
                     "the model for ldlq",
                     n, plural(n), o->recipe->name, get, reason_text(reason));
        else if (n > 0 && reason == REASON_PRIOR)
            log_note("%zu weight%s %s a search that weighs channels: %s", n, plural(n), get, reason_text(reason));
        else if (n > 0 && reason != REASON_ASKED)
            log_note("%zu weight%s %s a search that weighs no channel: %s", n, plural(n), get, reason_text(reason));
    }
}

/* A model that lacks a weight converts, but no engine loads it. */
static void warn_missing(const struct plan *p)
{
    struct findings findings = {0};
    const struct lint lint = {.source = p->source, .findings = &findings};

    lint_promises(&lint);
    for (size_t i = 0; i < findings.count; i++)
        if (findings.items[i].rule == RULE_WEIGHT_MISSING || findings.items[i].rule == RULE_MTP_MISSING)
            log_warn("source '%s': %s", p->source->checkpoint.path, findings.items[i].text);
    findings_release(&findings);
}

void conversion_note_plan(const struct plan *p)
{
    warn_missing(p);
    for (size_t i = 0; i < p->source->checkpoint.note_count; i++)
        log_note("%s", p->source->checkpoint.notes[i].text);
    for (size_t o = 0; o < p->output_count; o++) {
        note_drops(&p->outputs[o]);
        note_fall_backs(p, &p->outputs[o]);
        note_limits(p, &p->outputs[o]);
        note_measured(p, &p->outputs[o]);
    }
}

void conversion_note_proofs(const struct plan *p, const struct proof *proofs, const struct proof_wishes *wishes)
{
    for (size_t o = 0; o < p->output_count && !wishes->no_fingerprint; o++) {
        if (proofs[o].why_not)
            log_note("there will be no fingerprint in '%s': %s", p->outputs[o].dir, proofs[o].why_not);
        if (proofs[o].renumbering && proofs[o].why_unproved && !wishes->no_proof)
            log_note("that the renumbered model is the same function will not be proved: %s", proofs[o].why_unproved);
    }
}
