/* What it costs on this disk to read the experts of a token: the reads of a
 * routing trace, done for real, the page cache emptied of the files before each
 * token.
 *
 * A layer's reads are given to the queue together, and the next layer's when
 * they are done, as a forward pass would. The layers of tokens spread over the
 * trace are taken until the time is up; a token is then the mean of a layer,
 * times the layers. */
#ifndef VERIFY_BENCH_IO_H
#define VERIFY_BENCH_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/routing_stats.h"
#include "formats/weight.h"
#include "verify/read_team.h"

#define BENCH_IO_DEPTHS_MAX 8u
#define BENCH_IO_DEPTH_MAX  256u

struct bench_io_options {
    bool methods[READ_METHOD_COUNT];
    unsigned depths[BENCH_IO_DEPTHS_MAX];
    size_t depth_count;
    double seconds; /* for each method and depth, at least */
    uint64_t seed;  /* another one picks other tokens */
};

/* One method at one depth. */
struct bench_io_row {
    enum read_method method;
    unsigned depth;
    const char *skipped; /* why there are no figures, or NULL */
    uint64_t layers_read;
    double seconds;       /* for one token */
    double slowest_layer; /* seconds */
    double reads, bytes;  /* for one token, as they went to the kernel */
    double bytes_per_second;
    double major_faults, minor_faults; /* for one token */
};

struct bench_io {
    struct arena arena;
    size_t layers;  /* with routed experts, in the trace */
    double experts; /* for one token, over all layers */
    struct bench_io_row *rows;
    size_t row_count;
};

/* Refused: a trace of another model, statistics without a trace. */
bool bench_io_run(struct bench_io *b, const struct source *s, const struct routing_stats *trace,
                  const struct bench_io_options *o, struct err *e) CHECKED;
void bench_io_release(struct bench_io *b);

void bench_io_print_text(const struct bench_io *b, struct buf *out);
void bench_io_print_json(const struct bench_io *b, struct buf *out);

#endif
