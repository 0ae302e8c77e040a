#include "convert/commands.h"
#include "convert/repack.h"

static struct repack_options options = {
    .run = {.shard_bytes = CONVERSION_SHARD_BYTES, .doing = "repacking"},
    .align = REPACK_ALIGN_MIN,
    .window_bytes = REPACK_WINDOW_BYTES,
};

/* clang-format off */
static const struct opt opts[] = {
    {"layout", 'l', OPT_STRING, &options.layout, "NAME",
     "expert (default), or expert-aligned: FP8 scales at the end", 0, 0},
    {"align", 0, OPT_SIZE, &options.align, "SIZE", "begin data at a multiple of SIZE (default 4096)",
     REPACK_ALIGN_MIN, REPACK_ALIGN_MAX},
    {"order", 'o', OPT_STRING, &options.order, "ORDER", "index (default), hot, coactive, or a file of expert numbers",
     0, 0},
    {"stats", 's', OPT_STRING, &options.stats, "FILE", "routing statistics to order and place by", 0, 0},
    {"text", 0, OPT_STRING, &options.text.text, "FILE", "in place of --stats: run the model over a text, plain or JSONL",
     0, 0},
    {"ids", 0, OPT_STRING, &options.text.ids, "FILE", "the same over token ids, a sequence a line", 0, 0},
    {"tokens", 0, OPT_U64, &options.text.tokens, "N", "take the first N tokens of the text (all)", 1, UINT32_MAX},
    {"context", 0, OPT_U64, &options.text.context, "T", "tokens in a context (512)", 2, UINT32_MAX},
    {"save-stats", 0, OPT_STRING, &options.save_stats, "FILE", "write the statistics, in the numbers of the result", 0, 0},
    {"trace", 0, OPT_STRING, &options.trace, "FILE", "with --dry-run: routing trace to replay (default: that of --stats)",
     0, 0},
    {"window", 0, OPT_SIZE, &options.window_bytes, "SIZE", "bytes that are read or cached together (default 64MB)",
     1, UINT64_MAX},
    {"renumber", 0, OPT_FLAG, &options.renumber, NULL, "make the order the experts' numbers, router rows with them",
     0, 0},
    {"ep", 0, OPT_U64, &options.ep, "N", "place experts on N ranks by measured load", 1, 65536},
    {"nodes", 0, OPT_U64, &options.nodes, "M", "with --ep: the ranks' nodes (default 1)", 1, 65536},
    {"redundant", 0, OPT_U64, &options.redundant, "R", "with --ep: replicas of hot experts (default 0)", 0, 65536},
    {"shard-by-rank", 0, OPT_FLAG, &options.shard_by_rank, NULL, "with --ep: a set of shards for each rank", 0, 0},
    {"experts-json", 0, OPT_FLAG, &options.experts_json, NULL, "write experts.json: where each expert's bytes are",
     0, 0},
    {"mp", 0, OPT_U64, &options.mp, "N", "write the N files that DeepSeek's own inference code loads", 1, REPACK_MP_MAX},
    {"shard-size", 0, OPT_SIZE, &options.run.shard_bytes, "SIZE", "begin a new shard past this size (default 5GB)",
     CONVERSION_SHARD_BYTES_MIN, UINT64_MAX},
    {"threads", 't', OPT_U64, &options.run.threads, "N", "worker threads (default: one per CPU)", 1, 1024},
    {"memory", 'm', OPT_SIZE, &options.run.memory_bytes, "SIZE", "budget for buffers and tables (default: what helps)",
     1, UINT64_MAX},
    {"force", 'f', OPT_FLAG, &options.run.force, NULL, "replace what is in DST", 0, 0},
    {"restart", 0, OPT_FLAG, &options.run.restart, NULL,
     "discard an unfinished run in DST instead of going on with it", 0, 0},
    {"no-fingerprint", 0, OPT_FLAG, &options.run.no_fingerprint, NULL, "do not run the bundle before it is published", 0,
     0},
    {"no-proof", 0, OPT_FLAG, &options.run.no_proof, NULL,
     "with --renumber: do not prove that the function is the same", 0, 0},
    {"dry-run", 'n', OPT_FLAG, &options.run.dry_run, NULL, "print the plan and what it gains, and write nothing", 0, 0},
    {"json", 0, OPT_FLAG, &options.run.json, NULL, "print the plan or the result as JSON", 0, 0},
    {"keep-unknown", 0, OPT_FLAG, &options.run.keep_unknown, NULL, "copy tensors of unknown role as they are", 0, 0},
    {"quiet", 'q', OPT_FLAG, &options.run.quiet, NULL, "no progress and no notes", 0, 0},
    {"verbose", 'v', OPT_FLAG, &options.run.verbose, NULL, "say more", 0, 0},
    {0},
};
/* clang-format on */

static const struct opt_command spec = {
    .name = "repack",
    .operands = "SRC DST",
    .summary = "lay experts out for how they are read, values unchanged",
    .operand_min = 2,
    .operand_max = 2,
    .opts = opts,
};

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    (void)operand_count;
    return repack(&options, operands[0], operands[1], e);
}

const struct command command_repack = {.spec = &spec, .run = run};
