/* What a forward pass gives, as one safetensors file, to hold against another
 * program: quern-logits(1) lists the tensors. Their places are known before the
 * first layer runs, so that rows are written as they come. */
#ifndef VERIFY_LOGITS_FILE_H
#define VERIFY_LOGITS_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/routing_stats.h"
#include "verify/forward.h"

struct logits_request {
    const char *path;
    bool hidden, routing, mtp;
    bool quiet;
    uint64_t logits_bytes;       /* what logits may take while they are on their way; logits_file_bytes */
    struct routing_stats *trace; /* gets the choices, or NULL */
};

/* What there is to say at the end. */
struct logits_summary {
    size_t tokens;
    size_t drafts, accepted; /* with mtp: drafts that have a main prediction to be held against */
};

/* Of a budget, 0: none given. */
uint64_t logits_file_bytes(uint64_t memory_bytes);
/* Runs the batch and writes the file: complete, or not at all. */
bool logits_file_write(const struct source *s, struct forward *f, const struct batch *b, const struct logits_request *r,
                       struct logits_summary *summary, struct err *e) CHECKED;

#endif
