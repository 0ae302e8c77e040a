/* Calibration statistics of a model (formats/calib_stats.h): one walk over a text, as the model is stored. Every
 * linear's input is summed as it goes by; with losses, each matrix is rounded by every scheme and measured, and then
 * used as it was, so that each loss is that matrix's alone.
 *
 * What is held is one layer's working set, one expert for each worker and the text's hidden states; sums go to the file
 * an expert at a time. No thread count and no memory changes a byte of it. */
#ifndef CONVERT_CALIBRATE_H
#define CONVERT_CALIBRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/progress.h"
#include "formats/calib_stats.h"
#include "verify/batch.h"

/* Rows of a matrix whose loss is measured, evenly spaced, and taken for all. */
#define CALIBRATE_LOSS_ROWS 256u

struct calibrate_options {
    unsigned threads;      /* 0: one per CPU */
    uint64_t memory_bytes; /* 0: half of the machine's */
    uint64_t save_seconds; /* work after which layers are made durable; 0: each layer */
    bool losses;
    bool restart; /* discard an unfinished run of path */
    const struct batch *batch;
};

/* Beside path, while a run of it is unfinished: a folder with a record of the layers that are done and the hidden state
 * behind the last of them. Their statistics are in path's partial file. */
#define CALIBRATE_UNFINISHED_SUFFIX ".unfinished"
/* What a run that was killed right behind its last rename left beside the finished file; nothing while a run writes. */
void calibrate_remove_leftover(const char *path);

/* s: planned (calib_stats_plan); filled in, and written to path, sums and all. Refused: what a forward pass refuses, a
 * budget below the need (both numbers), an unfinished run of something else. Nothing is left at path after a failure;
 * when it was the system or a signal that ended the run, and layers are done, the same call goes on behind them, to the
 * same bytes. */
bool calibrate_run(struct calib_stats *s, const struct source *source, const struct calibrate_options *o,
                   const char *path, struct progress *progress, struct err *e) CHECKED;
/* Bytes of weights that it reads: what it adds to its progress. */
uint64_t calibrate_read_bytes(const struct source *source);
/* Memory beside the forward pass's own, of so many workers. */
uint64_t calibrate_memory_bytes(const struct source *source, const struct calib_stats *s, bool losses,
                                unsigned threads);

#endif
