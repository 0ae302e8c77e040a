#include <stdio.h>

#include "verify/commands.h"
#include "verify/inspect.h"

static struct {
    bool json, tensors, quiet;
} opts;

static const struct opt rows[] = {
    {.name = "json", .kind = OPT_FLAG, .value = &opts.json, .help = "print JSON, with exact numbers"},
    {.name = "tensors", .kind = OPT_FLAG, .value = &opts.tensors, .help = "list every tensor as well"},
    {.name = "quiet",
     .letter = 'q',
     .kind = OPT_FLAG,
     .value = &opts.quiet,
     .help = "print the health findings only, and nothing when there are none"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "inspect",
    .operands = "CKPT",
    .summary = "what is in a checkpoint: parameters, bytes by role, cost of a token, health",
    .operand_min = 1,
    .operand_max = 1,
    .opts = rows,
};

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct source source = {0};
    struct inspection in = {0};
    struct buf out = {0};
    struct inspect_show show = {.tensors = opts.tensors, .findings_only = opts.quiet};

    (void)operand_count;
    if (!source_open(&source, operands[0], false, e))
        goto done;
    inspect_run(&in, &source);
    if (opts.json)
        inspect_print_json(&in, &show, &out);
    else
        inspect_print_text(&in, &show, &out);
    if (out.bytes > 0)
        fwrite(out.data, 1, out.bytes, stdout); /* main looks whether it got there */
done:
    buf_release(&out);
    inspect_release(&in);
    source_close(&source);
    return 0;
}

const struct command command_inspect = {.spec = &spec, .run = run};
