#include "convert/commands.h"
#include "convert/conversion.h"

static struct conversion options = {.shard_bytes = CONVERSION_SHARD_BYTES};
static const char *recipe_name;

static const struct opt opts[] = {
    {"recipe", 'r', OPT_STRING, &recipe_name, "NAME|FILE", "what each weight becomes: quern-recipe(5)", 0, 0},
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

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct recipe recipe = {0};
    int status = 2;

    (void)operand_count;
    if (!recipe_name) {
        err_set(e, ERR_USAGE, "quantize wants --recipe NAME or FILE");
        return status;
    }
    if (recipe_load(&recipe, recipe_name, e))
        status = conversion_run(&options, operands[0], operands[1], &recipe, recipe_load, e);
    recipe_release(&recipe);
    return status;
}

const struct command command_quantize = {.spec = &spec, .run = run};
