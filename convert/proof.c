#include "convert/proof.h"

#include <string.h>

#include "formats/base/file.h"

#define LEFT_OUT       "left out by --no-fingerprint"
#define PROOF_LEFT_OUT "left out by --no-proof"

/* ---- before ---- */

/* What will stand in an output, as if it stood there already: names, shapes and storage; nothing can be read. */
static void foresee(struct source *s, const struct plan *p, const struct plan_output *o)
{
    *s = (struct source){.checkpoint = p->source->checkpoint, .arch = p->source->arch};
    s->checkpoint.path = "bundle"; /* what is said of it goes into quern.json, which names no place */
    s->weights.items = arena_array(&s->weights.arena, p->weight_count, sizeof *s->weights.items);
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct plan_row *row = &o->rows[i];
        struct weight *w = &s->weights.items[s->weights.count];
        if (row->parts[PART_CODES].dtype == DTYPE_NONE || row->unlisted || p->weights[i]->id.part == NAME_INPUT_SCALE)
            continue;
        *w = *p->weights[i];
        w->stored = row->scheme;
        if (w->stored.kind == SCHEME_RAW && w->stored.method == METHOD_COPY)
            w->stored = p->weights[i]->stored;
        if (row->parts[PART_CODES].rank == 1) { /* a piece counts a vector's elements as rows */
            w->rows = 1;
            w->cols = row->parts[PART_CODES].dims[0];
        }
        for (enum part part = PART_CODES; part < PART_COUNT; part++)
            w->parts[part] = row->parts[part].dtype != DTYPE_NONE ? &row->parts[part] : NULL;
        if (map_put(&s->weights.by_name, w->name, s->weights.count))
            s->weights.count++;
    }
}

/* The same reason for both, where it is the forward pass that is not possible. */
static void plan_output(struct plan *p, const struct plan_output *o, unsigned threads,
                        const struct proof_wishes *wishes, struct proof *proof)
{
    struct source foreseen;
    struct err e = {0};

    proof->renumbering = p->renumbering;
    if (wishes->no_fingerprint || o->no_index) {
        proof->why_not = proof->why_unproved =
            wishes->no_fingerprint ? LEFT_OUT : "the files are not a checkpoint together";
        return;
    }
    foresee(&foreseen, p, o);
    if (!fingerprint_cost(&proof->cost, &foreseen, threads, &e))
        proof->why_not = arena_strdup(&p->arena, e.text);
    if (wishes->no_proof)
        proof->why_unproved = PROOF_LEFT_OUT;
    else if (p->renumbering && !renumbering_cost(&proof->renumbering_cost, p->source, &foreseen, threads, &e))
        proof->why_unproved = arena_strdup(&p->arena, e.text);
    weights_release(&foreseen.weights);
}

struct proof *proofs_plan(struct plan *p, unsigned threads, const struct proof_wishes *wishes)
{
    struct proof *proofs = arena_array(&p->arena, p->output_count, sizeof *proofs);

    for (size_t o = 0; o < p->output_count; o++)
        plan_output(p, &p->outputs[o], threads, wishes, &proofs[o]);
    return proofs;
}

static bool check_memory(const struct fingerprint_cost *cost, const char *what, const char *option,
                         uint64_t memory_bytes, uint64_t fixed_bytes, struct err *e)
{
    uint64_t need = cost->memory_bytes + fixed_bytes;

    return need <= memory_bytes || err_memory(e, memory_bytes, need, "%s needs; %s leaves it out", what, option);
}

bool proofs_check_memory(const struct proof *proofs, size_t count, uint64_t memory_bytes, uint64_t fixed_bytes,
                         struct err *e)
{
    for (size_t o = 0; o < count && memory_bytes > 0; o++) {
        const struct proof *p = &proofs[o];
        if (!p->why_not &&
            !check_memory(&p->cost, "the fingerprint's forward pass", "--no-fingerprint", memory_bytes, fixed_bytes, e))
            return false;
        if (p->renumbering && !p->why_unproved &&
            !check_memory(&p->renumbering_cost, "the proof of the renumbering", "--no-proof", memory_bytes, fixed_bytes,
                          e))
            return false;
    }
    return true;
}

/* ---- after ---- */

/* From what an interrupted run had written: first where it was about to leave, then where it went. */
static bool take_published(struct stage *stage, struct arena *a, struct manifest *m, struct err *e)
{
    const char *path = stage_path(stage, MANIFEST_NAME);
    struct manifest old;

    if (!path_exists(path))
        path = path_join(a, stage->dst, MANIFEST_NAME);
    if (!manifest_load(&old, a, path, e))
        return false;
    m->fingerprint = old.fingerprint;
    m->no_fingerprint = old.no_fingerprint;
    return true;
}

static bool prove_renumbering(struct proof *proof, const struct plan *p, const struct source *made,
                              const struct fingerprint_options *o, struct err *e)
{
    if (!proof->renumbering || proof->why_unproved)
        return true;
    return renumbering_prove(&proof->proved, p->source, made, proof->renumbering, o, e) ||
           err_in(e, "the renumbered model is not proved, and not published (--no-proof does not try)");
}

bool proof_make(struct proof *proof, const struct plan *p, struct stage *stage, const struct fingerprint_options *o,
                struct arena *a, struct manifest *m, struct err *e)
{
    struct source made = {0};

    if (stage->publishing)
        return take_published(stage, a, m, e);
    m->no_fingerprint = proof->why_not;
    if (proof->why_not)
        return true;
    if (!source_open(&made, stage->dir, true, e))
        return false;
    bool ok = fingerprint_make(&m->fingerprint, a, &made, o, e) ||
              err_in(e, "the bundle does not run, and is not published (--no-fingerprint does not try)");
    ok = ok && prove_renumbering(proof, p, &made, o, e);
    source_close(&made);
    return ok;
}
