#include "convert/commands.h"
#include "convert/conversion.h"

static struct conversion options = {.shard_bytes = CONVERSION_SHARD_BYTES};
static const char *to;
static const char *recipe_name;

static const struct opt opts[] = {
    {"to", 0, OPT_STRING, &to, "TYPE", "bf16, f16, f32, fp8, fp8-ue8m0, fp8-channel, or int4[:g32|g64|g128][:asym]", 0,
     0},
    {"recipe", 'r', OPT_STRING, &recipe_name, "NAME|FILE", "a recipe in place of --to: quern-recipe(5)", 0, 0},
    CONVERSION_OPTS(options),
    {0},
};

static const struct opt_command spec = {
    .name = "convert",
    .operands = "SRC DST",
    .summary = "write a checkpoint with other number types, streaming",
    .operand_min = 2,
    .operand_max = 2,
    .opts = opts,
};

/* --also takes what --to and --recipe take. */
static bool find_recipe(struct recipe *r, const char *name, struct err *e)
{
    return recipe_to(r, name, e) || recipe_load(r, name, e);
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct recipe recipe = {0};
    int status = 2;

    (void)operand_count;
    if ((to == NULL) == (recipe_name == NULL)) {
        err_set(e, ERR_USAGE, "convert wants either --to TYPE or --recipe NAME");
        return status;
    }
    if (to ? recipe_to(&recipe, to, e) : recipe_load(&recipe, recipe_name, e))
        status = conversion_run(&options, operands[0], operands[1], &recipe, find_recipe, e);
    recipe_release(&recipe);
    return status;
}

const struct command command_convert = {.spec = &spec, .run = run};
