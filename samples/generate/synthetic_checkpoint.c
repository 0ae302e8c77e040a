/* Writes a checkpoint of DeepSeek-V3's true dimensions with weights in it: any
 * number of layers and experts, the same bytes for the same options, whatever
 * the number of threads. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/log.h"
#include "formats/base/opt.h"
#include "samples/generate/synthetic_weights.h"
#include "samples/generate/v3_layout.h"

#define UNSET UINT64_MAX

static struct v3_layout layout;
static struct synthetic_weights weights;
static uint64_t layers = UNSET, dense = UNSET, experts = UNSET, total_bytes = 2000000000u, shard_bytes = 5000000000u;
static uint64_t seed = 1;
static const char *dtype = "fp8";

/* clang-format off */
static const struct opt options[] = {
    {"bytes",      0, OPT_SIZE,   &total_bytes,       "SIZE", "size to come near by layers or experts not given (2GB)", 1, UINT64_MAX},
    {"layers",     0, OPT_U64,    &layers,            "N",    "main layers", 1, 1000},
    {"dense",      0, OPT_U64,    &dense,             "N",    "how many of them are dense (none below 4 layers, else 3)", 0, 1000},
    {"experts",    0, OPT_U64,    &experts,           "N",    "routed experts of a layer", 1, 4096},
    {"mtp",        0, OPT_U64,    &layout.mtp_layers, "N",    "layers for multi-token prediction (0)", 0, 8},
    {"vocab",      0, OPT_U64,    &layout.vocab,      "N",    "words (2048: the published 129280 are 3.7 GB)", 1, 1000000},
    {"dtype",      0, OPT_STRING, &dtype,             "TYPE", "fp8 or bf16", 0, 0},
    {"shard-size", 0, OPT_SIZE,   &shard_bytes,       "SIZE", "bytes of a shard, nearly (5GB)", 1, UINT64_MAX},
    {"seed",       0, OPT_U64,    &seed,              "N",    "another seed, other weights (1)", 0, 0},
    {"threads",    0, OPT_U64,    &layout.threads,    "N",    "threads (one per CPU)", 1, 1024},
    {0},
};
/* clang-format on */

static const struct opt_command spec = {.name = "synthetic_checkpoint",
                                        .operands = "DIR",
                                        .summary = "write a checkpoint of DeepSeek-V3's dimensions with random weights",
                                        .operand_min = 1,
                                        .operand_max = 1,
                                        .opts = options};

/* Routing needs groups that divide the experts and hold enough of them. */
static void set_experts(struct v3_layout *l, uint64_t count)
{
    l->experts = count;
    l->groups = 8;
    while (count % l->groups != 0 || count / l->groups < 2)
        if ((l->groups /= 2) <= 1)
            break;
    if (l->groups == 0)
        l->groups = 1;
    l->topk_groups = l->groups > 1 ? l->groups / 2 : 1;
    uint64_t reachable = count / l->groups * l->topk_groups;
    l->experts_per_token = reachable < 8 ? reachable : 8;
}

static void set_layers(struct v3_layout *l, uint64_t count)
{
    l->layers = count;
    l->dense_layers = dense != UNSET ? dense : count < 4 ? 0 : 3;
}

static bool bytes_with(uint64_t layer_count, uint64_t expert_count, uint64_t *bytes, struct err *e)
{
    set_layers(&layout, layer_count);
    set_experts(&layout, expert_count);
    return v3_layout_bytes(&layout, bytes, e);
}

/* Size grows in equal steps with either number: two sizes tell all. */
static uint64_t steps(uint64_t one, uint64_t two, uint64_t limit)
{
    uint64_t step = two > one ? two - one : 1;
    uint64_t count = total_bytes > one ? 1 + (total_bytes - one + step / 2) / step : 1;

    return count < limit ? count : limit;
}

static bool choose_size(struct err *e)
{
    uint64_t one = 0, two = 0, many = experts != UNSET ? experts : 256;

    if (layers == UNSET) {
        /* From layer 4 on, so that the dense ones are behind us; small models get one layer. */
        if (!bytes_with(1, many, &one, e) || !bytes_with(2, many, &two, e))
            return false;
        layers = total_bytes <= one ? 1 : steps(one, two, 1000);
    }
    if (experts == UNSET && layers > (dense != UNSET ? dense : layers < 4 ? 0 : 3)) {
        if (!bytes_with(layers, 1, &one, e) || !bytes_with(layers, 2, &two, e))
            return false;
        experts = steps(one, two, 256);
    }
    return bytes_with(layers, experts != UNSET ? experts : 256, &total_bytes, e);
}

static bool choose(struct err *e)
{
    if (strcmp(dtype, "fp8") != 0 && strcmp(dtype, "bf16") != 0)
        return err_set(e, ERR_USAGE, "--dtype is '%s', which is neither 'fp8' nor 'bf16'", dtype);
    layout.store = strcmp(dtype, "fp8") == 0 ? V3_FP8 : V3_BF16;
    if (!choose_size(e))
        return false;
    if (layout.dense_layers > layout.layers)
        return err_set(e, ERR_USAGE, "--dense %" PRIu64 " is more than %" PRIu64 " layers", layout.dense_layers,
                       layout.layers);
    layout.shards = (total_bytes + shard_bytes - 1) / shard_bytes;
    return true;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    const char *dir = NULL;
    size_t operand_count = 0;
    bool help = false;

    v3_layout_published(&layout);
    layout.vocab = 2048;
    layout.mtp_layers = 0;
    layout.fill_piece = synthetic_weights_fill;
    layout.ctx = &weights;
    if (!opt_parse(&spec, argc, argv, &dir, &operand_count, &help, &e))
        goto failed;
    if (help) {
        opt_print_help(&spec);
        return 0;
    }
    synthetic_weights_init(&weights, seed);
    if (!choose(&e) || !v3_layout_write(&layout, dir, &e))
        goto failed;
    printf("%" PRIu64 " layers (%" PRIu64 " dense), %" PRIu64 " experts, %" PRIu64 " bytes of weights in %" PRIu64
           " shards\n",
           layout.layers, layout.dense_layers, layout.experts, total_bytes, layout.shards);
    return 0;
failed:
    log_error(&e);
    return err_exit_status(e.code);
}
