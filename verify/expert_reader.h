/* A layer's experts, read ahead of those who use them: a thread reads one after
 * the other, ascending, into places that are there before the first. Who uses
 * them takes them in the same order, on any number of threads up to the number
 * of places, and gives each back. */
#ifndef VERIFY_EXPERT_READER_H
#define VERIFY_EXPERT_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/gemm.h"
#include "verify/layer_weights.h"

struct expert_reader; /* opaque */

/* room_bytes: of the largest expert (verify/expert_place.h). direct: past the page cache, where it does not have them.
 * NULL: the system has no thread to give. */
struct expert_reader *expert_reader_new(const struct source *s, size_t places, size_t room_bytes, bool direct);
void expert_reader_free(struct expert_reader *r); /* NULL is fine */
/* The memory of its places. */
uint64_t expert_reader_bytes(size_t places, size_t room_bytes);

/* Experts of this layer from now on; what is there of another is dropped. guess: most of them will be wanted, so it
 * reads before it is told which; else it waits. */
void expert_reader_begin(struct expert_reader *r, uint64_t layer, bool guess);
/* wanted: [experts], borrowed until the next begin or end. The others are dropped, and read no more. */
void expert_reader_choose(struct expert_reader *r, const bool *wanted);
/* Waits for a wanted one; each is taken once, and given back whether it could be read or not. out stays until then. */
bool expert_reader_take(struct expert_reader *r, uint64_t expert, struct coded out[MLP_PARTS], struct err *e) CHECKED;
void expert_reader_give(struct expert_reader *r, uint64_t expert); /* one that was not taken: nothing happens */
void expert_reader_end(struct expert_reader *r);

#endif
