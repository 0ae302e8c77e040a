/* What all text reports need. */
#ifndef VERIFY_REPORT_TEXT_H
#define VERIFY_REPORT_TEXT_H

#include <stddef.h>

#include "formats/base/mem.h"

/* Names come from files and reports go to terminals: control characters but the newline become '?',
 * from offset `from` to the buffer's end. */
void report_disarm(struct buf *out, size_t from);

#endif
