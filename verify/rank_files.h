/* The files that DeepSeek's own inference code loads, one for each rank: modelR-mpN.safetensors, with its names and its
 * splits (github.com/deepseek-ai/DeepSeek-V3, inference/convert.py and model.py). No index names them, and together
 * they are no checkpoint: what every rank has is in each of them, what is split is whole in none. */
#ifndef VERIFY_RANK_FILES_H
#define VERIFY_RANK_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "verify/finding.h"

struct rank_files {
    uint64_t ranks, found; /* as the names of the files say; 0 ranks: there are none, or a checkpoint beside them */
    uint64_t tensors;      /* in all files that could be read */
};
#define RANKS_MAX 1024u

/* Whether the folder holds such files and no checkpoint. */
bool rank_files_find(struct rank_files *r, const char *dir, struct err *e) CHECKED;
/* After a find: every rank's file is there, and holds what model.py makes of config.json for it, by name and shape, a
 * scale with all codes. What does not becomes a finding. Reads headers alone. */
bool rank_files_check(struct rank_files *r, const char *dir, struct findings *findings, struct err *e) CHECKED;

#endif
