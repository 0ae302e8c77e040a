/* One input of linears that all tokens go through, taken in as it goes by: its second moments (quant/moments.h) by
 * evenly spaced tokens, and a sample of the tokens themselves. */
#ifndef CONVERT_FLOW_H
#define CONVERT_FLOW_H

#include "quant/calibrated.h"
#include "verify/forward.h"

/* Tokens that are added at a time. */
#define FLOW_CHUNK 256u
/* Tokens whose spread stands for that of all, where an input goes by once (quant/moments.h). */
#define FLOW_SPREAD_TOKENS 2048u

/* Memory that grows with the largest need so far; one thread's. */
struct flow_scratch {
    void *memory;
    size_t bytes;
};
void *flow_scratch_get(struct flow_scratch *s, size_t bytes);
void flow_scratch_release(struct flow_scratch *s);

/* Zero holds nothing. */
struct flow {
    struct moments moments; /* sum owned */
    float *chunk;           /* [FLOW_CHUNK][cols]: taken, not yet added */
    size_t chunk_tokens;
    float *kept; /* [FLOW_SPREAD_TOKENS][cols] */
    size_t kept_tokens;
    uint64_t seen;
    struct calibrated calibrated;
    void *memory; /* calibrated's; NULL: not made yet */
};

size_t flow_bytes(size_t cols, bool calibrated); /* all that it may hold, with what flow_calibrated makes or without */
size_t flow_scratch_bytes(size_t cols);
/* Some of `all` tokens, in order; the moments are closed behind the last. ERR_FORMAT naming the layer: they are past
 * float32's range. */
bool flow_take(struct flow *f, const struct kernel *k, const struct linear_input *in, uint64_t all, unsigned threads,
               struct flow_scratch *scratch, struct err *e) CHECKED;
/* For rounding by o->method; made once a method. */
struct calibrated *flow_calibrated(struct flow *f, const struct calibrated_options *o, unsigned threads,
                                   struct flow_scratch *scratch);
void flow_release(struct flow *f); /* idempotent */

#endif
