/* The disk a run needs: known from the plan, held against what is free before
 * the first byte is written. */
#ifndef CONVERT_SPACE_H
#define CONVERT_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/plan.h"
#include "formats/base/err.h"

/* Bytes of shards that the outputs on output o's file system take at the worst moment beyond what is taken now.
 * delete_source: source shards on the same file system make room as they go. */
uint64_t space_peak(const struct plan *p, size_t o, bool delete_source);
/* ERR_IO with both numbers when a file system has too little. What an unfinished run has reserved counts as room. */
bool space_check(const struct plan *p, bool delete_source, struct err *e) CHECKED;

#endif
