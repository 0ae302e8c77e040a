/* Text on its way into XML and HTML. */
#ifndef VERIFY_MARKUP_H
#define VERIFY_MARKUP_H

#include "formats/base/mem.h"

/* Escapes & < > " '. Bytes that are no UTF-8, and characters that XML 1.0 has no place for, become U+FFFD. Safe as
 * text and inside quoted attributes. */
void markup_escape(struct buf *out, const char *text);

/* Markdown: escapes what would start markup, and line breaks and bars, which would end a table's cell. */
void markdown_escape(struct buf *out, const char *text);

#endif
