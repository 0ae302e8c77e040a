/* The folder in which a bundle comes to be: DST/.quern-partial. Nothing stands
 * under a final name in DST until everything is whole and durable; then the
 * files move up, config.json and the index last, so that an engine that looks
 * too early finds no model rather than half of one. On the same file system,
 * also when DST is a mount point. */
#ifndef CONVERT_STAGE_H
#define CONVERT_STAGE_H

#include <stdbool.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

#define STAGE_FOLDER ".quern-partial"

struct stage {
    struct arena arena;
    const char *dst; /* the final folder */
    const char *dir; /* the folder to write into */
    bool made_dst;   /* DST was not there before */
    bool open;
};

/* Refused: DST = source, a DST with anything in it unless `force`, a DST that is no folder. Makes both folders;
 * what an earlier, failed run left in the stage is removed unless `resume`. */
bool stage_open(struct stage *s, const char *dst, const char *source_dir, bool force, bool resume, struct err *e) CHECKED;
/* Checks only what stage_open would refuse. */
bool stage_check(const char *dst, const char *source_dir, bool force, struct err *e) CHECKED;
char *stage_path(struct stage *s, const char *name); /* of a file in the stage; in its arena */
/* Moves everything up and removes the stage. With force, the shards that an older bundle's index names and that
 * the new one does not replace are removed first. */
bool stage_publish(struct stage *s, struct err *e) CHECKED;
/* Not published: removes the stage (and DST, if stage_open made it), unless `keep`. */
void stage_release(struct stage *s, bool keep);

#endif
