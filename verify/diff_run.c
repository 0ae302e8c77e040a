#include "verify/diff_run.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/log.h"
#include "formats/base/units.h"
#include "verify/diff_walk.h"
#include "verify/forward_options.h"
#include "verify/model_match.h"
#include "verify/weights_diff.h"

#define JUNIT_BYTES_MAX (16u << 20)

/* ---- weights that must not change ---- */

static bool compare_weights(struct diff_report *r, struct diff_candidate *c, const struct source *ref,
                            const struct source *cand, unsigned threads, struct err *e)
{
    struct weights_diff d = {0};
    struct weights_diff_job job = {.threads = threads, .quiet = true, .exact_only = true};

    if (!weights_diff_run(&d, ref, cand, &job, e))
        return false;
    c->weights_known = true;
    c->weights_unexpected = d.unexpected_count;
    c->unexpected = arena_array(&r->arena, DIFF_UNEXPECTED_MAX, sizeof *c->unexpected);
    for (size_t i = 0; i < d.count; i++) {
        const struct weight_diff *w = &d.items[i];
        c->weights_compared += w->compared || w->unexpected;
        if (w->unexpected && c->unexpected_count < DIFF_UNEXPECTED_MAX)
            c->unexpected[c->unexpected_count++] = arena_printf(&r->arena, "%s: %s", w->name, w->unexpected);
    }
    weights_diff_release(&d);
    return true;
}

static bool compare_all_weights(struct diff_report *r, const struct diff_inputs *in, unsigned threads, struct err *e)
{
    for (size_t i = 0; in->ref && i < r->candidate_count; i++)
        if (!compare_weights(r, &r->candidates[i], in->ref, in->candidates[i], threads, e))
            return false;
    return true;
}

/* ---- golden files ---- */

static const char *config_sha256(struct arena *a, const struct source *s)
{
    char sha256[HASH_HEX_BYTES];

    hash_hex(s->checkpoint.config, s->checkpoint.config_bytes, sha256);
    return arena_strdup(a, sha256);
}

/* Room for what the walk records, and what is known before it. */
static void record_start(struct golden *g, const struct diff_inputs *in, const struct diff_report *r)
{
    const struct arch *arch = &in->ref->arch;
    struct arena *a = &g->arena;
    struct buf sizes = {0}, settings = {0};
    char *kinds = arena_alloc(a, arch->layers + 1);

    model_describe(arch, &sizes, &settings);
    for (uint64_t l = 0; l < arch->layers; l++)
        kinds[l] = arch_is_moe_layer(arch, l) ? 'm' : 'd';
    g->model = r->model;
    g->text = r->text;
    g->sizes = arena_strdup(a, sizes.data);
    g->settings = arena_strdup(a, settings.data);
    g->kinds = kinds;
    g->emulate = r->emulate;
    g->config_sha256 = config_sha256(a, in->ref);
    g->tokenizer_sha256 = in->tokenizer_sha256;
    g->vocab = in->vocab;
    g->layers = arch->layers;
    g->tokens = in->batch.tokens;
    g->contexts = in->batch.sequence_count;
    g->mtp_acceptance = NAN;
    g->starts = arena_array(a, g->contexts + 1, sizeof *g->starts);
    for (size_t s = 0; s < g->contexts; s++)
        g->starts[s + 1] = in->batch.sequences[s].first + in->batch.sequences[s].tokens;
    g->ids = arena_array(a, g->tokens, sizeof *g->ids);
    memcpy(g->ids, in->batch.ids, g->tokens * sizeof *g->ids);
    g->rows = arena_array(a, g->tokens, sizeof *g->rows);
    g->nll = arena_array(a, g->tokens, sizeof *g->nll);
    g->projections = arena_array(a, g->layers * g->contexts * GOLDEN_PROJECTIONS, sizeof *g->projections);
    buf_release(&sizes);
    buf_release(&settings);
}

static bool record_finish(struct golden *g, const struct diff_report *r, const char *path, struct err *e)
{
    g->bf16 = r->bf16;
    g->mtp_acceptance = r->ref_mtp_acceptance;
    if (!golden_write(g, path, e))
        return false;
    log_note("golden file '%s': %zu position%s in %zu context%s", path, g->tokens, plural(g->tokens), g->contexts,
             plural(g->contexts));
    return true;
}

/* ---- reports ---- */

static bool write_report(const struct diff_report *r, void (*print)(const struct diff_report *, struct buf *),
                         const char *path, struct err *e)
{
    struct buf out = {0};

    if (!path)
        return true;
    print(r, &out);
    bool ok = true;
    if (*path)
        ok = file_write_whole(path, out.data, out.bytes, e);
    else
        fwrite(out.data, 1, out.bytes, stdout); /* main looks whether it got there */
    buf_release(&out);
    return ok;
}

static bool write_reports(const struct diff_report *r, const struct diff_options *o, struct err *e)
{
    bool json_is_stdout = o->json && !*o->json;

    return write_report(r, diff_print_text, json_is_stdout ? NULL : "", e) &&
           write_report(r, diff_print_json, o->json, e) && write_report(r, diff_print_junit, o->junit, e) &&
           write_report(r, diff_print_markdown, o->markdown, e) && write_report(r, diff_print_html, o->html, e);
}

/* A build server takes the report that it finds: after an error that must not be the one of the last run. What stands
 * there and is no report of ours is left alone, for the checkpoints may not be open that it could belong to. */
