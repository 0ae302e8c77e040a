/* The folder in which a bundle comes to be: DST/.quern-partial. Nothing stands
 * under a final name in DST until everything is whole and durable; then the
 * files move up, config.json and the index last, so that an engine that looks
 * too early finds no model rather than half of one. On the same file system,
 * also when DST is a mount point. */
#ifndef CONVERT_STAGE_H
#define CONVERT_STAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

#define STAGE_FOLDER ".quern-partial"
/* In the stage while files move up: DST's content is this run's from here on. It names what goes and what comes, so
 * that a run that goes on after a kill removes neither more nor less. */
#define STAGE_PUBLISHING ".publishing"
/* What the stage is called once everything is in place: one rename, and nobody takes it for an unfinished run. */
#define STAGE_PUBLISHED ".quern-published"

struct stage {
    struct arena arena;
    const char *dst; /* the final folder */
    const char *dir; /* the folder to write into */
    bool made_dst;   /* DST was not there before */
    bool open;
    bool publishing;    /* files have begun to move up, in this run or the one before */
    int lock_fd_plus_1; /* on DST: two runs into one folder would eat each other's stage */
};

/* Refused: DST = source, a DST with anything in it unless `force` or a run that was killed while its files moved up is
 * in it, a DST that is no folder, a DST that another run is writing. Makes both folders. What an earlier run left in
 * the stage stays, unless `restart`: the journal says what it is worth. */
bool stage_open(struct stage *s, const char *dst, const char *source_dir, bool force, bool restart,
                struct err *e) CHECKED;
/* Removes from the stage what does not belong there by the caller's word. */
typedef bool stage_belongs(void *ctx, const char *name);
bool stage_prune(struct stage *s, stage_belongs *belongs, void *ctx, struct err *e) CHECKED;
/* Checks only what stage_open would refuse before it makes anything. */
bool stage_check(const char *dst, const char *source_dir, bool force, struct err *e) CHECKED;
bool stage_is_publishing(const char *dst);
/* Removes what a finished run leaves, or had no time to remove. */
void stage_tidy(const char *dst);
/* Room that an unfinished run's files in DST take already. */
uint64_t stage_held_bytes(const char *dst);
char *stage_path(struct stage *s, const char *name); /* of a file in the stage; in its arena */
/* Moves everything up but the journal; the stage stays. The shards that an older bundle's index names, and that the
 * new one does not replace, are removed first. */
bool stage_publish(struct stage *s, struct err *e) CHECKED;
/* Published: the stage is no unfinished run's any more, by one rename. stage_tidy removes it, when nothing more is to
 * be done that a repeated run would have to know of. */
bool stage_finish(struct stage *s, struct err *e) CHECKED;
/* Not finished: removes the stage (and DST, if stage_open made it), unless `keep`. */
void stage_release(struct stage *s, bool keep);

#endif
