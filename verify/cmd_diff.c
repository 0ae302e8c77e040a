#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/log.h"
#include "verify/commands.h"
#include "verify/diff_run.h"
#include "verify/forward_options.h"
#include "verify/output_files.h"
#include "verify/weights_diff.h"

static struct {
    bool weights, all, quiet;
    const char *json, *junit, *markdown, *html, *golden, *save_golden, *paired, *trace;
    const char *thresholds[METRIC_COUNT];
    uint64_t floor_tokens;
    struct forward_choices forward;
    struct corpus_options texts;
} opts = {.floor_tokens = 512};

static const struct opt rows[] = {
    CORPUS_OPTIONS(opts.texts, "all", "512"),
    {.name = "max-kl",
     .kind = OPT_STRING,
     .value = &opts.thresholds[METRIC_KL],
     .arg = "X",
     .help = "fail when the mean KL is above X; 5floor: above five BF16 noise floors"},
    {.name = "min-top1",
     .kind = OPT_STRING,
     .value = &opts.thresholds[METRIC_TOP1],
     .arg = "X",
     .help = "fail when the top token agrees in fewer than this share of positions"},
    {.name = "max-ppl-ratio",
     .kind = OPT_STRING,
     .value = &opts.thresholds[METRIC_PPL_RATIO],
     .arg = "X",
     .help = "fail when the perplexity grows by more than this factor"},
    {.name = "min-routing",
     .kind = OPT_STRING,
     .value = &opts.thresholds[METRIC_ROUTING],
     .arg = "X",
     .help = "fail when fewer than this share of chosen experts agree"},
    {.name = "save-golden",
     .kind = OPT_STRING,
     .value = &opts.save_golden,
     .arg = "FILE",
     .help = "keep what REF says, for --golden; CAND may be left out"},
    {.name = "golden",
     .kind = OPT_STRING,
     .value = &opts.golden,
     .arg = "FILE",
     .help = "compare with what REF once said, without REF"},
    {.name = "paired",
     .kind = OPT_STRING,
     .value = &opts.paired,
     .arg = "CAND2",
     .help = "a second candidate, compared with the first token by token"},
    {.name = "json",
     .kind = OPT_MAYBE,
     .value = &opts.json,
     .arg = "FILE",
     .help = "JSON, in place of the text or to FILE"},
    {.name = "junit",
     .kind = OPT_STRING,
     .value = &opts.junit,
     .arg = "FILE",
     .help = "JUnit XML, a test case for each threshold"},
    {.name = "markdown",
     .kind = OPT_STRING,
     .value = &opts.markdown,
     .arg = "FILE",
     .help = "Markdown, for a comment on a pull request"},
    {.name = "html",
     .kind = OPT_STRING,
     .value = &opts.html,
     .arg = "FILE",
     .help = "one self-contained page with charts"},
    {.name = "trace",
     .kind = OPT_STRING,
     .value = &opts.trace,
     .arg = "FILE",
     .help = "CAND's routing, as repack reads it"},
    {.name = "floor-tokens",
     .kind = OPT_U64,
     .value = &opts.floor_tokens,
     .arg = "N",
     .help = "measure noise floors on the first N tokens (512); 0: do not",
     .max = UINT32_MAX},
    FORWARD_OPTIONS(opts.forward),
    {.name = "weights",
     .kind = OPT_FLAG,
     .value = &opts.weights,
     .help = "compare the weights' values, not the outputs"},
    {.name = "all",
     .kind = OPT_FLAG,
     .value = &opts.all,
     .help = "with --weights: list every unexpected weight, not the first 20"},
    {.name = "quiet", .letter = 'q', .kind = OPT_FLAG, .value = &opts.quiet, .help = "no progress and no notes"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "diff",
    .operands = "REF CAND",
    .summary = "how outputs or weights of two checkpoints differ; status 1 when more than asked for",
    .operand_min = 1,
    .operand_max = 2,
    .opts = rows,
};

/* ---- weights ---- */

/* Options of the other kind of comparison, which would be ignored in silence. */
static bool no_output_options(struct err *e)
{
    const struct {
        const char *name;
        bool given;
    } others[] = {
        {"golden", opts.golden},
        {"save-golden", opts.save_golden},
        {"paired", opts.paired},
        {"junit", opts.junit},
        {"markdown", opts.markdown},
        {"html", opts.html},
        {"trace", opts.trace},
        {"emulate", opts.forward.emulate},
        {"mla-norm-eps", opts.forward.mla_norm_eps != 0},
        {"text", opts.texts.text},
        {"ids", opts.texts.ids},
        {"tokens", opts.texts.tokens},
        {"context", opts.texts.context},
        {"seed", opts.texts.seed},
    };

    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i].given)
            return err_set(e, ERR_USAGE, "'--%s' is about outputs, and --weights compares none", others[i].name);
    for (int m = 0; m < METRIC_COUNT; m++)
        if (opts.thresholds[m])
            return err_set(e, ERR_USAGE, "'%s' is about outputs, and --weights compares none",
                           diff_threshold_options[m]);
    return true;
}

