/* How well the calibration text covered a model: what each routed expert saw, and how each calibrated weight ended. */
#ifndef CONVERT_COVERAGE_H
#define CONVERT_COVERAGE_H

#include <stddef.h>
#include <stdint.h>

#include "convert/plan.h"
#include "convert/run.h"
#include "formats/base/mem.h"
#include "formats/json.h"

/* A layer's calibrated weights together. */
struct coverage_layer {
    uint64_t layer;
    size_t experts;                                 /* with calibrated weights */
    uint64_t tokens_min, tokens_median, tokens_max; /* over them */
    size_t unvisited, starved;                      /* no tokens; fewer than min_tokens */
    double to_prior, to_diagonal;                   /* mean shrinkage of the experts' gate and up */
    size_t weights, other_endings;                  /* calibrated; of these, not by the method that was asked for */
    bool weighed;                                   /* some by a search with or without weights */
    /* Output error over output energy: of all linears but down_proj, and of those; negative: no moments were taken. */
    double loss_wide, loss_down;
};

/* A super expert: what leaves its down_proj is massive. There are few, and a model that loses one is ruined. Engines
 * run all experts of a layer by the scheme of the first, so that only a rule for the whole layer keeps one wider.
 *
 * The published test, of all experts' largest outputs over the calibration text: above their 99.5 % quantile, and above
 * a tenth of the largest. Those two alone find half a hundredth of any model's experts; so here an output must also be
 * SUPER_OVER_MEDIAN times that of the median expert. */
#define SUPER_QUANTILE    0.995
#define SUPER_OF_LARGEST  0.1
#define SUPER_OVER_MEDIAN 10.0

struct super_expert {
    uint64_t layer, expert;
    float output_most;
};

struct coverage {
    struct coverage_layer *layers; /* that have calibrated weights, ascending; in the arena */
    size_t layer_count;
    struct super_expert *supers; /* by layer, then expert; in the arena */
    size_t super_count;
    float median_most; /* of all experts' largest outputs */
    bool any_moments;  /* else nothing is shrunk, and no error known */
    bool any_weighed;  /* some went by variances, or would have */
    size_t starved, unvisited, other_endings;
    uint64_t min_tokens;
};

void coverage_make(struct coverage *c, struct arena *a, const struct plan *p, const struct plan_output *o,
                   const struct run_result *result);
void coverage_print(const struct coverage *c, struct buf *out);    /* text, a line a layer */
void coverage_markdown(const struct coverage *c, struct buf *out); /* for the model card */
/* Members "coverage", every calibrated weight's tokens, ending and error, and "super_experts". */
void coverage_json(const struct coverage *c, struct json_writer *w, const struct plan *p, const struct plan_output *o,
                   const struct run_result *result);

/* Finds the super experts among `all`, which has count entries, by layer, then expert; those that no token reached have
 * 0, and do not count. supers has room for all. */
size_t coverage_supers(const struct super_expert *all, size_t count, struct super_expert *supers, float *median);

#endif
