/* The byte-level alphabet of Hugging Face's tokenizers: each byte is written as one printable character. 0x21 to 0x7e,
 * 0xa1 to 0xac and 0xae to 0xff are themselves (as code points); the other 68, in ascending order, are U+0100,
 * U+0101, ... So 0x20 is U+0120 and 0x0a is U+010a. */
#ifndef FORMATS_BYTE_LEVEL_H
#define FORMATS_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/mem.h"

uint32_t byte_level_code(unsigned char byte); /* the code point that stands for a byte */

/* Replaces out's content with the bytes that valid UTF-8 text spells; false: it holds a character outside the
 * alphabet, and out is of no use. */
bool byte_level_read(struct buf *out, const char *text, size_t bytes);
/* Appends the text that spells the bytes. */
void byte_level_write(struct buf *out, const char *data, size_t bytes);

#endif
