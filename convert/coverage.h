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
    double loss_wide, loss_down; /* output error over output energy: of all linears but down_proj, and of those */
};

struct coverage {
    struct coverage_layer *layers; /* that have calibrated weights, ascending; in the arena */
    size_t layer_count;
    size_t starved, unvisited, other_endings;
    uint64_t min_tokens;
};

/* min_tokens: an expert with fewer is starved. */
void coverage_make(struct coverage *c, struct arena *a, const struct plan *p, const struct plan_output *o,
                   const struct run_result *result, uint64_t min_tokens);
void coverage_print(const struct coverage *c, struct buf *out);    /* text, a line a layer */
void coverage_markdown(const struct coverage *c, struct buf *out); /* for the model card */
/* "coverage": every expert's tokens, routed weight and endings. */
void coverage_json(struct json_writer *w, const struct plan *p, const struct plan_output *o,
                   const struct run_result *result);

#endif
