/* The table of commands. convert/main.c is the only file that names verify's. */
#ifndef CONVERT_COMMANDS_H
#define CONVERT_COMMANDS_H

#include "formats/base/command.h"

extern const struct command command_calibrate;
extern const struct command command_convert;
extern const struct command command_quantize;
extern const struct command command_repack;

#endif
