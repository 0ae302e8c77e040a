/* A conversion from end to end, without the command line: open, plan, run,
 * publish. */
#ifndef TESTS_CONVERT_SUPPORT_H
#define TESTS_CONVERT_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/plan.h"
#include "formats/base/err.h"

struct conversion_case {
    const char *recipe;          /* what `convert --to` takes, or rules: "[{...}]" */
    struct plan_options options; /* targets are filled in; shard_bytes 0: 5 GB; unfused is allowed */
    unsigned threads;
    uint64_t memory_bytes;
    bool force;
    bool fingerprint;
    const char *ids; /* calibrated recipes: a file of token ids, in contexts of 32 */
};

/* The recipe of a case. */
bool support_recipe(struct recipe *r, const char *recipe, struct err *e) CHECKED;
/* A source with its plan; close both parts with planned_close, also after a failure. */
struct planned {
    struct recipe recipe;
    struct source source;
    struct plan plan;
    struct plan_target target;
};
bool planned_open(struct planned *p, const char *src, const char *dst, const struct conversion_case *c,
                  struct err *e) CHECKED;
void planned_close(struct planned *p);
/* Plans and writes dst. */
bool support_convert(const char *src, const char *dst, const struct conversion_case *c, struct err *e) CHECKED;

/* A file of 64 token ids, 3 to 66; its path, in the arena. */
const char *support_ids(struct arena *a, const char *dir);

/* Runs an open plan of one output and publishes it. */
bool support_run(struct plan *p, const char *dst, unsigned threads, uint64_t memory_bytes, struct err *e) CHECKED;

/* SHA-256 of a file, of a tensor's bytes, and of all files of a folder, names included. A failure fails the test. */
void support_file_hash(const char *dir, const char *name, char hex[65]);
void support_tensor_hash(const struct checkpoint *c, const struct tensor *t, char hex[65]);
void support_dir_hash(const char *dir, char hex[65]);

#endif
