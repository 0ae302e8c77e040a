/* `quern repack`: experts laid out for how they are read. */
#ifndef CONVERT_REPACK_H
#define CONVERT_REPACK_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/conversion.h"
#include "formats/base/err.h"
#include "verify/corpus.h"

#define REPACK_ALIGN_MIN    4096u      /* below, a header's padding gives it anyway */
#define REPACK_ALIGN_MAX    (2u << 20) /* a huge page; the header is padded to it */
#define REPACK_WINDOW_BYTES 64000000u
#define REPACK_MP_MAX       1024u

struct repack_options {
    struct conversion
        run; /* threads, memory, shard size, force, restart, dry run, json, quiet, verbose, keep unknown, no proof */
    const char *layout; /* "expert" (also NULL), "expert-aligned" */
    const char *order;  /* "index" (also NULL), "hot", "coactive", or a file */
    const char *stats, *trace;
    struct corpus_options text; /* in place of stats */
    const char *save_stats;     /* where to, in the numbers of the result */
    bool renumber, experts_json, shard_by_rank;
    uint64_t align, window_bytes, ep, nodes, redundant, mp;
};

/* Returns the exit status; errors in e. */
int repack(const struct repack_options *o, const char *src, const char *dst, struct err *e);

#endif
