/* What `quern diff` found, complete: filled by the walk (verify/diff_walk.c), printed by the writers. No writer
 * computes; what is not known is NaN, and each writer leaves it out or says so. */
#ifndef VERIFY_DIFF_REPORT_H
#define VERIFY_DIFF_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/mem.h"
#include "verify/metrics.h"

#define DIFF_CANDIDATES_MAX 2u

struct diff_layer {
    uint64_t layer;
    bool moe;
    double local_error; /* the reference's state through the candidate's layer, relative to what the layer adds */
    double local_floor; /* the same of the reference in BF16 */
    double cumulative_error, cosine; /* free-running state against the reference's, relative to the state */
    double added_error; /* from a golden file, which has no local error: the root of the growth of the square */
    double peer_median; /* of the error that outliers are found by: local or added */
    bool stands_out;
    /* MoE layers of a full comparison; free-running, but for the last */
    double overlap, jaccard, sets_changed; /* shares */
    double sets_changed_local;             /* on the reference's states: what this layer alone changes */
};

/* Tokens that went to each routed expert. */
struct diff_load {
    uint64_t layer;
    const uint64_t *ref, *cand; /* [experts]; ref NULL: from a golden file */
};

struct diff_candidate {
    const char *path;
    struct outputs outputs;
    struct diff_layer *layers;                    /* the report's layer_count */
    size_t first_outlier;                         /* index into layers, or NO_LAYER */
    double routing_overlap, routing_sets_changed; /* means over the MoE layers */
    struct diff_load *loads;                      /* MoE layers, the report's load_count */
    double mtp_acceptance;                        /* drafts of the MTP layer that its own main head confirms */
    /* Weights that must never change (norms, router, correction bias), and shapes. */
    bool weights_known;
    uint64_t weights_compared, weights_unexpected;
    const char **unexpected; /* "name: why", the first DIFF_UNEXPECTED_MAX */
    size_t unexpected_count;
};
#define DIFF_UNEXPECTED_MAX 20u

/* The reference against itself, computed otherwise: what no candidate can be blamed for. */
struct diff_floor {
    bool known;
    const char *what; /* "BF16 activations" */
    uint64_t positions;
    double kl, top1, log_ratio, routing_overlap; /* means; log_ratio: |mean| + 1.96 SE of the floor's own ratio */
};

enum diff_metric { METRIC_KL, METRIC_TOP1, METRIC_PPL_RATIO, METRIC_ROUTING, METRIC_COUNT };

/* One threshold of the command line, held against one candidate. */
struct diff_check {
    enum diff_metric metric;
    const char *option;    /* "--max-kl" */
    const char *what;      /* "mean KL", "mean KL (lower bound)" */
    const char *candidate; /* its path */
    const char *asked;     /* "5floor", "0.02": as given */
    double value, limit;   /* what was seen; what it was held against */
    bool at_most;          /* else at least */
    bool ok;
};

struct diff_report {
    struct arena arena; /* holds all that is pointed to */
    const char *version;
    const char *ref;                           /* path of the checkpoint, or of the golden file */
    bool golden;                               /* ref is a golden file */
    const char *model;                         /* "deepseek_v3, 4 layers, hidden 256, vocabulary 4,096" */
    const char *text;                          /* where the tokens are from: a path, or "built-in texts" */
    const char *emulate;                       /* as forward_numbers says it */
    uint64_t tokens, contexts, context_tokens; /* context_tokens: of the longest */
    uint64_t layer_count, load_count, experts, top_k;
    struct diff_candidate candidates[DIFF_CANDIDATES_MAX];
    size_t candidate_count;
    double ref_mtp_acceptance;
    struct diff_floor bf16, order;
    bool has_paired;
    struct paired paired; /* candidates[0] minus candidates[1] */
    struct diff_check *checks;
    size_t check_count;
    bool agree; /* every check holds */
    const char **notes;
    size_t note_count;
};
void diff_report_note(struct diff_report *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
void diff_report_release(struct diff_report *r);

/* ---- writers, into a buffer ---- */
void diff_print_text(const struct diff_report *r, struct buf *out);
void diff_print_json(const struct diff_report *r, struct buf *out);
void diff_print_junit(const struct diff_report *r, struct buf *out);
/* Instead, when there was no comparison: one test case with the error. Of the report only the paths are looked at. */
void diff_print_junit_error(const struct diff_report *r, const char *message, struct buf *out);
/* What both begin with. */
#define DIFF_JUNIT_HEAD "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"quern diff\" "
void diff_print_markdown(const struct diff_report *r, struct buf *out);
void diff_print_html(const struct diff_report *r, struct buf *out);

#endif
