/* A command of the program: its options as a table, and what it does. main
 * parses, prints help, runs, prints the error once, and picks the status. */
#ifndef FORMATS_BASE_COMMAND_H
#define FORMATS_BASE_COMMAND_H

#include <stddef.h>

#include "formats/base/err.h"
#include "formats/base/opt.h"

struct command {
    const struct opt_command *spec;
    /* Options are parsed into the variables that the table's rows point to. Returns the exit status when
     * e is untouched (0: done or they agree, 1: verify or diff says no); else main prints e and the status
     * is err_exit_status. operands[operand_count] does not exist: count. */
    int (*run)(const char *const *operands, size_t operand_count, struct err *e);
};

#endif
