/* Multi-token prediction: the layer behind the main ones, which from the hidden
 * state of token t, after the final norm, and from token t + 1 predicts token
 * t + 2. */
#ifndef VERIFY_MTP_H
#define VERIFY_MTP_H

#include "verify/forward.h"

/* The tokens that have a successor in their context; ids are the successors. Zero holds nothing. */
struct mtp_batch {
    struct batch batch;
    uint32_t *ids;
    struct sequence *sequences;
    size_t *from; /* [sequence_count]: where the sequence's first token is in the main batch */
};
void mtp_batch_init(struct mtp_batch *m, const struct batch *b);
void mtp_batch_release(struct mtp_batch *m);

/* Whether forward_mtp can run: the checkpoint has an MTP layer, and all that it needs. */
bool forward_has_mtp(const struct forward *f);
/* Whether there is an MTP layer to run. */
bool mtp_is_stored(const struct source *s);

/* The whole MTP pass: forward_begin is about m->batch afterwards. last: the main layers' output for the main batch. out
 * is opened, [m->batch.tokens][hidden], for forward_mtp_logits; the caller closes it. */
bool forward_mtp(struct forward *f, const struct mtp_batch *m, const struct stream *last, struct stream *out,
                 const struct observer *o, struct err *e) CHECKED;
bool forward_mtp_logits(struct forward *f, const struct stream *out, size_t first, size_t count, float *logits,
                        struct err *e) CHECKED;

/* Whether a draft would be taken: the MTP head's choice at t is what the main head chooses at t + 1. Largest logit,
 * the lower id of equals. */
bool mtp_draft_accepted(const float *draft, const float *next, size_t vocab);

#endif
