#include <inttypes.h>
#include <stdio.h>

#include "convert/calibrate.h"
#include "convert/calibrate_report.h"
#include "convert/calibration.h"
#include "convert/commands.h"
#include "formats/base/log.h"
#include "formats/base/pool.h"
#include "formats/base/units.h"
#include "formats/imatrix.h"
#include "verify/output_files.h"

static struct {
    struct corpus_options text;
    const char *output, *imatrix;
    struct opt_list merge;
    uint64_t min_tokens, threads, memory_bytes, save_seconds;
    bool losses, json, dry_run, force, restart, quiet;
} opts = {.text = {.tokens = CALIBRATION_TOKENS, .context = CALIBRATION_CONTEXT},
          .min_tokens = CALIBRATION_MIN_TOKENS,
          .save_seconds = CALIBRATION_SAVE};

/* clang-format off */
static const struct opt rows[] = {
    CORPUS_OPTIONS(opts.text, CALIBRATION_TOKENS_TEXT, CALIBRATION_CONTEXT_TEXT),
    {"output", 'o', OPT_STRING, &opts.output, "STATS", "the file to write", 0, 0},
    {"losses", 0, OPT_FLAG, &opts.losses, NULL, "measure what int4 and FP8 would cost each matrix", 0, 0},
    {"merge", 0, OPT_LIST, &opts.merge, "FILE", "in place of a run: add these statistics up; repeatable", 0, 0},
    {"imatrix", 0, OPT_STRING, &opts.imatrix, "FILE", "write llama.cpp's imatrix too: FILE.gguf, or FILE.dat", 0, 0},
    {"min-tokens", 0, OPT_U64, &opts.min_tokens, "N", "call an expert with fewer tokens starved (32)", 0, 0},
    {"threads", 't', OPT_U64, &opts.threads, "N", "worker threads (one per CPU); the numbers do not depend on it",
     1, 1024},
    {"memory", 'm', OPT_SIZE, &opts.memory_bytes, "SIZE", "budget for weights, sums and hidden states (half of the machine's)",
     1, UINT64_MAX},
    {"save-every", 0, OPT_U64, &opts.save_seconds, "SECONDS",
     "make layers durable after so much work (30; 0: each)", 0, UINT32_MAX},
    {"restart", 0, OPT_FLAG, &opts.restart, NULL, "discard an unfinished run instead of going on with it", 0, 0},
    {"force", 'f', OPT_FLAG, &opts.force, NULL, "replace files that are there", 0, 0},
    {"dry-run", 'n', OPT_FLAG, &opts.dry_run, NULL, "print what would be run and written, and do neither", 0, 0},
    {"json", 0, OPT_FLAG, &opts.json, NULL, "print the coverage as JSON", 0, 0},
    {"quiet", 'q', OPT_FLAG, &opts.quiet, NULL, "no progress and no notes", 0, 0},
    {0},
};
/* clang-format on */

static const struct opt_command spec = {
    .name = "calibrate",
    .operands = "[SRC]",
    .summary = "collect what a text says about a model's linears: statistics to quantize and repack by",
    .operand_min = 0,
    .operand_max = 1,
    .opts = rows,
};

/* ---- options ---- */

static bool check_free(const char *path, struct err *e)
{
    if (!path || opts.force || opts.dry_run || !path_exists(path))
        return true;
    calibrate_remove_leftover(path);
    return err_set(e, ERR_USAGE, "'%s' is there already; --force replaces it", path);
}

static bool check_outputs(struct output_files *o, struct err *e)
{
    if (!check_free(opts.output, e) || !check_free(opts.imatrix, e))
        return false;
    output_files_add(o, "output", opts.output);
    output_files_add(o, "imatrix", opts.imatrix);
    return (opts.dry_run || output_files_check(o, e)) && output_files_spare_file(o, opts.text.text, e) &&
           output_files_spare_file(o, opts.text.ids, e);
}

static bool check_options(bool source, struct err *e)
{
    bool convert_only = opts.merge.count == 1 && opts.imatrix;

    if (source && opts.merge.count > 0)
        return err_set(e, ERR_USAGE,
                       "--merge adds files up and runs nothing: leave the checkpoint out, or merge what "
                       "its run writes");
    if (!source && opts.merge.count == 0)
        return err_set(e, ERR_USAGE, "calibrate wants a checkpoint to run, or --merge FILE");
    if (!opts.output && !convert_only && !(opts.dry_run && source))
        return err_set(e, ERR_USAGE, "calibrate wants --output STATS%s",
                       opts.merge.count > 0 ? ", or one --merge FILE and --imatrix" : "");
    return !opts.imatrix || imatrix_form(opts.imatrix, NULL, e);
}

