/* Inside quant/expert: what rounding an expert and trying schemes on it share. */
#ifndef QUANT_EXPERT_PRIVATE_H
#define QUANT_EXPERT_PRIVATE_H

#include "quant/expert.h"

/* What an input's stage needs; gate and up's and down's use the same memory in turn. */
struct expert_stage {
    float *sum, *prior_sum;
    void *calibrated;
};

struct expert_work {
    const struct expert_job *job;
    const struct coded *out;
    size_t hidden, inner;
    struct expert_stage stage;
    float *x;           /* [EXPERT_CHUNK][hidden] */
    float *gate, *up;   /* [EXPERT_CHUNK][inner] */
    float *spread;      /* [EXPERT_SPREAD_TOKENS][inner] */
    float *factor;      /* [EXPERT_CHUNK] sqrt(omega) of the tokens in x */
    bool even;          /* every omega is 1 */
    double share, rest; /* omega = share + rest w^2 */
    size_t spread_rows; /* in it */
    void *scratch;
    struct calibrated calibrated;
};

/* Everything but out and scratch, from memory; scratch comes last, of as many bytes. */
void expert_place(struct expert_work *w, const struct expert_job *job, size_t scratch_bytes, struct scratch *s);

/* Runs something over all tokens that count, a chunk at a time. */
typedef bool expert_over(struct expert_work *w, const float *x, size_t tokens, void *ctx, struct err *e);
bool expert_for_inputs(struct expert_work *w, expert_over *each, void *ctx, struct err *e) CHECKED;
/* a of some tokens, by the gate and up of w->out, in w->gate. */
bool expert_activate(struct expert_work *w, const float *x, size_t tokens, struct err *e) CHECKED;

/* Moments of the two inputs, closed and with spread; and of the layer's sample through this expert. */
bool expert_measure_x(struct expert_work *w, struct moments *own, struct err *e) CHECKED;
bool expert_measure_a(struct expert_work *w, struct moments *own, struct err *e) CHECKED;
bool expert_measure_prior_a(struct expert_work *w, const struct moments *own, struct moments *prior,
                            struct err *e) CHECKED;
bool expert_is_starved(const struct expert_job *job); /* down wants that prior */

#endif
