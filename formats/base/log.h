/* Talk, on stderr. stdout is for answers. Safe from any thread. Control
 * characters but newline and tab come out as '?': names come from files. */
#ifndef FORMATS_BASE_LOG_H
#define FORMATS_BASE_LOG_H

#include "formats/base/err.h"

enum log_level { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE };

void log_set_level(enum log_level level);
enum log_level log_level(void);
void log_note(const char *fmt, ...) PRINTF_LIKE(1, 2);    /* "quern: note: ..." unless quiet */
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);    /* "quern: warning: ..." always */
void log_verbose(const char *fmt, ...) PRINTF_LIKE(1, 2); /* only when verbose */
void log_line(const char *fmt, ...) PRINTF_LIKE(1, 2);    /* the text alone, always */
/* The line at the foot of a terminal that the next one overwrites and that the functions above
 * clear first; NULL: none. Only for a stderr that is a terminal. */
void log_status(const char *line);
void log_error(const struct err *e);                      /* "quern: text" always */

#endif
