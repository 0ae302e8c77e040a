/* Routing statistics of a model over a batch: a forward pass that keeps nothing
 * but which experts were chosen. */
#ifndef VERIFY_ROUTING_WALK_H
#define VERIFY_ROUTING_WALK_H

#include "formats/routing_stats.h"
#include "verify/forward.h"

/* All main layers, and the MTP layer when the source has it. s is opened; release it also after a failure. */
bool routing_walk(struct routing_stats *s, const struct source *source, const struct batch *batch,
                  const struct forward_options *o, bool with_trace, struct err *e) CHECKED;

#endif
