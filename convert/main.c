#include <stdio.h>
#include <string.h>

#include "convert/commands.h"
#include "convert/completion.h"
#include "formats/base/log.h"
#include "formats/base/mem.h"
#include "formats/base/progress.h"
#include "quant/kernel.h"
#include "verify/commands.h"

static const struct command *const commands[] = {
    &command_inspect,
    &command_convert,
    &command_quantize,
    &command_calibrate,
    &command_repack,
    &command_diff,
    &command_logits,
    &command_verify,
    &command_run,
    &command_tokenize,
    &command_bench_io,
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i]->spec->name, name) == 0)
            return commands[i];
    return NULL;
}

static void print_usage(FILE *out)
{
    fprintf(out, "usage: quern COMMAND [OPTION ...] ...\n\n"
                 "Converts, quantizes and compares DeepSeek-V3-class checkpoints, streaming.\n\ncommands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i]->spec->name, commands[i]->spec->summary);
    fprintf(out, "\n`quern COMMAND --help` lists a command's options; `man quern` has the rest.\n");
}

/* Answers can be long and go to a pipe or a full disk: a lost answer is not success. */
static bool flush_answer(struct err *e)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return err_sys(e, "writing to standard output");
    return true;
}

static int finish(const struct err *e, int status)
{
    if (e->code == ERR_NONE)
        return status;
    log_error(e);
    signal_reraise();
    return err_exit_status(e->code);
}

static int run_command(const struct command *c, int argc, char **argv)
{
    struct err e = {0};
    const char **operands = mem_alloc((c->spec->operand_max + 1) * sizeof *operands);
    size_t operand_count = 0;
    bool help = false;
    int status = 0;

    if (!opt_parse(c->spec, argc, argv, operands, &operand_count, &help, &e))
        goto done;
    if (help) {
        opt_print_help(c->spec);
    } else {
        if (!kernel_pick(&e))
            goto done;
        signal_install();
        status = c->run(operands, operand_count, &e);
    }
    if (e.code == ERR_NONE && !flush_answer(&e))
        goto done;
done:
    mem_free(operands);
    if (e.code == ERR_USAGE)
        fprintf(stderr, "usage: quern %s [OPTION ...] %s\n", c->spec->name, c->spec->operands);
    return finish(&e, status);
}

/* For `make install` and packagers; the list of commands leaves it out. */
static int print_completion(const char *shell)
{
    struct err e = {0};

    if (!shell || strcmp(shell, "bash") != 0)
        err_set(&e, ERR_USAGE, "completion is for 'bash', not '%s'", shell ? shell : "");
    else
        completion_print_bash(commands, COMMAND_COUNT);
    if (e.code == ERR_NONE && flush_answer(&e))
        return 0;
    return finish(&e, 0);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("quern %s\n", QUERN_VERSION);
        return 0;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        const struct command *c = argc > 2 ? find_command(argv[2]) : NULL;
        if (c)
            opt_print_help(c->spec);
        else
            print_usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "completion") == 0)
        return print_completion(argc > 2 ? argv[2] : NULL);
    const struct command *c = find_command(argv[1]);
    if (!c) {
        fprintf(stderr, "quern: unknown command '%s'\n", argv[1]);
        print_usage(stderr);
        return 2;
    }
    return run_command(c, argc - 1, argv + 1);
}
