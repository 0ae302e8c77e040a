/* What of a layer two forward passes have in common to the last byte of its weights. What one of them made there of an
 * input, the other would make of the same input to the last bit, and need not. */
#ifndef VERIFY_LAYER_SAME_H
#define VERIFY_LAYER_SAME_H

#include "verify/forward.h"

struct layer_same {
    bool attention; /* from what enters the layer to the residual stream behind attention */
    bool whole;     /* that, and from there to what leaves the layer */
};

/* Both opened with the same options but for memory, forward_begin done, and both have the layer. Reads the weights of
 * both that are of one size and scheme until two bytes differ: attention and the dense or shared MLP always, routed
 * experts only for so many tokens that reading them is little beside running them. What was not compared is not the
 * same; nor is anything in models that compute otherwise (rope, norms, routing) or round to other static scales. */
bool layer_same_find(struct layer_same *s, const struct forward *a, const struct forward *b, uint64_t layer,
                     struct err *e) CHECKED;

/* The same of what stands behind the last layer. */
struct outputs_same {
    bool logits; /* final norm and head */
    bool drafts; /* those, and the MTP layer with its norms, projection, embedding and head */
};
/* As layer_same_find. Reads where each of both has tokens enough for what it would run. */
bool outputs_same_find(struct outputs_same *s, const struct forward *a, const struct forward *b, struct err *e) CHECKED;

#endif
