/* What each of some schemes would do to a linear's output, had the matrix been
 * rounded so: by the method of each, against the second moments of what enters.
 * Nothing is kept but the losses, of quant/loss.h, from the bytes that would be stored. */
#ifndef QUANT_TRIAL_H
#define QUANT_TRIAL_H

#include "quant/calibrated.h"
#include "quant/expert.h"

#define TRIAL_SCHEMES 8u

struct trial {
    double loss[TRIAL_SCHEMES]; /* tr(E H' E^T) of all rows, from options.check_rows of them; infinity: cannot be done;
                                   0: it is stored so already */
    double energy;              /* tr(W H' W^T) */
};

/* One matrix. memory: trial_bytes, MEM_ALIGN aligned. c: made for METHOD_LDLQ; schemes' methods are LDLQ, SEARCH or
 * ABSMAX. All 0 when the input says nothing. */
size_t trial_bytes(const struct coded *w, const struct scheme *schemes, size_t count);
bool trial_run(const struct calibrated *c, const struct coded *w, const struct scheme *schemes, size_t count,
               void *memory, struct trial *t, struct err *e) CHECKED;

/* A routed expert's three. job as for expert_round, but `to` is ignored, and down's input is what gate and up give as
 * they are stored, so that each matrix's losses are its own. */
size_t trial_expert_bytes(const struct expert_job *job, const struct scheme *schemes, size_t count);
bool trial_expert(const struct expert_job *job, const struct scheme *schemes, size_t count, void *memory,
                  struct trial t[EXPERT_PARTS], struct err *e) CHECKED;

struct channels;
/* How strong the expert's inputs are, of all its tokens: x of gate and up, a of down. */
bool trial_channels(const struct expert_job *job, void *memory, struct channels *x, struct channels *a,
                    struct err *e) CHECKED;
size_t trial_channels_bytes(const struct expert_job *job);

#endif
