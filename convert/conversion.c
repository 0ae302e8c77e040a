#include "convert/conversion.h"

#include <stdio.h>
#include <string.h>

#include "convert/bundle.h"
#include "convert/calibration_rates.h"
#include "convert/conversion_notes.h"
#include "convert/conversion_results.h"
#include "convert/finished.h"
#include "convert/journal.h"
#include "convert/measured.h"
#include "convert/pipeline.h"
#include "convert/plan.h"
#include "convert/plan_print.h"
#include "convert/proof.h"
#include "convert/run.h"
#include "convert/space.h"
#include "convert/stage.h"
#include "convert/targets.h"
#include "formats/base/file.h"
#include "formats/base/log.h"
#include "formats/base/progress.h"
#include "formats/base/units.h"

/* config.json is made before the first weight is read: what cannot be said there fails now. */
static bool check_configs(const struct plan *p, struct err *e)
{
    for (size_t o = 0; o < p->output_count; o++) {
        struct buf config = {0};
        bool ok = bundle_config(p, &p->outputs[o], &config, e);
        buf_release(&config);
        if (!ok)
            return err_in(e, "recipe '%s'", p->outputs[o].recipe->name);
    }
    return true;
}

/* ---- the run ---- */

struct work {
    struct stage *stages; /* one per output */
    struct run_result *results;
    struct journal journal;
    struct proof *proofs; /* one per output */
    uint64_t fixed_bytes; /* of tables, which stay while the proof is made */
    bool found;           /* an earlier run's journal */
    bool opened;          /* and it, or a new one, is ours */
    bool converted;       /* every weight is made: what is wrong from here on costs none of it */
};

/* A stage holds shards, whole and partial, and what is made anew from them at the end of each run. */
struct stage_owner {
    const struct plan_output *output;
    bool goes_on;
    bool publishing;
};

static bool belongs(void *ctx, const char *name)
{
    const struct stage_owner *owner = ctx;
    const struct plan_output *o = owner->output;

    if (strcmp(name, JOURNAL_NAME) == 0 || strcmp(name, STAGE_PUBLISHING) == 0)
        return true;
    if (strcmp(name, MANIFEST_NAME) == 0) /* whose fingerprint cannot be made again once shards have moved */
        return owner->publishing;
    if (strncmp(name, PIPELINE_STREAM_PREFIX, strlen(PIPELINE_STREAM_PREFIX)) == 0)
        return owner->goes_on && plan_is_calibrated(o);
    for (size_t i = 0; i < o->shard_count && owner->goes_on; i++) {
        size_t bytes = strlen(o->shards[i].name);
        if (strncmp(name, o->shards[i].name, bytes) == 0 &&
            (name[bytes] == '\0' || strcmp(name + bytes, FILE_PARTIAL_SUFFIX) == 0))
            return true;
    }
    return false;
}

/* The first output's stage holds the journal. One that began to move up has it until the end, and another output's
 * stage has one when it was begun as a first. */
static bool check_found(struct work *w, size_t output, struct err *e)
{
    struct stage *s = &w->stages[output];
    bool found = path_exists(stage_path(s, JOURNAL_NAME));

    w->found |= found || s->publishing;
    if (output == 0 ? found || !s->publishing : !found)
        return true;
    return err_set(e, ERR_USAGE, "destination '%s' holds an unfinished run of something else; --restart discards it",
                   s->dst);
}

/* With --delete-source the stages are the only copy of what these shards held. */
static bool source_removed(const struct plan *p)
{
    for (size_t i = 0; i < p->source->checkpoint.shard_count; i++)
        if (p->source->checkpoint.shards[i].removed)
            return true;
    return false;
}

