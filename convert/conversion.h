/* What `quern convert` and `quern quantize` share: open, plan, check room, then
 * print the plan or run it. */
#ifndef CONVERT_CONVERSION_H
#define CONVERT_CONVERSION_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/calibration.h"
#include "convert/recipe.h"
#include "convert/width_recipe.h"
#include "formats/base/err.h"
#include "formats/base/opt.h"

#define CONVERSION_SHARD_BYTES     5000000000u /* the size the hub's own tools use */
#define CONVERSION_SHARD_BYTES_MIN 4096u

struct conversion {
    uint64_t threads, memory_bytes, shard_bytes;
    bool force, restart, dry_run, json, quiet, verbose, keep_shards, hash_source, delete_source, allow_unfused,
        keep_unknown, no_fingerprint, no_proof;
    const char *base_model;
    const char *doing;                  /* for the progress line; NULL: "converting" */
    struct opt_list also;               /* "RECIPE:DIR" */
    struct calibration *calibration;    /* what calibrated recipes are fed with; NULL: they are refused */
    const char *statistics;             /* a file in place of a text, for all outputs; NULL: none */
    const struct width_options *widths; /* chosen for the first output's recipe; NULL: it is as it is */
};

/* Rows of the option table; v is a static struct conversion. */
#define CONVERSION_OPTS(v)                                                                                              \
    {"shard-size",                                                                                                      \
     0,                                                                                                                 \
     OPT_SIZE,                                                                                                          \
     &(v).shard_bytes,                                                                                                  \
     "SIZE",                                                                                                            \
     "begin a new shard past this size (default 5GB)",                                                                  \
     CONVERSION_SHARD_BYTES_MIN,                                                                                        \
     UINT64_MAX},                                                                                                       \
        {"keep-shards", 0, OPT_FLAG, &(v).keep_shards, NULL, "keep the source's shards and their names", 0, 0},         \
        {"also", 0, OPT_LIST, &(v).also, "RECIPE:DIR", "write another output from the same reading; repeatable", 0, 0}, \
        {"threads", 't', OPT_U64, &(v).threads, "N", "worker threads (default: one per CPU)", 1, 1024},                 \
        {"memory",  'm', OPT_SIZE, &(v).memory_bytes, "SIZE", "budget for buffers and tables (default: what helps)", 1, \
         UINT64_MAX},                                                                                                   \
        {"force", 'f', OPT_FLAG, &(v).force, NULL, "replace what is in DST", 0, 0},                                     \
        {"hash-source", 0, OPT_FLAG, &(v).hash_source, NULL, "record the SHA-256 of every source shard", 0, 0},         \
        {"delete-source",                                                                                               \
         0,                                                                                                             \
         OPT_FLAG,                                                                                                      \
         &(v).delete_source,                                                                                            \
         NULL,                                                                                                          \
         "remove a source shard once all made from it is on disk; asks",                                                \
         0,                                                                                                             \
         0},                                                                                                            \
        {"restart", 0, OPT_FLAG, &(v).restart, NULL, "discard an unfinished run in DST instead of going on with it",    \
         0,         0},                                                                                                 \
        {"dry-run", 'n', OPT_FLAG, &(v).dry_run, NULL, "print the plan and write nothing", 0, 0},                       \
        {"json", 0, OPT_FLAG, &(v).json, NULL, "print the plan or the result as JSON", 0, 0},                           \
        {"allow-unfused", 0, OPT_FLAG, &(v).allow_unfused, NULL, "accept schemes that split what engines fuse", 0, 0},  \
        {"keep-unknown", 0, OPT_FLAG, &(v).keep_unknown, NULL, "copy tensors of unknown role as they are", 0, 0},       \
        {"no-fingerprint",                                                                                              \
         0,                                                                                                             \
         OPT_FLAG,                                                                                                      \
         &(v).no_fingerprint,                                                                                           \
         NULL,                                                                                                          \
         "do not run the bundle before it is published",                                                                \
         0,                                                                                                             \
         0},                                                                                                            \
        {"base-model", 0, OPT_STRING, &(v).base_model, "ID", "name of the source model for the model card", 0, 0},      \
        {"quiet", 'q', OPT_FLAG, &(v).quiet, NULL, "no progress and no notes", 0, 0},                                   \
    {                                                                                                                   \
        "verbose", 'v', OPT_FLAG, &(v).verbose, NULL, "say more", 0, 0                                                  \
    }

struct plan;
struct checkpoint;
/* Refuses one part of several, which would give a bundle that looks like a whole model. */
bool conversion_check_whole(const struct checkpoint *c, struct err *e) CHECKED;
/* What follows once there is a plan: config and room looked at, then printed (dry_run) or run and published. */
bool conversion_go(const struct conversion *c, struct plan *p, struct err *e) CHECKED;

typedef bool recipe_source(struct recipe *r, const char *name, struct err *e);

/* Returns the exit status; errors in e. recipe is borrowed. find makes the recipes of --also from their names. */
int conversion_run(const struct conversion *c, const char *src, const char *dst, const struct recipe *recipe,
                   recipe_source *find, struct err *e);

#endif
