#include "convert/commands.h"
#include "convert/conversion.h"

static struct calibration calibration = {
    .text = {.tokens = CALIBRATION_TOKENS, .context = CALIBRATION_CONTEXT},
    .propagate = "on",
    .on_starved = "warn",
    .min_tokens = CALIBRATION_MIN_TOKENS,
    .save_seconds = CALIBRATION_SAVE,
};
static struct width_options widths;
static struct conversion options = {.shard_bytes = CONVERSION_SHARD_BYTES, .calibration = &calibration};
static const char *recipe_name, *statistics;

static const struct opt opts[] = {
    {"recipe", 'r', OPT_STRING, &recipe_name, "NAME|FILE", "what each weight becomes: quern-recipe(5)", 0, 0},
    {"target-bpw", 0, OPT_F64, &widths.target_bpw, "X", "choose widths by --stats, for a mean of X bits per weight", 0,
     0},
    {"stats", 0, OPT_STRING, &statistics, "STATS", "round by these, of quern calibrate, and run no --text", 0, 0},
    CORPUS_OPTIONS(calibration.text, CALIBRATION_TOKENS_TEXT, CALIBRATION_CONTEXT_TEXT),
    {"propagate", 0, OPT_STRING, &calibration.propagate, "on|off",
     "let each layer see the rounded layers before it (on)", 0, 0},
    {"min-tokens", 0, OPT_U64, &calibration.min_tokens, "N", "call an expert with fewer tokens starved (32)", 0, 0},
    {"on-starved", 0, OPT_STRING, &calibration.on_starved, "warn|fail", "what a starved expert means (warn)", 0, 0},
    {"save-every", 0, OPT_U64, &calibration.save_seconds, "SECONDS",
     "make a calibrated run's layers durable after so much work (30; 0: each)", 0, UINT32_MAX},
    CONVERSION_OPTS(options),
    {0},
};

static const struct opt_command spec = {
    .name = "quantize",
    .operands = "SRC DST",
    .summary = "write a deployable quantized bundle by a recipe, streaming",
    .operand_min = 2,
    .operand_max = 2,
    .opts = opts,
};

/* Without a text statistics take its place; with one they say which widths. */
static bool take_statistics(struct err *e)
{
    bool text = calibration.text.text || calibration.text.ids;

    if (widths.target_bpw != 0 && !statistics)
        return err_set(e, ERR_USAGE, "--target-bpw wants --stats FILE, of quern calibrate --losses");
    if (statistics && text && widths.target_bpw == 0)
        return err_set(e, ERR_USAGE, "--stats and %s: one of them is what the recipe is calibrated by",
                       calibration.text.text ? "--text" : "--ids");
    options.statistics = text ? NULL : statistics;
    if (widths.target_bpw == 0)
        return true;
    widths.statistics = statistics;
    widths.split = options.allow_unfused;
    options.widths = &widths;
    return true;
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct recipe recipe = {0};
    int status = 2;

    (void)operand_count;
    if (!recipe_name) {
        err_set(e, ERR_USAGE, "quantize wants --recipe NAME or FILE");
        return status;
    }
    if (!take_statistics(e))
        return status;
    if (recipe_load(&recipe, recipe_name, e))
        status = conversion_run(&options, operands[0], operands[1], &recipe, recipe_load, e);
    recipe_release(&recipe);
    return status;
}

const struct command command_quantize = {.spec = &spec, .run = run};
