/* A repacking from end to end, without the command line. */
#ifndef TESTS_REPACK_SUPPORT_H
#define TESTS_REPACK_SUPPORT_H

#include "convert/repack_plan.h"
#include "tests/plan_support.h"

struct repack_case {
    struct repack_target target; /* dir, recipe, orders and placement are filled in; align and shard bytes 0: usual */
    struct expert_order_options order; /* stats are filled in */
    struct eplb_shape ep;              /* ranks 0: none; experts and groups are filled in */
    bool by_rank;
    unsigned threads;
    uint64_t memory_bytes;
};

struct repacked {
    struct arena arena;
    struct source source;
    struct routing_stats stats; /* made up: every expert has another load, and a trace */
    struct expert_orders orders;
    struct placement placement;
    struct recipe recipe;
    struct plan plan;
};

/* Opens the source and the plan; close it also after a failure. */
bool repacked_open(struct repacked *r, const char *src, const char *dst, const struct repack_case *c,
                   struct err *e) CHECKED;
void repacked_close(struct repacked *r);
/* And writes dst. */
bool support_repack(struct repacked *r, const char *src, const char *dst, const struct repack_case *c,
                    struct err *e) CHECKED;

/* Every storage that is read: the experts' parts move together. */
struct repack_storage {
    const char *name;
    const struct scheme *linear;
    bool odd, input_scale;
};
extern const struct repack_storage repack_storages[];
extern const size_t repack_storage_count;
/* A small model in that storage; its folder. */
const char *repack_model(size_t storage);

/* A tensor's bytes; mem_free them. */
void *support_read_tensor(const struct checkpoint *c, const struct tensor *t);
/* Every tensor of the source is there, with its type, shape and bytes, under the name it has now; and no other is. */
void repacked_expect_same(const struct repacked *r, const char *dst, bool renumber);

#endif