/* ---- what it says ---- */

static void report(const struct calib_stats *s)
{
    struct buf text = {0};

    if (opts.json)
        calibrate_json(s, opts.min_tokens, &text);
    else
        calibrate_print(s, opts.min_tokens, &text);
    fputs(text.data, stdout);
    buf_release(&text);
}

static bool print_plan(const struct source *source, const struct calib_stats *s, const struct corpus *corpus,
                       struct err *e)
{
    unsigned threads = opts.threads > 0 ? (unsigned)opts.threads : pool_cpu_count();
    struct buf text = {0};
    uint64_t bytes = 0;

    if (!calib_stats_file_bytes(s, &bytes, e))
        return false;
    corpus_describe(corpus, &text);
    printf("runs       %s\n", text.data);
    printf("reads      %" PRIu64 " bytes of weights in %zu layer%s\n", calibrate_read_bytes(source), s->layer_count,
           plural(s->layer_count));
    printf("measures   %zu input%s%s\n", s->input_count, plural(s->input_count), s->has_losses ? ", and losses" : "");
    printf("memory     %" PRIu64 " bytes with %u expert%s at a time, beside the forward pass's\n",
           calibrate_memory_bytes(source, s, s->has_losses, threads), threads, plural(threads));
    printf("writes     %" PRIu64 " bytes to '%s'\n", bytes, opts.output ? opts.output : "STATS");
    buf_release(&text);
    return true;
}

/* ---- a run ---- */

static bool write_imatrix(struct err *e)
{
    struct calib_stats s = {0};
    bool ok = !opts.imatrix || (calib_stats_open(&s, opts.output ? opts.output : opts.merge.items[0], e) &&
                                imatrix_write(&s, opts.imatrix, e));

    calib_stats_release(&s);
    return ok;
}

static bool run_text(const struct source *source, struct calib_stats *s, const struct corpus *corpus, struct err *e)
{
    struct calibrate_options o = {.threads = (unsigned)opts.threads,
                                  .memory_bytes = opts.memory_bytes,
                                  .save_seconds = opts.save_seconds,
                                  .losses = opts.losses,
                                  .restart = opts.restart,
                                  .batch = &corpus->batch};
    struct progress *progress = progress_new("calibrating", calibrate_read_bytes(source), opts.quiet);
    bool ok = calibrate_run(s, source, &o, opts.output, progress, e);

    progress_end(progress, ok);
    if (ok)
        report(s);
    return ok;
}

static bool run_source(const char *path, const struct output_files *outputs, struct err *e)
{
    struct source source = {0};
    struct tokenizer tokenizer = {0};
    struct corpus corpus = {0};
    struct calib_stats s = {0};
    bool ok = source_open(&source, path, true, e) && output_files_spare(outputs, &source.checkpoint, e) &&
              (opts.text.ids || tokenizer_open(&tokenizer, source.checkpoint.path, e)) &&
              corpus_open(&corpus, opts.text.ids ? NULL : &tokenizer, &source.arch, &opts.text, e) &&
              calib_stats_plan(&s, &source, opts.losses, e);

    if (ok && calibration_check_text(&corpus, opts.min_tokens, e)) {
        calibration_note_text(&corpus, opts.text.tokens);
        ok = opts.dry_run ? print_plan(&source, &s, &corpus, e) : run_text(&source, &s, &corpus, e) && write_imatrix(e);
    }
    calib_stats_release(&s);
    corpus_release(&corpus);
    tokenizer_release(&tokenizer);
    source_close(&source);
    return ok;
}

/* ---- a merge ---- */

static bool run_merge(struct err *e)
{
    struct calib_stats s = {0};
    bool lost = false;

    if (opts.output && !calib_stats_merge_files(opts.merge.items, opts.merge.count, opts.output, &lost, e))
        return false;
    if (lost)
        log_warn("only some of the files have losses: the result has none");
    bool ok = write_imatrix(e) && calib_stats_open(&s, opts.output ? opts.output : opts.merge.items[0], e);
    if (ok)
        report(&s);
    calib_stats_release(&s);
    return ok;
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct output_files outputs = {0};

    if (opts.quiet)
        log_set_level(LOG_QUIET);
    if (check_options(operand_count > 0, e) && check_outputs(&outputs, e))
        (void)!(operand_count > 0 ? run_source(operands[0], &outputs, e) : run_merge(e));
    return 0;
}

const struct command command_calibrate = {.spec = &spec, .run = run};
