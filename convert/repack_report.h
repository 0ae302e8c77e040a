/* What repacking says: where experts stand, what a token costs before and after,
 * how loads balance. Text for people, JSON for programs, and experts.json. */
#ifndef CONVERT_REPACK_REPORT_H
#define CONVERT_REPACK_REPORT_H

#include <stdbool.h>

#include "convert/expert_order.h"
#include "convert/placement.h"
#include "convert/plan.h"
#include "formats/routing_stats.h"
#include "verify/expert_map.h"

struct repack_facts {
    const struct plan *plan; /* one output */
    const struct expert_orders *orders;
    bool renumbered;
    const struct placement *placement; /* or NULL */
    const struct routing_stats *trace; /* to be replayed against both layouts, or NULL */
    uint64_t window_bytes, align;
};

/* Where the plan's output has each expert, by the source's numbers (or its own: new_numbers). */
void repack_map(struct expert_map *m, const struct repack_facts *f, bool new_numbers);
void repack_report_text(struct buf *out, const struct repack_facts *f);
void repack_report_json(struct buf *out, const struct repack_facts *f);
/* experts.json: quern-bundle(5). */
void repack_experts_json(struct buf *out, const struct repack_facts *f);

#endif
