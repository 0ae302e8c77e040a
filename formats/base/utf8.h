/* UTF-8, as Unicode's table 3-7 has it: no longer forms, no surrogates, nothing past U+10FFFF. */
#ifndef FORMATS_BASE_UTF8_H
#define FORMATS_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_BYTES_MAX 4u /* of one character */

/* Bytes of the well-formed character at text, 0: there is none (its end may be missing). bytes > 0. */
size_t utf8_step(const char *text, size_t bytes);
/* The first byte that does not belong to well-formed UTF-8; `bytes` when all do. */
size_t utf8_end(const char *text, size_t bytes);
/* How many bytes at the end of text are the beginning of a character whose rest may still come: 0 to 3. */
size_t utf8_unfinished(const char *text, size_t bytes);

/* The code point of a well-formed character of `bytes` bytes. */
uint32_t utf8_code(const char *text, size_t bytes);
/* Writes the character of a code point below 0x110000; returns its bytes. */
size_t utf8_put(uint32_t code, char text[UTF8_BYTES_MAX]);

/* Unicode's White_Space: 25 code points. */
bool utf8_is_space(uint32_t code);

#endif
