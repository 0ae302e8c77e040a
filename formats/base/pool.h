/* Threads for numbered jobs. Jobs are handed out in order; when one fails, no
 * new one starts, those running finish, and the failure of the LOWEST-numbered
 * job is reported: one thread and sixty-four print the same message. */
#ifndef FORMATS_BASE_POOL_H
#define FORMATS_BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/err.h"

/* worker: 0 .. threads-1, for scratch that a thread owns. */
typedef bool pool_job(void *ctx, size_t job, unsigned worker, struct err *e);

/* Runs job 0 .. count-1 on `threads` threads (0: one per usable CPU). Returns when all are done. */
bool pool_run(unsigned threads, size_t count, pool_job *job, void *ctx, struct err *e) CHECKED;

unsigned pool_cpu_count(void); /* CPUs this process may use (sched_getaffinity), at least 1 */

#endif