static bool open_stages(const struct conversion *c, struct plan *p, struct work *w, struct err *e)
{
    if (c->restart && source_removed(p))
        return err_set(e, ERR_USAGE,
                       "shards of '%s' are removed, what they held is in the unfinished run alone: no --restart",
                       p->source->checkpoint.path);
    for (size_t o = 0; o < p->output_count; o++) {
        bool any = c->force || (o > 0 && w->stages[0].publishing);
        if (!stage_open(&w->stages[o], p->outputs[o].dir, p->source->checkpoint.dir, any, c->restart, e) ||
            !check_found(w, o, e))
            return false;
    }
    if (!journal_open(&w->journal, stage_path(&w->stages[0], JOURNAL_NAME), p, w->results, e))
        return err_in(e, "destination '%s'", p->outputs[0].dir);
    w->opened = true;
    for (size_t o = 0; o < p->output_count; o++) {
        struct stage_owner owner = {
            .output = &p->outputs[o], .goes_on = w->journal.jobs_done > 0, .publishing = w->stages[o].publishing};
        if (!stage_prune(&w->stages[o], belongs, &owner, e))
            return false;
    }
    return true;
}

/* The first output's stage holds the journal, and goes last: once its files have begun to move, those of the others
 * are in place. */
static bool publish(struct plan *p, struct work *w, const struct bundle_options *bundle, struct err *e)
{
    size_t left = w->stages[0].publishing ? 1 : p->output_count;

    for (size_t o = 0; o < left; o++)
        if (!bundle_write(p, o, &w->results[o], bundle, &w->stages[o], e))
            return false;
    for (size_t o = left; o > 0; o--)
        if (!stage_publish(&w->stages[o - 1], e))
            return false;
    for (size_t o = p->output_count; o > 0; o--)
        if (!stage_finish(&w->stages[o - 1], e))
            return false;
    return true;
}

static bool calibrate(const struct conversion *c, struct plan *p, struct work *w, struct progress *progress,
                      struct err *e)
{
    size_t o = plan_calibrated_output(p);

    if (o == p->output_count)
        return true;
    struct pipeline_options options = calibration_pipeline(c->calibration, (unsigned)c->threads, c->memory_bytes);
    return pipeline_run(p, o, &options, &w->stages[o], &w->journal, &w->results[o], progress, e);
}

static uint64_t calibrated_bytes_of(const struct plan *p)
{
    size_t o = plan_calibrated_output(p);

    return o < p->output_count ? pipeline_write_bytes(&p->outputs[o], p->weight_count) : 0;
}

static bool run_and_publish(const struct conversion *c, struct plan *p, struct work *w, struct err *e)
{
    struct run_options options = {
        .threads = (unsigned)c->threads,
        .memory_bytes = c->memory_bytes,
        .hash_source = c->hash_source,
        .delete_source = c->delete_source,
    };
    struct bundle_options bundle = {
        .base_model = c->base_model,
        .proofs = w->proofs,
        .fingerprint = {.threads = (unsigned)c->threads,
                        .memory_bytes = c->memory_bytes > 0 ? c->memory_bytes - w->fixed_bytes : 0,
                        .quiet = c->quiet},
    };
    uint64_t bytes = p->most_bytes + p->read_bytes + p->write_bytes + calibrated_bytes_of(p);
    struct progress *progress = progress_new(c->doing ? c->doing : "converting", bytes, c->quiet);

    for (size_t o = 1; o < p->output_count; o++)
        w->stages[o].publishing |= w->stages[0].publishing;
    bool ok = run_plan(p, &options, w->stages, &w->journal, w->results, progress, e) && calibrate(c, p, w, progress, e);
    progress_end(progress, ok);
    w->converted = ok;
    return ok && publish(p, w, &bundle, e) && finished_end(p, c->delete_source, e);
}

/* Worth going on with: something is done, and it was the system or the user that stopped us, not the input. An earlier
 * run that we could not even look at is not ours to remove. */
