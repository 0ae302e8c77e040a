/* `quern completion bash`: a completion script made from the option tables. What
 * may follow an option is known by the word its row shows for it: TYPE, NAME|FILE,
 * RECIPE:DIR; a word that ends in DIR is a folder, in FILE a file, and any other
 * is for the user to know. */
#ifndef CONVERT_COMPLETION_H
#define CONVERT_COMPLETION_H

#include <stddef.h>

#include "formats/base/command.h"

void completion_print_bash(const struct command *const *commands, size_t count); /* to stdout */

#endif
