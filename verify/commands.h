/* The commands of verify/, for convert/main.c. */
#ifndef VERIFY_COMMANDS_H
#define VERIFY_COMMANDS_H

#include "formats/base/command.h"

extern const struct command command_inspect;
extern const struct command command_diff;
extern const struct command command_verify;
extern const struct command command_run;
extern const struct command command_tokenize;
extern const struct command command_bench_io;
extern const struct command command_logits;

#endif
