/* Writes routing statistics with a trace for a checkpoint, from a seed: planted
 * communities of experts, loads by Zipf's law, or neither. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/base/log.h"
#include "formats/base/opt.h"
#include "samples/generate/synthetic_trace.h"

static struct synthetic_trace trace = {.tokens = 1000, .communities = 1, .loyalty = 0.8, .groups = 1, .seed = 1};
static bool counts_only;

/* clang-format off */
static const struct opt options[] = {
    {"tokens",      0, OPT_U64,  &trace.tokens,      "N", "tokens in each layer (1000)", 1, 10000000},
    {"communities", 0, OPT_U64,  &trace.communities, "N", "of experts that fire together (1: none)", 1, 16384},
    {"loyalty",     0, OPT_F64,  &trace.loyalty,     "X", "share of choices inside a token's community (0.8)", 0, 0},
    {"zipf",        0, OPT_F64,  &trace.zipf,        "X", "exponent of the loads (0: even)", 0, 0},
    {"groups",      0, OPT_U64,  &trace.groups,      "N", "communities lie inside groups of experts (1: anywhere)", 1, 16384},
    {"seed",        0, OPT_U64,  &trace.seed,        "N", "another seed, other choices (1)", 0, 0},
    {"counts-only", 0, OPT_FLAG, &counts_only,       NULL, "leave the trace out", 0, 0},
    {0},
};
/* clang-format on */

static const struct opt_command spec = {.name = "routing_trace",
                                        .operands = "CKPT FILE",
                                        .summary = "write made-up routing statistics for a checkpoint",
                                        .operand_min = 2,
                                        .operand_max = 2,
                                        .opts = options};

static bool check(const struct arch *a, struct err *e)
{
    if (a->experts % trace.communities != 0 || a->experts % trace.groups != 0 ||
        (trace.communities > 1 && trace.communities % trace.groups != 0))
        return err_set(e, ERR_USAGE,
                       "%" PRIu64 " experts, %" PRIu64 " communities and %" PRIu64 " groups do not divide", a->experts,
                       trace.communities, trace.groups);
    return true;
}

static bool write_stats(const char *ckpt, const char *path, struct err *e)
{
    struct source source = {0};
    struct routing_stats s = {0};
    bool ok = source_open(&source, ckpt, true, e) && check(&source.arch, e) &&
              routing_stats_open(&s, &source, !counts_only, e);

    for (uint64_t layer = 0; ok && layer < arch_layers_stored(&source.arch); layer++)
        if (arch_is_moe_layer(&source.arch, layer))
            synthetic_trace_add(&s, layer, &trace);
    if (ok)
        routing_stats_add_sequence(&s, trace.tokens);
    ok = ok && routing_stats_write(&s, path, e);
    routing_stats_release(&s);
    source_close(&source);
    return ok;
}

int main(int argc, char **argv)
{
    const char *operands[3] = {0};
    struct err e = {0};
    size_t count = 0;
    bool help = false;

    if (!opt_parse(&spec, argc, argv, operands, &count, &help, &e) ||
        (!help && !write_stats(operands[0], operands[1], &e))) {
        log_error(&e);
        return err_exit_status(e.code);
    }
    if (help)
        opt_print_help(&spec);
    return 0;
}
