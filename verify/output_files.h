/* The files that a command writes: looked at before the work that fills them, so that it is not done for nothing, and
 * none takes the place of another one or of what is read. */
#ifndef VERIFY_OUTPUT_FILES_H
#define VERIFY_OUTPUT_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/err.h"
#include "formats/checkpoint.h"

#define OUTPUT_FILES_MAX 8u

/* Zero is none. Names and paths are borrowed. */
struct output_files {
    struct {
        const char *option; /* "html" */
        const char *path;
    } items[OUTPUT_FILES_MAX];
    size_t count;
};

void output_files_add(struct output_files *o, const char *option, const char *path); /* NULL or "": nothing to write */
/* Each can be begun (output_check), and no two are the same file, however they are spelled. ERR_USAGE or ERR_IO. */
bool output_files_check(const struct output_files *o, struct err *e) CHECKED;
/* None would replace `input`; NULL or "-": there is none. ERR_USAGE. */
bool output_files_spare_file(const struct output_files *o, const char *input, struct err *e) CHECKED;
/* None would replace a file of the checkpoint. ERR_USAGE. */
bool output_files_spare(const struct output_files *o, const struct checkpoint *c, struct err *e) CHECKED;

#endif
