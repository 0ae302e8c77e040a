#include <stdio.h>

#include "formats/base/log.h"
#include "verify/commands.h"
#include "verify/weights_diff.h"

static struct {
    bool weights, json, all, quiet;
    uint64_t threads;
} opts;

static const struct opt rows[] = {
    {.name = "weights", .kind = OPT_FLAG, .value = &opts.weights, .help = "compare the weights' values"},
    {.name = "all", .kind = OPT_FLAG, .value = &opts.all, .help = "list every unexpected weight, not the first 20"},
    {.name = "json", .kind = OPT_FLAG, .value = &opts.json, .help = "print JSON, with a row for every weight"},
    {.name = "threads",
     .letter = 't',
     .kind = OPT_U64,
     .value = &opts.threads,
     .arg = "N",
     .help = "worker threads (one per CPU); the report does not depend on it",
     .min = 1,
     .max = 1024},
    {.name = "quiet", .letter = 'q', .kind = OPT_FLAG, .value = &opts.quiet, .help = "no progress and no notes"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "diff",
    .operands = "REF CAND",
    .summary = "how the weights of two checkpoints differ; status 1 when storage does not explain it",
    .operand_min = 2,
    .operand_max = 2,
    .opts = rows,
};

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct source ref = {0}, cand = {0};
    struct weights_diff diff = {0};
    struct buf out = {0};
    struct weights_diff_job job = {.threads = (unsigned)opts.threads, .quiet = opts.quiet};
    struct weights_show show = {.ref = operands[0], .cand = operands[1], .all = opts.all};
    int status = 0;

    (void)operand_count;
    if (!opts.weights) {
        err_set(e, ERR_USAGE, "diff compares weights so far: give --weights");
        return 0;
    }
    if (opts.quiet)
        log_set_level(LOG_QUIET);
    if (!source_open(&ref, operands[0], true, e) || !source_open(&cand, operands[1], true, e))
        goto done;
    if (!weights_diff_run(&diff, &ref, &cand, &job, e))
        goto done;
    if (opts.json)
        weights_print_json(&diff, &show, &out);
    else
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

const struct command command_diff = {.spec = &spec, .run = run};
