/* Inside calibrate: for its own files. Workers touch their room and the expert's own places in the statistics; all else
 * is the main thread's, and read while experts run. */
#ifndef CONVERT_CALIBRATE_PRIVATE_H
#define CONVERT_CALIBRATE_PRIVATE_H

#include "convert/calibrate.h"
#include "convert/flow.h"
#include "quant/channels.h"
#include "quant/trial.h"
#include "verify/forward.h"
#include "verify/layer_weights.h"

/* A worker's memory for one expert; there before the first layer. */
struct calibrate_room {
    void *memory;        /* of quant/trial.h */
    double *wide, *down; /* sums of its two inputs */
};

struct calibrate {
    const struct source *source;
    const struct calibrate_options *options;
    struct calib_stats *stats;
    struct calib_writer writer;
    struct forward *forward;
    struct progress *progress;
    const struct kernel *kernel;
    struct scheme schemes[CALIB_SCHEME_COUNT];
    unsigned threads;
    struct calibrate_room *rooms; /* [threads] */

    /* the layer that runs */
    uint64_t layer;
    size_t tokens;
    struct channels channels[ROLE_COUNT]; /* by the role that names the input; sums owned */
    struct flow flows[ROLE_COUNT];        /* the same; with losses */
    struct flow_scratch scratch;
};

struct calibrated_options calibrate_method(void);
void calibrate_rooms_make(struct calibrate *c);
size_t calibrate_room_bytes(const struct source *source, bool losses); /* of one worker */
void calibrate_rooms_release(struct calibrate *c);
/* A routed expert that got tokens; and those of the layer that got none. */
bool calibrate_on_expert(void *ctx, unsigned worker, const struct expert_call *call, struct coded mlp[3],
                         struct err *e) CHECKED;
bool calibrate_silent_experts(struct calibrate *c, struct err *e) CHECKED;

/* The input's places in the statistics, to be filled in. */
struct calib_input *calibrate_input(struct calibrate *c, enum role role);
void calibrate_note_loss(struct calibrate *c, enum role matrix, size_t index, const struct trial *t);

#endif
