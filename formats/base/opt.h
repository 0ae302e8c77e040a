/* Options are rows: the rows parse, print --help, feed shell completion, and
 * are compared with the man page in a test. */
#ifndef FORMATS_BASE_OPT_H
#define FORMATS_BASE_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

enum opt_kind {
    OPT_FLAG,   /* bool * */
    OPT_STRING, /* const char ** */
    OPT_MAYBE,  /* const char **; --name sets "", --name=VALUE sets VALUE: the value is never the next word */
    OPT_LIST,   /* struct opt_list *; repeatable */
    OPT_U64,    /* uint64_t *; plain decimal */
    OPT_F64,    /* double * */
    OPT_SIZE,   /* uint64_t *; bytes, with K M G T (powers of 1024) or KB MB GB TB (powers of 1000) behind a decimal number */
};

struct opt_list {
    const char **items; /* grown with mem_grow, owned */
    size_t count;
};

struct opt {
    const char *name;  /* without the dashes: "shard-size"; NULL ends a table */
    char letter;       /* 'n' for -n, or 0 */
    enum opt_kind kind;
    void *value;
    const char *arg;   /* "SIZE" in --shard-size SIZE; NULL for flags */
    const char *help;  /* one line, no full stop */
    uint64_t min, max; /* OPT_U64 and OPT_SIZE; both 0: any */
};

struct opt_command {
    const char *name;      /* "convert" */
    const char *operands;  /* "SRC DST" as shown in the usage line */
    const char *summary;   /* one line */
    size_t operand_min, operand_max;
    const struct opt *opts;
};

/* Parses argv[1..]; operands end up in `operands` (room for operand_max), *operand_count of them.
 * Both `--name=value` and `--name value`; `--` ends options. --help sets *help and returns true
 * without any further check. Errors are ERR_USAGE and name the option. */
bool opt_parse(const struct opt_command *c, int argc, char **argv, const char **operands, size_t *operand_count,
               bool *help, struct err *e) CHECKED;
void opt_print_help(const struct opt_command *c); /* to stdout */
bool opt_parse_size(const char *text, uint64_t *bytes); /* false: not a size */

#endif
