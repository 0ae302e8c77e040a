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
/* In the stage while files move up: the old bundle is gone already, and DST's content is ours. */
#define STAGE_PUBLISHING "publishing"

struct stage {
    struct arena arena;
    const char *dst; /* the final folder */
    const char *dir; /* the folder to write into */
    bool made_dst;   /* DST was not there before */
    bool open;
    int lock_fd_plus_1; /* on DST: two runs into one folder would eat each other's stage */
};

/* Refused: DST = source, a DST with anything in it unless `force` or an unfinished run is in it, a DST that is no
 * folder, a DST that another run is writing. Makes both folders. What an earlier run left in the stage stays, unless
 * `restart`: the journal says what it is worth. */
bool stage_open(struct stage *s, const char *dst, const char *source_dir, bool force, bool restart,
                struct err *e) CHECKED;
/* Removes what is in the stage. */
bool stage_clear(struct stage *s, struct err *e) CHECKED;
/* Checks only what stage_open would refuse before it makes anything. */
bool stage_check(const char *dst, const char *source_dir, bool force, struct err *e) CHECKED;
char *stage_path(struct stage *s, const char *name); /* of a file in the stage; in its arena */
/* Moves everything up and removes the stage. With force, the shards that an older bundle's index names and that
 * the new one does not replace are removed first. */
bool stage_publish(struct stage *s, struct err *e) CHECKED;
/* Not published: removes the stage (and DST, if stage_open made it), unless `keep`. */
void stage_release(struct stage *s, bool keep);

#endif
