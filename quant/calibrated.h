/* Calibrated rounding from one call: an input's second moments on one side, the
 * matrices that read it on the other. Gate and up of an expert read the same
 * input and share all of this; down has its own.
 *
 *   method    moments                    order       int4 scales                       codes
 *   absmax    -                          -           2 amax / 15                       to nearest
 *   search    -                          -           quant/search.h, weights 1         to nearest
 *   gptq      1 % of the mean diagonal   as stored   absmax, when a group is reached   quant/ldlq.h
 *   ldlq      quant/shrink.h             act order   quant/search.h, weights r2        quant/ldlq.h
 *
 * gptq is the textbook, for comparison; but dead columns keep their weights. FP8 has the scales of quant/transform.h
 * under every method, and search is absmax.
 *
 * No matrix stops a run: each ends in one of enum ending, with a reason when it is not the method that was asked for.
 */
#ifndef QUANT_CALIBRATED_H
#define QUANT_CALIBRATED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/factor.h"
#include "quant/ldlq.h"
#include "quant/loss.h"

#define GPTQ_DAMP 0.01

enum ending {
    ENDING_PLAIN,    /* absmax or search, as asked */
    ENDING_FEEDBACK, /* ldlq or gptq, as asked */
    ENDING_DIAGONAL, /* search with the inputs' variances as weights: the factor failed, or nothing else is known */
    ENDING_SEARCH,   /* search with weights 1: there are no moments to go by */
    ENDING_COUNT
};

enum reason {
    REASON_ASKED,
    REASON_NO_TOKENS,  /* and no prior */
    REASON_SILENT,     /* every input was 0 */
    REASON_NOT_FINITE, /* an input was NaN or infinite, or its square too large */
    REASON_PIVOT,      /* no damping made the factor exist */
    REASON_VARIANCES,  /* statistics have no more of the moments than their diagonal */
    REASON_PRIOR,      /* no tokens, and a prior's variances */
    REASON_COUNT
};

struct calibrated_options {
    enum method method; /* ABSMAX, SEARCH, GPTQ or LDLQ */
    struct shrink_options shrink;
    uint64_t check_rows; /* rows per matrix whose loss is measured (quant/loss.h); 0: all */
};
/* What recipes mean by a method: mu and pseudo tokens of quant/shrink.h, 32 rows checked. */
struct calibrated_options calibrated_defaults(enum method method);

/* An input. Borrows the moments and the memory. */
struct calibrated {
    const struct kernel *kernel;
    struct calibrated_options options;
    enum ending ending;
    enum reason reason;
    bool has_moments; /* shrunk is good: losses can be measured */
    struct shrunk shrunk;
    struct factor factor; /* ENDING_FEEDBACK only */
};

/* What became of one matrix. */
struct rounded {
    enum ending ending;
    enum reason reason;
    struct weight_error weights; /* |W - Q|^2 and |W|^2 */
    struct loss loss;            /* measured on check_rows rows; rows 0 without moments */
    double running;              /* ENDING_FEEDBACK: the solve's own account of the same rows; it agrees within 1e-3 */
    double running_all;          /* and of all rows */
};

size_t calibrated_bytes(size_t cols);         /* 2 cols^2 and a little */
size_t calibrated_scratch_bytes(size_t cols); /* 2 KB for each column */
/* Never fails. own: closed, with spread; NULL for none. prior: moments of all the layer's tokens, or NULL. memory and
 * scratch: MEM_ALIGN aligned; memory and moments in use until the last calibrated_round. */
void calibrated_make(struct calibrated *c, const struct kernel *k, const struct calibrated_options *o,
                     const struct moments *own, const struct moments *prior, unsigned threads, void *memory,
                     void *scratch);
/* Whether matrices can be rounded so: ERR_UNSUPPORTED with the reason. */
bool calibrated_check(enum method method, const struct scheme *from, const struct scheme *to, struct err *e) CHECKED;

size_t calibrated_round_scratch_bytes(const struct loss_matrix *m);
/* A whole matrix of as many columns as the input, through the calling thread; to.method is ignored, to.positive_scales
 * is not. Any number of threads on different matrices of one input. Refused: weights that are not finite, as by
 * transform_run. */
bool calibrated_round(const struct calibrated *c, const struct loss_matrix *m, void *scratch, struct rounded *r,
                      struct err *e) CHECKED;

const char *ending_name(enum ending ending);
const char *reason_text(enum reason reason); /* "as asked", "no tokens reached it", ... */
/* One line about an input: "ldlq", "ldlq, damping raised 2 times to 0.02 (pivot 3e-07 at column 12)",
 * "search, no tokens reached it". Returns text. */
#define CALIBRATED_TEXT 160
const char *calibrated_text(const struct calibrated *c, char text[CALIBRATED_TEXT]);

#endif
