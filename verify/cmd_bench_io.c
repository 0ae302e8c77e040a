#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/bench_io.h"
#include "verify/commands.h"

#define SECONDS_MAX 3600.0

static struct {
    const char *trace;
    struct opt_list methods, depths;
    double seconds;
    uint64_t seed;
    bool json;
} opts = {.seconds = 3};

static const struct opt rows[] = {
    {.name = "trace",
     .kind = OPT_STRING,
     .value = &opts.trace,
     .arg = "FILE",
     .help = "routing statistics with a trace of this checkpoint; needed"},
    {.name = "method",
     .kind = OPT_LIST,
     .value = &opts.methods,
     .arg = "NAME",
     .help = "pread, direct or mmap; repeatable (default: all)"},
    {.name = "depth",
     .kind = OPT_LIST,
     .value = &opts.depths,
     .arg = "N",
     .help = "reads in flight; repeatable (default: 1, 4, 16)"},
    {.name = "seconds",
     .kind = OPT_F64,
     .value = &opts.seconds,
     .arg = "S",
     .help = "read for so long with each method and depth (default 3)"},
    {.name = "seed", .kind = OPT_U64, .value = &opts.seed, .arg = "N", .help = "pick other tokens of the trace"},
    {.name = "json", .kind = OPT_FLAG, .value = &opts.json, .help = "print JSON, with exact numbers"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "bench-io",
    .operands = "CKPT",
    .summary = "what reading a token's experts costs on this disk, by a routing trace",
    .operand_min = 1,
    .operand_max = 1,
    .opts = rows,
};

static bool read_methods(struct bench_io_options *o, struct err *e)
{
    for (size_t i = 0; i < opts.methods.count; i++) {
        enum read_method m = 0;
        while (m < READ_METHOD_COUNT && strcmp(opts.methods.items[i], read_method_name(m)) != 0)
            m++;
        if (m == READ_METHOD_COUNT)
            return err_set(e, ERR_USAGE, "unknown method '%s'; known are pread, direct, mmap", opts.methods.items[i]);
        o->methods[m] = true;
    }
    for (enum read_method m = 0; m < READ_METHOD_COUNT && opts.methods.count == 0; m++)
        o->methods[m] = true;
    return true;
}

static bool read_depths(struct bench_io_options *o, struct err *e)
{
    static const unsigned usual[] = {1, 4, 16};

    if (opts.depths.count > BENCH_IO_DEPTHS_MAX)
        return err_set(e, ERR_USAGE, "%zu depths are more than %u", opts.depths.count, BENCH_IO_DEPTHS_MAX);
    for (size_t i = 0; i < opts.depths.count; i++) {
        char *end = NULL;
        unsigned long depth = strtoul(opts.depths.items[i], &end, 10);
        if (opts.depths.items[i][0] < '0' || opts.depths.items[i][0] > '9' || *end || depth < 1 ||
            depth > BENCH_IO_DEPTH_MAX)
            return err_set(e, ERR_USAGE, "--depth '%s' is not a number from 1 to %u", opts.depths.items[i],
                           BENCH_IO_DEPTH_MAX);
        o->depths[o->depth_count++] = (unsigned)depth;
    }
    if (o->depth_count == 0) {
        memcpy(o->depths, usual, sizeof usual);
        o->depth_count = sizeof usual / sizeof usual[0];
    }
    return true;
}

static bool read_options(struct bench_io_options *o, struct err *e)
{
    *o = (struct bench_io_options){.seconds = opts.seconds, .seed = opts.seed};
    if (!opts.trace)
        return err_set(e, ERR_USAGE, "bench-io wants --trace FILE");
    if (!(opts.seconds >= 0 && opts.seconds <= SECONDS_MAX))
        return err_set(e, ERR_USAGE, "--seconds %g is not from 0 to %g", opts.seconds, SECONDS_MAX);
    return read_methods(o, e) && read_depths(o, e);
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct bench_io_options options;
    struct routing_stats trace = {0};
    struct source source = {0};
    struct bench_io bench = {0};
    struct buf out = {0};

    (void)operand_count;
    if (!read_options(&options, e) || !source_open(&source, operands[0], false, e) ||
        !routing_stats_read(&trace, opts.trace, e))
        goto done;
    if (!bench_io_run(&bench, &source, &trace, &options, e)) {
        err_in(e, "'%s' for '%s'", opts.trace, operands[0]);
        goto done;
    }
    if (opts.json)
        bench_io_print_json(&bench, &out);
    else
        bench_io_print_text(&bench, &out);
    fwrite(out.data, 1, out.bytes, stdout); /* main looks whether it got there */
done:
    buf_release(&out);
    bench_io_release(&bench);
    routing_stats_release(&trace);
    source_close(&source);
    return 0;
}

const struct command command_bench_io = {.spec = &spec, .run = run};