static int run_weights(const char *const *operands, struct err *e)
{
    struct source ref = {0}, cand = {0};
    struct weights_diff diff = {0};
    struct buf out = {0};
    struct weights_diff_job job = {.threads = (unsigned)opts.forward.threads, .quiet = opts.quiet};
    struct output_files outputs = {0};
    struct weights_show show = {.ref = operands[0], .cand = operands[1], .all = opts.all};
    int status = 0;

    output_files_add(&outputs, "json", opts.json);
    if (!output_files_check(&outputs, e))
        return 0;
    if (!source_open(&ref, operands[0], true, e) || !source_open(&cand, operands[1], true, e) ||
        !output_files_spare(&outputs, &ref.checkpoint, e) || !output_files_spare(&outputs, &cand.checkpoint, e))
        goto done;
    if (!weights_diff_run(&diff, &ref, &cand, &job, e))
        goto done;
    if (opts.json)
        weights_print_json(&diff, &show, &out);
    if (opts.json && *opts.json) {
        if (!file_write_whole(opts.json, out.data, out.bytes, e))
            goto done;
        out.bytes = 0;
    }
    if (!opts.json || *opts.json)
        weights_print_text(&diff, &show, &out);
    fwrite(out.data, 1, out.bytes, stdout); /* main looks whether it got there */
    status = diff.unexpected_count > 0;
done:
    buf_release(&out);
    weights_diff_release(&diff);
    source_close(&cand);
    source_close(&ref);
    return status;
}

/* ---- outputs ---- */

/* Which operands there are depends on where the reference comes from. */
static bool take_operands(struct diff_paths *p, const char *const *operands, size_t count, struct err *e)
{
    bool alone = opts.save_golden && count == 1 && !opts.paired;

    if (opts.golden && opts.save_golden)
        return err_set(e, ERR_USAGE, "a golden file is made from a checkpoint: not both --golden and --save-golden");
    if (opts.golden &&
        (opts.texts.text || opts.texts.ids || opts.texts.tokens || opts.texts.context || opts.texts.seed))
        return err_set(e, ERR_USAGE, "the golden file holds the tokens: no --text, --ids, --tokens, --context, --seed");
    if (opts.golden && count == 2)
        return err_set(e, ERR_USAGE, "with --golden there is one operand, CAND, not '%s' and '%s'", operands[0],
                       operands[1]);
    if (!opts.golden && count == 1 && !alone)
        return err_set(e, ERR_USAGE, "'quern diff REF CAND' wants 2 operands, not 1");
    p->golden = opts.golden;
    p->ref = opts.golden ? NULL : operands[0];
    if (!alone)
        p->candidates[p->candidate_count++] = operands[count - 1];
    if (opts.paired)
        p->candidates[p->candidate_count++] = opts.paired;
    if (alone && (opts.json || opts.junit || opts.markdown || opts.html || opts.trace))
        return err_set(e, ERR_USAGE, "without CAND there is nothing to report");
    return true;
}

/* Where reports go, before the work that they are about. */
static bool check_outputs(struct output_files *o, struct err *e)
{
    output_files_add(o, "save-golden", opts.save_golden);
    output_files_add(o, "json", opts.json);
    output_files_add(o, "junit", opts.junit);
    output_files_add(o, "markdown", opts.markdown);
    output_files_add(o, "html", opts.html);
    output_files_add(o, "trace", opts.trace);
    return output_files_check(o, e) && output_files_spare_file(o, opts.texts.text, e) &&
           output_files_spare_file(o, opts.texts.ids, e) && output_files_spare_file(o, opts.golden, e);
}

static int run_outputs(const char *const *operands, size_t operand_count, struct err *e)
{
    struct diff_options o = {
        .texts = opts.texts,
        .floor_tokens = opts.floor_tokens,
        .save_golden = opts.save_golden,
        .trace = opts.trace,
        .json = opts.json,
        .junit = opts.junit,
        .markdown = opts.markdown,
        .html = opts.html,
        .quiet = opts.quiet,
    };

    if (opts.all) {
        err_set(e, ERR_USAGE, "'--all' is about weights: give --weights");
        return 0;
    }
    if (!take_operands(&o.paths, operands, operand_count, e) || !check_outputs(&o.outputs, e) ||
        !forward_choose(&o.forward, &opts.forward, e) || !diff_thresholds_parse(o.thresholds, opts.thresholds, e))
        return 0;
    return diff_run(&o, e);
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    if (opts.quiet)
        log_set_level(LOG_QUIET);
    if (!opts.weights)
        return run_outputs(operands, operand_count, e);
    if (!no_output_options(e))
        return 0;
    if (operand_count != 2) {
        err_set(e, ERR_USAGE, "'quern diff REF CAND' wants 2 operands, not 1");
        return 0;
    }
    return run_weights(operands, e);
}

const struct command command_diff = {.spec = &spec, .run = run};
