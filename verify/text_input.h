/* What a command reads whole: a file, plain or gzipped, or standard input as "-". */
#ifndef VERIFY_TEXT_INPUT_H
#define VERIFY_TEXT_INPUT_H

#include "formats/base/err.h"
#include "formats/base/mem.h"

/* Replaces text's content. At most TOKENIZER_TEXT_BYTES_MAX bytes. Errors name the file. */
bool text_input_read(const char *path, struct buf *text, struct err *e) CHECKED;

#endif