static bool worth_keeping(const struct plan *p, const struct work *w, const struct err *e)
{
    if (!w->opened)
        return w->found;
    bool not_the_input = (e->code != ERR_FORMAT && e->code != ERR_UNSUPPORTED) || source_removed(p);
    return w->stages[0].publishing || w->converted || (w->journal.jobs_durable > 0 && not_the_input);
}

static bool convert(const struct conversion *c, struct plan *p, struct proof *proofs, uint64_t fixed_bytes,
                    struct err *e)
{
    struct work w = {
        .stages = arena_array(&p->arena, p->output_count, sizeof *w.stages),
        .results = run_results_new(p),
        .proofs = proofs,
        .fixed_bytes = fixed_bytes,
    };
    bool ok = open_stages(c, p, &w, e) && run_and_publish(c, p, &w, e);
    bool keep = !ok && worth_keeping(p, &w, e);

    if (ok)
        conversion_print_results(c, p, w.results, proofs);
    else if (keep && w.opened)
        log_note("%zu of %zu jobs %s safe; the same command goes on from there", w.journal.jobs_durable, p->job_count,
                 is_are(w.journal.jobs_durable));
    journal_close(&w.journal);
    for (size_t o = 0; o < p->output_count; o++)
        stage_release(&w.stages[o], keep);
    return ok;
}

static void estimate_calibration(const struct conversion *c, struct plan *p, size_t o, struct calibration_estimate *m)
{
    struct pipeline_options options = calibration_pipeline(c->calibration, (unsigned)c->threads, c->memory_bytes);

    m->batch = options.batch;
    m->threads = pipeline_threads(p, o, &options);
    m->memory_bytes = p->calibration_bytes;
    m->read_bytes = pipeline_read_bytes(p);
    calibration_work_plan(&m->work, p, o, m->batch);
    calibration_rates_measure(&m->rates, &p->source->arch);
    m->core_seconds = calibration_core_seconds(&m->work, &m->rates);
    m->seconds = calibration_wall_seconds(&m->work, &m->rates, m->threads);
}

static bool dry_run(const struct conversion *c, struct plan *p, const struct proof *proofs, const struct run_size *size,
                    struct err *e)
{
    struct estimate estimate = {0};
    struct calibration_estimate calibration = {0};
    size_t calibrated = plan_calibrated_output(p);

    if (!estimate_plan(&estimate, p, size->threads, e))
        return false;
    if (calibrated < p->output_count) {
        estimate_calibration(c, p, calibrated, &calibration);
        estimate_add_calibration(&estimate, &calibration);
    }
    for (size_t o = 0; o < p->output_count; o++)
        estimate_add_read(&estimate, proofs[o].cost.read_bytes + proofs[o].renumbering_cost.read_bytes);
    for (size_t o = 0; o < p->output_count; o++) {
        if (c->json)
            plan_print_json(p, o, NULL, &proofs[o], size, &estimate, space_peak(p, o, c->delete_source));
        else
            plan_print(p, o, &proofs[o], size, &estimate, space_peak(p, o, c->delete_source), c->verbose);
    }
    return space_check(p, c->delete_source, e);
}

/* In words, since what it does cannot be undone; from a script: echo delete | quern ... */
static bool confirm_delete(const struct plan *p, struct err *e)
{
    const struct checkpoint *c = &p->source->checkpoint;
    char line[64] = "";
    char bytes[BYTES_TEXT];

    if (!checkpoint_check_removable(c, e))
        return false;
    fprintf(
        stderr,
        "quern: --delete-source removes the %zu shard%s of '%s' (%s), each as soon as everything made from it is on "
        "disk.\nThis cannot be undone. Type 'delete' to go on: ",
        c->shard_count, plural(c->shard_count), c->path, bytes_text((double)c->tensor_bytes, bytes));
    signal_interrupts_reads(true);
    if (!fgets(line, sizeof line, stdin))
        line[0] = '\0';
    signal_interrupts_reads(false);
    if (signal_cancelled())
        return err_set(e, ERR_CANCELLED, "interrupted");
    line[strcspn(line, "\n")] = '\0';
    return strcmp(line, "delete") == 0 || err_set(e, ERR_USAGE, "--delete-source was not confirmed; nothing was done");
}

