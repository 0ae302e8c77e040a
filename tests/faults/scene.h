/* One run of quern on a disk that misbehaves: a scene has a source, two
 * destinations, a command line, and what an undisturbed run makes of it. */
#ifndef TESTS_FAULTS_SCENE_H
#define TESTS_FAULTS_SCENE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "formats/base/mem.h"

#define SCENE_ARGS_MAX 16

/* In args, $A and $B are the destinations, $S is the source. */
struct command_line {
    const char *name;
    const char *args[SCENE_ARGS_MAX];
    bool over_old; /* $A holds an older bundle, with other shards */
    bool deletes;  /* --delete-source: on a copy, confirmed */
    bool one_file; /* $A is a folder that is there, and the output the file $A/stats */
};

struct world {
    struct arena arena;
    const char *quern, *shim, *sample;        /* absolute */
    const char *root, *a, *b, *source, *said; /* said: what the last run wrote to stderr */
    bool source_whole;                        /* as copied from the sample */
    const char *gate;                         /* while this file is there, a fault `hold` waits */
};

void world_open(struct world *w, const char *quern, const char *shim, const char *sample);
void world_close(struct world *w);

/* Empties the destinations and, if the command wants it, lays out the old bundle or a fresh copy of the source. */
void scene_prepare(struct world *w, const struct command_line *c);
/* Runs it. fault: QUERN_FAULT, or NULL; threads 0: as many as CPUs; more: one argument to add, or NULL. Returns
 * waitpid's status. */
int scene_run(struct world *w, const struct command_line *c, unsigned threads, const char *fault, const char *more);
pid_t scene_start(struct world *w, const struct command_line *c, unsigned threads, const char *fault, const char *more,
                  const char *said);
int scene_wait(pid_t pid);
/* Number of calls ("any", "pwrite") that an undisturbed run makes on the destinations and the source. */
long scene_count(struct world *w, const struct command_line *c, const char *call);
/* What the destinations hold: a line for each file, path and SHA-256. In the world's arena. */
const char *scene_look(struct world *w);
const char *scene_said(struct world *w);
/* A destination that may not be used holds nothing but a stage, or what an unfinished file has beside it. NULL, or what
 * is wrong. */
const char *scene_untouched(struct world *w, const struct command_line *c);

#endif
