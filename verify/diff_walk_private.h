/* Inside the walk: diff_walk.c goes through the layers, diff_outputs.c through the logits. */
#ifndef VERIFY_DIFF_WALK_PRIVATE_H
#define VERIFY_DIFF_WALK_PRIVATE_H

#include "verify/diff_side.h"
#include "verify/diff_walk.h"
#include "verify/state_rows.h"

/* The reference once more, computed otherwise, on the first tokens. */
struct walk_floor {
    bool wanted;
    struct diff_side side;
    struct position *positions;
    double overlap_sum; /* over MoE layers */
};

struct walk_candidate {
    struct diff_side side;
    const struct expert_numbers *numbers; /* NULL: the reference's; choices are translated into those */
    struct stream local;                  /* the reference's state through this one's layer */
    uint32_t *local_chosen;
    struct position *positions;
    float *sums[2];  /* with a golden file: projections, and those of the layer below */
    uint64_t *loads; /* [load_count][experts] */
    bool same_state; /* so far not one element differs from the reference's */
};

struct walk {
    const struct diff_job *job;
    struct diff_report *report;
    const struct arch *arch; /* of the reference, or of the first candidate */
    unsigned threads;
    size_t tokens, floor_tokens;
    struct diff_side ref;
    uint64_t *ref_loads;
    struct walk_candidate candidates[DIFF_CANDIDATES_MAX];
    struct sequence *floor_sequences;
    struct batch floor_batch;
    struct walk_floor bf16, order;
    struct stream floor_in, floor_out, floor_local; /* of the BF16 side: the reference's state, before and after */
    struct state_error *errors;                     /* [tokens] */
    size_t *starts;                                 /* [contexts + 1] */
    struct progress *progress;
};

static inline bool walk_has_ref(const struct walk *w)
{
    return w->job->ref != NULL;
}

/* After the last layer: fills all positions, and the record's rows. */
bool walk_logits(struct walk *w, struct err *e) CHECKED;
/* After the logits: what share of its MTP layer's drafts each side's main head confirms. */
bool walk_mtp(struct walk *w, struct err *e) CHECKED;
/* Tokens whose logits are in memory together, for `rows` sides. */
size_t walk_chunk_tokens(const struct walk *w, size_t rows, size_t vocab);

#endif
