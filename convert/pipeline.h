/* Calibrated quantization: the model runs over a text, a layer at a time, and
 * each linear that the recipe gives a calibrated method (gptq, ldlq) is rounded
 * against the second moments of what just entered it. The next layer sees the
 * output of the rounded one. Weights are read once, as they are stored; what is
 * held is one layer's working set and the text's hidden states.
 *
 *   attention, dense and shared MLPs   after all tokens went by, before the linear is used
 *   routed experts                     each with the tokens that were routed to it, on a worker of its own: gate and up
 *                                      share one input, down sees the rounded gate and up; moments are shrunk towards
 *                                      those of all the layer's tokens; experts that no token reached go by those alone
 *
 * Every save_seconds, and behind the last layer, finished layers go to the journal with the hidden state behind them
 * (STREAM files in the stage); a killed run goes on from there, one that was asked to stop from where it was. No thread
 * count, memory or kill changes a byte. */
#ifndef CONVERT_PIPELINE_H
#define CONVERT_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/plan.h"
#include "convert/run.h"
#include "convert/stage.h"
#include "formats/base/err.h"
#include "formats/base/progress.h"
#include "verify/batch.h"

/* In the stage: hidden states behind a finished layer; two while the newer one is being written. */
#define PIPELINE_STREAM_PREFIX ".hidden-"

struct pipeline_options {
    unsigned threads;          /* 0: one per CPU */
    uint64_t memory_bytes;     /* 0: half of the machine's */
    const struct batch *batch; /* the calibration text */
    bool propagate;            /* the next layer sees rounded outputs; else those of the source */
    uint64_t min_tokens;       /* an expert with fewer is starved */
    uint64_t save_seconds;     /* work after which layers are made durable; 0: each layer */
    bool starved_fails;
};

struct journal;

/* Rounds and writes the calibrated weights of one output, whose other weights run_plan has written, and completes its
 * shards. Refused: a model whose forward pass is not to be had, a budget below the need (both numbers), activations
 * that are not finite (layer and token). */
bool pipeline_run(struct plan *p, size_t output, const struct pipeline_options *o, struct stage *stage,
                  struct journal *journal, struct run_result *result, struct progress *progress, struct err *e) CHECKED;

/* The least memory that such a run needs, with one expert at a time and hidden states in files. */
bool pipeline_least_bytes(struct plan *p, size_t output, const struct pipeline_options *o, uint64_t *bytes,
                          struct err *e) CHECKED;
/* Experts at a time that it would have: as many as leave the forward pass a quarter of the budget. No byte depends on it. */
unsigned pipeline_threads(struct plan *p, size_t output, const struct pipeline_options *o);
/* Bytes of the source that it reads. (pipeline_memory.c) */
uint64_t pipeline_read_bytes(const struct plan *p);

/* Bytes that calibrated rows will be: what pipeline_run adds to its progress. */
uint64_t pipeline_write_bytes(const struct plan_output *o, size_t weight_count);

#endif