static void write_error_report(const struct diff_report *r, const char *path, const struct err *e)
{
    struct buf out = {0};
    struct err ignored = {0};
    char *old = NULL;
    size_t bytes = 0;

    if (!path || e->code == ERR_USAGE || e->code == ERR_CANCELLED)
        return;
    bool ours = file_slurp(path, JUNIT_BYTES_MAX, &old, &bytes, &ignored) &&
                strncmp(old, DIFF_JUNIT_HEAD, strlen(DIFF_JUNIT_HEAD)) == 0;
    mem_free(old);
    if (!ours && path_exists(path))
        return;
    diff_print_junit_error(r, e->text, &out);
    (void)!file_write_whole(path, out.data, out.bytes, &ignored); /* the first error is the one to tell */
    buf_release(&out);
}

/* ---- the run ---- */

static bool check_emulation(const struct diff_inputs *in, const struct diff_report *r, struct err *e)
{
    return !in->has_golden || strcmp(in->golden.emulate, r->emulate) == 0 ||
           err_set(e, ERR_USAGE,
                   "the golden file was made with emulation '%s', and this would be '%s' (--emulate, --mla-norm-eps)",
                   in->golden.emulate, r->emulate);
}

static bool check_outputs(const struct diff_inputs *in, const struct diff_options *o, struct err *e)
{
    if (in->ref && !output_files_spare(&o->outputs, &in->ref->checkpoint, e))
        return false;
    for (size_t i = 0; i < o->paths.candidate_count; i++)
        if (!output_files_spare(&o->outputs, &in->candidates[i]->checkpoint, e))
            return false;
    return true;
}

/* Thresholds that cannot be judged are said before hours of work, not after. */
static bool check_floors(const struct diff_inputs *in, const struct diff_options *o, struct err *e)
{
    bool known = in->has_golden ? in->golden.bf16.known : o->floor_tokens > 0 && o->forward.emulate == EMULATE_NONE;

    for (int m = 0; m < METRIC_COUNT; m++) {
        const struct diff_threshold *t = &o->thresholds[m];
        if (t->asked && t->floors && !known)
            return err_set(e, ERR_USAGE, "'%s %s' counts noise floors, and %s", diff_threshold_options[m], t->asked,
                           in->has_golden ? "the golden file was made without" : "none is measured");
        if (t->asked && m == METRIC_ROUTING && in->has_golden)
            return err_set(e, ERR_USAGE, "a golden file does not know the reference's routing (%s)",
                           diff_threshold_options[m]);
    }
    return true;
}

static bool compare(struct diff_report *r, struct diff_inputs *in, const struct diff_options *o, struct err *e)
{
    struct routing_stats trace = {0};
    struct golden record = {0};
    struct diff_job job = {.ref = in->ref,
                           .golden = in->has_golden ? &in->golden : NULL,
                           .candidate_count = r->candidate_count,
                           .batch = &in->batch,
                           .vocab = in->vocab,
                           .forward = o->forward,
                           .floor_tokens = o->floor_tokens,
                           .record = o->save_golden ? &record : NULL,
                           .trace = o->trace ? &trace : NULL,
                           .quiet = o->quiet};
    bool ok = false;

    for (size_t i = 0; i < r->candidate_count; i++) {
        job.candidates[i] = in->candidates[i];
        job.numbers[i] = in->ref ? &in->numbers[i] : NULL;
    }
    if (o->save_golden)
        record_start(&record, in, r);
    if (o->trace && !routing_stats_open(&trace, in->candidates[0], true, e))
        goto done;
    for (size_t s = 0; o->trace && s < in->batch.sequence_count; s++)
        routing_stats_add_sequence(&trace, in->batch.sequences[s].tokens);
    ok = diff_walk(r, &job, e) && compare_all_weights(r, in, o->forward.threads, e) &&
         diff_checks_run(r, o->thresholds, e) && (!o->trace || routing_stats_write(&trace, o->trace, e)) &&
         (!o->save_golden || record_finish(&record, r, o->save_golden, e));
done:
    golden_release(&record);
    routing_stats_release(&trace);
    return ok;
}

/* Always true. */
static bool note_caveats(struct diff_report *r, const struct diff_inputs *in)
{
    const char *caveat = in->ref ? forward_caveat(&r->arena, in->ref) : NULL;

    for (size_t i = 0; !caveat && i < r->candidate_count; i++)
        caveat = forward_caveat(&r->arena, in->candidates[i]);
    if (caveat)
        diff_report_note(r, "%s", caveat);
    return true;
}

int diff_run(const struct diff_options *o, struct err *e)
{
    struct diff_inputs in = {0};
    struct diff_report r = {.version = QUERN_VERSION,
                            .golden = o->paths.golden != NULL,
                            .ref = o->paths.golden ? o->paths.golden : o->paths.ref,
                            .candidate_count = o->paths.candidate_count,
                            .agree = true};

    r.emulate = forward_numbers(&r.arena, &o->forward);
    for (size_t i = 0; i < r.candidate_count; i++)
        r.candidates[i].path = o->paths.candidates[i];
    bool ok = diff_inputs_open(&in, &o->paths, &o->texts, &r, e) && note_caveats(&r, &in) &&
              check_emulation(&in, &r, e) && check_floors(&in, o, e) && check_outputs(&in, o, e) &&
              compare(&r, &in, o, e);
    /* With a golden file alone to write there is nothing to compare, and nothing to report. */
    ok = ok && (r.candidate_count == 0 || write_reports(&r, o, e));
    if (!ok)
        write_error_report(&r, o->junit, e);
    int status = !r.agree;
    diff_report_release(&r);
    diff_inputs_close(&in);
    return ok ? status : 0;
}
