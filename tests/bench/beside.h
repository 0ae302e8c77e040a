/* Programs run and timed, on tmpfs with their pages kept ready for them; for
 * bench_e2e.c. Strings live in the caller's arena. */
#ifndef TESTS_BENCH_BESIDE_H
#define TESTS_BENCH_BESIDE_H

#include <stdint.h>

#include "formats/base/mem.h"

/* Pages that are free before they are asked for. */
#define AHEAD_BYTES ((uint64_t)256 << 20)

struct outcome {
    double seconds;
    double user_seconds, system_seconds; /* all threads */
    uint64_t peak_bytes;
    int status; /* 127: could not be started */
};

/* A file on tmpfs whose pages go to whoever writes there next. Zero holds nothing. */
struct ballast {
    int fd; /* 0: none */
    uint64_t bytes, used_most;
};
struct ballast ballast_new(struct arena *a, const char *dir, uint64_t bytes);

/* Runs a program to its end, its answers thrown away, while b gives way to what it writes; then b is gone. */
struct outcome run_beside(struct arena *a, const char *const argv[], struct ballast *b);

void write_pages(int fd, uint64_t bytes);
double now(void); /* seconds, of a clock that only goes forward */

#endif