static bool end_finished(const struct conversion *c, struct plan *p, const struct run_result *results, struct err *e)
{
    log_note("'%s' is whole: the run before this one had ended but for its last steps", p->outputs[0].dir);
    if (!finished_end(p, c->delete_source, e))
        return false;
    conversion_print_results(c, p, results, NULL);
    return true;
}

/* What the calibrated run needs, and whether it is given: said before the first weight is read. */
static bool check_calibration_memory(const struct conversion *c, struct plan *p, struct err *e)
{
    size_t o = plan_calibrated_output(p);

    if (o == p->output_count || !c->calibration)
        return true;
    struct pipeline_options options = calibration_pipeline(c->calibration, (unsigned)c->threads, c->memory_bytes);
    if (!pipeline_least_bytes(p, o, &options, &p->calibration_bytes, e))
        return false;
    return c->memory_bytes == 0 || p->calibration_bytes <= c->memory_bytes ||
           err_memory(e, c->memory_bytes, p->calibration_bytes, "calibration needs");
}

bool conversion_go(const struct conversion *c, struct plan *p, struct err *e)
{
    struct run_options run = {.threads = (unsigned)c->threads, .memory_bytes = c->memory_bytes};
    struct run_size size = {0};

    if (!check_configs(p, e) || !bundle_check_side_files(p, e) || !run_size(p, &run, &size, e))
        return false;
    const struct proof_wishes wishes = {.no_fingerprint = c->no_fingerprint, .no_proof = c->no_proof};
    struct proof *proofs = proofs_plan(p, (unsigned)c->threads, &wishes);
    if (!proofs_check_memory(proofs, p->output_count, c->memory_bytes, size.fixed_bytes, e))
        return false;
    if (!check_calibration_memory(c, p, e))
        return false;
    conversion_note_plan(p);
    conversion_note_proofs(p, proofs, &wishes);
    if (c->dry_run)
        return dry_run(c, p, proofs, &size, e);
    if (finished_is_here(p->outputs[0].dir) && !c->restart) {
        struct run_result *results = run_results_new(p);
        if (finished_is_same(p, results))
            return end_finished(c, p, results, e);
        if (!c->force) /* what another run left is content as any other */
            return err_set(e, ERR_USAGE, "destination '%s' is not empty; --force replaces what is there",
                           p->outputs[0].dir);
    }
    return space_check(p, c->delete_source, e) && (!c->delete_source || confirm_delete(p, e)) &&
           convert(c, p, proofs, size.fixed_bytes, e);
}

/* Calibrated recipes want a text; and the source until the end, for its weights run the model. */
static bool feed_calibration(const struct conversion *c, struct plan *p, struct err *e)
{
    size_t o = plan_calibrated_output(p);

    if (p->statistics)
        return calibration_by_statistics(c->calibration, p, e);
    if (o == p->output_count)
        return true;
    if (!c->calibration)
        return err_set(e, ERR_USAGE, "recipe '%s' is calibrated: quern quantize runs the model over a text for it",
                       p->outputs[o].recipe->name);
    if (c->delete_source)
        return err_set(e, ERR_USAGE, "--delete-source with the calibrated recipe '%s': the source is read to the end",
                       p->outputs[o].recipe->name);
    return calibration_open(c->calibration, p, e);
}

static bool plan_and_go(const struct conversion *c, const struct plan_options *options, struct source *source,
                        const struct width_report *widths, struct err *e)
{
    struct plan p = {0};

    if (!plan_open(&p, source, options, e))
        return err_in(e, "source '%s'", source->checkpoint.path);
    if (widths->text.data) {
        p.report = widths->text.data;
        p.report_json = widths->json.data;
        p.report_name = "widths";
    }
    bool ok = feed_calibration(c, &p, e) && conversion_go(c, &p, e);
    if (c->calibration)
        calibration_close(c->calibration);
    plan_close(&p);
    return ok;
}

