/* Inside the pipeline: for its own files. The lock guards shard files, results and `most`; all else in struct
 * pipeline is the main thread's, and workers read it while experts run. */
#ifndef CONVERT_PIPELINE_PRIVATE_H
#define CONVERT_PIPELINE_PRIVATE_H

#include <pthread.h>

#include "convert/calibrated_result.h"
#include "convert/flow.h"
#include "convert/journal.h"
#include "convert/layer_rows.h"
#include "convert/pipeline.h"
#include "convert/shard_file.h"
#include "quant/calibrated.h"
#include "quant/expert.h"
#include "verify/forward.h"
#include "verify/layer_weights.h"

/* One input of a linear that all tokens go through, while its layer runs. */
struct watched {
    bool watched;     /* for its largest magnitude */
    bool wanted;      /* and for its moments */
    bool rounded_by;  /* which linears of this role's input are rounded by; else they are the experts' prior alone */
    float most;       /* largest magnitude of all tokens */
    uint64_t tokens;  /* that went by */
    struct flow flow; /* when wanted */
};

/* A worker's memory for one expert; there before the first layer. */
struct expert_room {
    void *memory, *out; /* of quant/expert.h */
    uint8_t *in;        /* an expert that no token reached, as it is stored; the first worker's */
};

/* Largest magnitudes of an expert's tokens: what entered down_proj, and what left it. */
struct expert_most {
    float act, out;
};

struct pipeline {
    struct plan *plan;
    size_t output;
    const struct plan_output *out;
    const struct pipeline_options *options;
    struct stage *stage;
    struct journal *journal;
    struct run_result *result;
    struct progress *progress;
    struct forward *forward;
    struct shard_file *files; /* [shard_count] */
    unsigned threads;
    const struct kernel *kernel;
    struct layer_rows index; /* MTP's layer included */
    double saved_at;         /* on the monotonic clock: what was done until then is durable */

    pthread_mutex_t lock;

    /* the layer that runs */
    uint64_t layer;
    uint64_t tokens;                /* that go through it: the batch's, fewer in an MTP layer */
    uint32_t linear[ROLE_COUNT];    /* row index + 1 of a calibrated weight that is no expert's */
    uint32_t (*experts)[MLP_PARTS]; /* [experts]: row index + 1 of its weights, when one of them is calibrated */
    bool any_expert;
    struct expert_most *most;          /* [experts]; the lock guards it while experts run */
    struct watched inputs[ROLE_COUNT]; /* by the role that names the input */
    struct flow_scratch scratch;       /* the main thread's; grows with the layer's need */
    void **held;                       /* rounded linears, until the layer is over */
    size_t held_count;
    struct expert_room *rooms; /* [threads] */
};

/* ---- pipeline.c ---- */

/* Writes a rounded weight and keeps what became of it. Any thread. */
bool pipeline_put(struct pipeline *p, uint32_t row, const struct slices *out, const struct rounded *rounded,
                  const struct calibrated_result *about, struct err *e) CHECKED;
size_t pipeline_out_bytes(const struct plan_row *row, uint8_t *memory, struct slices *out);
/* Writes one part of a row, whole. */
bool pipeline_put_part(struct pipeline *p, const struct plan_row *row, enum part part, const void *data,
                       struct err *e) CHECKED;

/* What of a layer is calibrated: linear, experts, any_expert. */
void pipeline_list_layer(struct pipeline *p, uint64_t layer, uint64_t tokens);

/* ---- pipeline_memory.c ---- */

/* Of what all tokens go through: the layer that needs most. */
uint64_t pipeline_flows_need(struct pipeline *p);
/* p->threads: experts at a time, as many as leave the forward pass a quarter of the budget. */
void pipeline_choose_threads(struct pipeline *p, uint64_t flows);

/* ---- pipeline_linear.c: what all tokens go through ---- */

bool pipeline_on_input(void *ctx, const struct linear_input *in, struct err *e) CHECKED;
bool pipeline_on_linear(void *ctx, uint64_t layer, enum role role, struct coded *w, struct err *e) CHECKED;
void pipeline_flows_want(struct pipeline *p); /* from linear and any_expert */
void pipeline_flows_release(struct pipeline *p);
uint64_t pipeline_flows_bytes(struct pipeline *p); /* what the layer's inputs and rounded linears will take */
struct expert_layer pipeline_prior(const struct pipeline *p); /* what the layer's experts share */
float pipeline_input_most(const struct pipeline *p, enum role role);

/* ---- pipeline_static.c ---- */

/* A linear of this role, under the scale that it shares. w: as stored, the input of m. */
bool pipeline_round_static(struct pipeline *p, enum role role, const struct coded *w, const struct loss_matrix *m,
                           struct rounded *rounded, struct err *e) CHECKED;
/* The layer's input scales, when all tokens have gone through it. */
bool pipeline_put_static(struct pipeline *p, struct err *e) CHECKED;

/* ---- pipeline_expert.c ---- */

void pipeline_rooms_make(struct pipeline *p);
size_t pipeline_room_bytes(struct pipeline *p); /* of one worker */
void pipeline_rooms_release(struct pipeline *p);
bool pipeline_on_expert(void *ctx, unsigned worker, const struct expert_call *c, struct coded mlp[3],
                        struct err *e) CHECKED;
void pipeline_on_made(void *ctx, const struct expert_made *m);
/* Experts of the layer that no token reached. */
bool pipeline_silent_experts(struct pipeline *p, struct err *e) CHECKED;

#endif
