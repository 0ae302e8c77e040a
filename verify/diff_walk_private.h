/* Inside the walk: diff_walk.c goes through the layers, diff_floor.c runs the noise floors beside it, diff_outputs.c
 * goes through the logits. */
#ifndef VERIFY_DIFF_WALK_PRIVATE_H
#define VERIFY_DIFF_WALK_PRIVATE_H

#include "verify/diff_side.h"
#include "verify/diff_walk.h"
#include "verify/layer_same.h"
#include "verify/state_rows.h"

/* The reference once more, computed otherwise, on the first tokens. */
struct walk_floor {
    bool wanted;
    struct diff_side side;
    struct position *positions;
    double overlap_sum; /* over MoE layers */
    bool same_state;    /* what enters the layer is what enters the reference's, to the bit */
};

struct walk_candidate {
    struct diff_side side;
    const struct expert_numbers *numbers; /* NULL: the reference's; choices are translated into those */
    struct stream local;                  /* the reference's state through this one's layer */
    uint32_t *local_chosen;
    struct position *positions;
    float *sums[2];                   /* with a golden file: projections, and those of the layer below */
    uint64_t *loads;                  /* [load_count][experts] */
    bool same_state;                  /* so far not one bit differs from the reference's */
    struct layer_same same;           /* what this layer's weights have in common with the reference's */
    struct outputs_same same_outputs; /* the state of the last layer too, and so what is made of it */
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
    struct stream floor_local;  /* of the BF16 side: the reference's state through its layer */
    struct state_error *errors; /* [tokens] */
    size_t *starts;             /* [contexts + 1] */
    struct progress *progress;
};

static inline bool walk_has_ref(const struct walk *w)
{
    return w->job->ref != NULL;
}

/* The noise floors: what is wanted and of which tokens; then step by step with the walk, each step after the
 * reference's and, in a layer, after the candidates'. Without a reference, or tokens for them, nothing is done. */
void floors_init(struct walk *w);
bool floors_open(struct walk *w, const struct forward_options *o, struct err *e) CHECKED;
bool floors_begin(struct walk *w, struct err *e) CHECKED; /* after side_begin of both */
bool floors_embed(struct walk *w, struct err *e) CHECKED;
bool floors_layer(struct walk *w, uint64_t layer, struct err *e) CHECKED; /* fills the candidates' local_floor */
void floors_sum(struct walk *w);
void floors_close(struct walk *w);

/* After the last layer: fills all positions, and the record's rows. */
bool walk_logits(struct walk *w, struct err *e) CHECKED;
/* After the logits: what share of its MTP layer's drafts each side's main head confirms. */
bool walk_mtp(struct walk *w, struct err *e) CHECKED;
/* Tokens whose logits are in memory together, for `rows` sides. */
size_t walk_chunk_tokens(const struct walk *w, size_t rows, size_t vocab);

#endif