/* Puts the widened recipe in the first target's place. */
static bool choose_widths(const struct conversion *c, struct plan_target *target, const struct source *s,
                          struct recipe *widened, struct width_report *report, struct err *e)
{
    if (!c->widths)
        return true;
    if (!width_recipe_make(widened, report, target->recipe, s, c->widths, e))
        return false;
    if (report->above > 0)
        log_note("--target-bpw %g: above %.4f bits there is nothing to gain", c->widths->target_bpw, report->above);
    target->recipe = widened;
    return true;
}

/* ---- from the command line ---- */

/* It goes into the card's YAML as it is. The hub's names are made of these. */
static bool check_base_model(const char *id, struct err *e)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/";

    return !id || (*id && strspn(id, allowed) == strlen(id)) ||
           err_set(e, ERR_USAGE, "--base-model '%s' is not a model's name such as deepseek-ai/DeepSeek-V3", id);
}

/* One shard named as the source would give a bundle that looks like a whole model. */
bool conversion_check_whole(const struct checkpoint *c, struct err *e)
{
    uint64_t part = 0, parts = 0;

    if (c->indexed || !checkpoint_shard_part(c->shards[0].name, &part, &parts))
        return true;
    return err_set(e, ERR_FORMAT, "source '%s' is part %llu of %llu of a checkpoint: name its folder", c->path,
                   (unsigned long long)part, (unsigned long long)parts);
}

int conversion_run(const struct conversion *c, const char *src, const char *dst, const struct recipe *recipe,
                   recipe_source *find, struct err *e)
{
    size_t count = 1 + c->also.count;
    struct plan_target *targets = mem_alloc(count * sizeof *targets);
    struct recipe *recipes = mem_alloc(count * sizeof *recipes);
    struct plan_options options = {
        .targets = targets,
        .target_count = count,
        .shard_bytes = c->shard_bytes,
        .keep_shards = c->keep_shards,
        .allow_unfused = c->allow_unfused,
        .keep_unknown = c->keep_unknown,
    };
    struct source source = {0};
    struct statistics statistics = {0};
    struct recipe widened = {0};
    struct width_report widths = {0};
    bool ok = false;

    log_set_level(c->quiet ? LOG_QUIET : c->verbose ? LOG_VERBOSE : LOG_NORMAL);
    targets[0] = (struct plan_target){.dir = dst, .recipe = recipe};
    for (size_t i = 1; i < count; i++)
        if (!target_parse(&targets[i], c->also.items[i - 1], find, &recipes[i], e))
            goto done;
    if (!check_base_model(c->base_model, e))
        goto done;
    targets_tidy(c, targets, count);
    if (!source_open(&source, src, true, e)) {
        ok = c->delete_source && !c->restart && finished_end_without_source(src, targets, count);
        if (ok)
            *e = (struct err){0};
        goto done;
    }
    if (!conversion_check_whole(&source.checkpoint, e) || !targets_check(c, targets, count, source.checkpoint.dir, e))
        goto done;
    if (c->statistics && !statistics_open(&statistics, c->statistics, &source, e))
        goto done;
    options.statistics = c->statistics ? &statistics : NULL;
    ok = choose_widths(c, &targets[0], &source, &widened, &widths, e) && plan_and_go(c, &options, &source, &widths, e);
done:
    statistics_close(&statistics);
    source_close(&source);
    width_report_release(&widths);
    recipe_release(&widened);
    for (size_t i = 0; i < count; i++)
        recipe_release(&recipes[i]);
    mem_free(recipes);
    mem_free(targets);
    return ok ? 0 : err_exit_status(e->code);
}
