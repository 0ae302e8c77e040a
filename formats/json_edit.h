/* Changes to a JSON text that leave all other bytes as they are. The text is a
 * valid object; its members are those of the root. */
#ifndef FORMATS_JSON_EDIT_H
#define FORMATS_JSON_EDIT_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/mem.h"

/* The white space at the begin of the first member's line; NULL: all in one line. In the arena. */
const char *json_edit_indent(struct arena *a, const char *text, size_t bytes);
/* Gives a member the value, which is JSON text; a new one comes behind the last. indent: of the line it gets; NULL:
 * none. */
void json_edit_put(struct buf *text, const char *key, const char *value, const char *indent);
/* Adds the text of a member that is an object to *inner, to be changed and put back. false: there is none. */
bool json_edit_copy(const struct buf *text, const char *key, struct buf *inner);
void json_edit_remove(struct buf *text, const char *key); /* nothing when there is no such member */
/* Lines of a value but its first move right by `indent`. Its strings have no line breaks, as valid JSON has none. */
void json_edit_shift(struct buf *value, const char *indent);

#endif
