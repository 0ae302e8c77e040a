/* Progress: bytes done of bytes planned. Workers add to one atomic; one thread
 * prints, by the clock, at most four times a second, and only on a terminal;
 * otherwise there is one summary line at the end. A NULL progress is silent,
 * so library code has no `if`. */
#ifndef FORMATS_BASE_PROGRESS_H
#define FORMATS_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress; /* opaque */

struct progress *progress_new(const char *what, uint64_t total_bytes, bool quiet);
void progress_add(struct progress *p, uint64_t bytes);        /* any thread */
void progress_resumed(struct progress *p); /* what was added so far, an earlier run did: rate and summary leave it out */
void progress_label(struct progress *p, const char *label);   /* "layer 12"; copied; any thread */
void progress_report(struct progress *p);                     /* print one line now (SIGUSR1), terminal or not */
/* ok: the summary line (bytes, seconds, rate, peak memory); not ok: clears the line. Frees p. */
void progress_end(struct progress *p, bool ok);

/* Asked to stop: SIGINT and SIGTERM set a flag, SIGUSR1 asks for a progress line. */
void signal_install(void);
bool signal_cancelled(void);
void signal_interrupts_reads(bool on); /* for a question on the terminal: a signal ends the wait for its answer */
void signal_reraise(void); /* restores the default action and raises what came; returns when nothing came */
bool signal_take_report(void); /* true once per SIGUSR1 */

#endif
