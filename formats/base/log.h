/* Talk, on stderr. stdout is for answers. Safe from any thread. */
#ifndef FORMATS_BASE_LOG_H
#define FORMATS_BASE_LOG_H

#include "formats/base/err.h"

enum log_level { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE };

void log_set_level(enum log_level level);
enum log_level log_level(void);
void log_note(const char *fmt, ...) PRINTF_LIKE(1, 2);    /* "quern: note: ..." unless quiet */
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);    /* "quern: warning: ..." always */
void log_verbose(const char *fmt, ...) PRINTF_LIKE(1, 2); /* only when verbose */
void log_error(const struct err *e);                      /* "quern: text" always */

#endif
