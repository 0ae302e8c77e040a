/* Writes a DeepSeek-V3 checkpoint of the published layout without its weights:
 * true names, dtypes, shapes and shards, and holes for data. */
#include <stdio.h>

#include "formats/base/log.h"
#include "formats/base/opt.h"
#include "samples/generate/v3_layout.h"

static struct v3_layout layout;

static const struct opt options[] = {
    {.name = "layers",
     .kind = OPT_U64,
     .value = &layout.layers,
     .arg = "N",
     .help = "main layers (61); an MTP layer follows",
     .min = 1,
     .max = 1000},
    {.name = "experts",
     .kind = OPT_U64,
     .value = &layout.experts,
     .arg = "N",
     .help = "routed experts of a layer (256), a multiple of 8",
     .min = 8,
     .max = 4096},
    {.name = "shards",
     .kind = OPT_U64,
     .value = &layout.shards,
     .arg = "N",
     .help = "files to spread the tensors over (163)",
     .min = 1,
     .max = 10000},
    {.name = NULL},
};

static const struct opt_command spec = {.name = "sparse_checkpoint",
                                        .operands = "DIR",
                                        .summary = "write a checkpoint of DeepSeek-V3's layout as sparse files",
                                        .operand_min = 1,
                                        .operand_max = 1,
                                        .opts = options};

int main(int argc, char **argv)
{
    struct err e = {0};
    const char *dir = NULL;
    size_t operand_count = 0;
    bool help = false;

    v3_layout_published(&layout);
    if (!opt_parse(&spec, argc, argv, &dir, &operand_count, &help, &e))
        goto failed;
    if (help) {
        opt_print_help(&spec);
        return 0;
    }
    if (layout.experts % layout.groups != 0) {
        err_set(&e, ERR_USAGE, "--experts %llu is not a multiple of %llu groups", (unsigned long long)layout.experts,
                (unsigned long long)layout.groups);
        goto failed;
    }
    if (layout.dense_layers >= layout.layers)
        layout.dense_layers = layout.layers - 1;
    if (v3_layout_write(&layout, dir, &e))
        return 0;
failed:
    log_error(&e);
    return err_exit_status(e.code);
}
