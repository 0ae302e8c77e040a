/* Inside calibrate: for its own files. Workers touch their room and the expert's own places in the statistics; all else
 * is the main thread's, and read while experts run. */
#ifndef CONVERT_CALIBRATE_PRIVATE_H
#define CONVERT_CALIBRATE_PRIVATE_H

#include "convert/calibrate.h"
#include "convert/flow.h"
#include "convert/record_file.h"
#include "quant/channels.h"
#include "quant/trial.h"
#include "verify/forward.h"
#include "verify/layer_weights.h"

/* A worker's memory for one expert; there before the first layer. */
struct calibrate_room {
    void *memory;        /* of quant/trial.h */
    double *wide, *down; /* sums of its two inputs */
};

/* How far a run has come, on disk. (calibrate_resume.c) */
struct calibrate_saved {
    struct record_file records;
    struct arena arena;
    const char *dir;      /* the folder */
    uint64_t layers_done; /* layers before it are durable, and were so when the run began or were made so by it */
    double saved_at;      /* on the monotonic clock */
};

struct calibrate {
    const struct source *source;
    const struct calibrate_options *options;
    struct calib_stats *stats;
    struct calib_writer writer;
    struct calibrate_saved saved;
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
uint64_t calibrate_layer_bytes(const struct source *source, int64_t layer); /* of its weights, as stored */
void calibrate_rooms_make(struct calibrate *c);
size_t calibrate_room_bytes(const struct source *source, bool losses); /* of one worker */
void calibrate_rooms_release(struct calibrate *c);
/* A routed expert that got tokens; and those of the layer that got none. */
bool calibrate_on_expert(void *ctx, unsigned worker, const struct expert_call *call, struct coded mlp[3],
                         struct err *e) CHECKED;
bool calibrate_silent_experts(struct calibrate *c, struct err *e) CHECKED;

/* ---- calibrate_resume.c ---- */

/* Opens the writer too, and takes back what an earlier run has done. */
bool calibrate_saved_open(struct calibrate *c, const char *path, struct err *e) CHECKED;
/* Behind a layer: makes what is done durable when it is time. */
bool calibrate_saved_layer(struct calibrate *c, const struct stream *after, struct err *e) CHECKED;
/* A signal came in `layer`: what stands before it is made durable. */
void calibrate_saved_stopped(struct calibrate *c, uint64_t layer, const struct stream *in);
bool calibrate_saved_enter(struct calibrate *c, struct stream *in, struct err *e) CHECKED; /* the state to go on from */
/* After the commit, or after an error, whose code says whether the run is worth going on with. */
void calibrate_saved_close(struct calibrate *c, bool committed, const struct err *e);

/* The input's places in the statistics, to be filled in. */
struct calib_input *calibrate_input(struct calibrate *c, enum role role);
void calibrate_note_loss(struct calibrate *c, enum role matrix, size_t index, const struct trial *t);

#endif
