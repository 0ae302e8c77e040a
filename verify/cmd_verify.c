#include <stdio.h>

#include "formats/base/log.h"
#include "verify/commands.h"
#include "verify/verification.h"

static struct {
    const char *source;
    double sample;
    uint64_t seed, threads, memory;
    bool lint, deep, no_fingerprint, all, json, quiet;
} opts = {.sample = 1};

static const struct opt rows[] = {
    {.name = "lint",
     .kind = OPT_FLAG,
     .value = &opts.lint,
     .help = "headers and side files only: no hashes, no scales, no forward pass"},
    {.name = "deep",
     .kind = OPT_FLAG,
     .value = &opts.deep,
     .help = "decode every value, and hash the source where its hashes are recorded"},
    {.name = "source",
     .kind = OPT_STRING,
     .value = &opts.source,
     .arg = "SRC",
     .help = "make a sample of the weights again from the checkpoint SRC"},
    {.name = "sample",
     .kind = OPT_F64,
     .value = &opts.sample,
     .arg = "PERCENT",
     .help = "of the weights, for --source (default 1; at least 16 weights)"},
    {.name = "seed",
     .kind = OPT_U64,
     .value = &opts.seed,
     .arg = "N",
     .help = "which weights the sample takes (default 0)"},
    {.name = "no-fingerprint", .kind = OPT_FLAG, .value = &opts.no_fingerprint, .help = "do not run the forward pass"},
    {.name = "all", .kind = OPT_FLAG, .value = &opts.all, .help = "list every finding of a kind, not the first 5"},
    {.name = "json", .kind = OPT_FLAG, .value = &opts.json, .help = "print JSON, with every finding"},
    {.name = "threads",
     .letter = 't',
     .kind = OPT_U64,
     .value = &opts.threads,
     .arg = "N",
     .help = "worker threads (one per CPU); the report does not depend on it",
     .min = 1,
     .max = 1024},
    {.name = "memory",
     .letter = 'm',
     .kind = OPT_SIZE,
     .value = &opts.memory,
     .arg = "SIZE",
     .help = "budget of the forward pass (default: at most half of the machine's)",
     .min = 1,
     .max = UINT64_MAX},
    {.name = "quiet", .letter = 'q', .kind = OPT_FLAG, .value = &opts.quiet, .help = "no progress and no notes"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "verify",
    .operands = "BUNDLE",
    .summary = "is a bundle intact, complete, and what it says it is; status 1 when not",
    .operand_min = 1,
    .operand_max = 1,
    .opts = rows,
};

static bool check_options(struct err *e)
{
    if (!(opts.sample > 0 && opts.sample <= 100))
        return err_set(e, ERR_USAGE, "--sample %g is not above 0 and at most 100", opts.sample);
    if (!opts.source && (opts.sample != 1 || opts.seed != 0))
        return err_set(e, ERR_USAGE, "--sample and --seed are about --source: give it too");
    if (opts.lint && (opts.deep || opts.source))
        return err_set(e, ERR_USAGE, "--lint looks at no values: not together with --deep or --source");
    return true;
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct verify_options options = {
        .source = opts.source,
        .lint_only = opts.lint,
        .deep = opts.deep,
        .no_fingerprint = opts.no_fingerprint,
        .memory_bytes = opts.memory,
        .sample_percent = opts.sample,
        .seed = opts.seed,
        .threads = (unsigned)opts.threads,
        .quiet = opts.quiet,
    };
    struct verify_show show = {.all = opts.all};
    struct verification v = {0};
    struct buf out = {0};
    int status = 0;

    (void)operand_count;
    if (opts.quiet)
        log_set_level(LOG_QUIET);
    if (!check_options(e) || !verify_run(&v, operands[0], &options, e))
        return 0;
    if (opts.json)
        verify_print_json(&v, &out);
    else
        verify_print_text(&v, &show, &out);
    fwrite(out.data, 1, out.bytes, stdout); /* main looks whether it got there */
    status = findings_count(&v.findings, SEVERITY_ERROR) > 0;
    buf_release(&out);
    verify_release(&v);
    return status;
}

const struct command command_verify = {.spec = &spec, .run = run};
