/* Shared by stage.c and stage_publish.c. */
#ifndef CONVERT_STAGE_PRIVATE_H
#define CONVERT_STAGE_PRIVATE_H

#include "convert/stage.h"
#include "formats/base/err.h"

/* A run was killed while its files moved up, and is not to be gone on with: what had moved is removed from DST. */
bool stage_take_back(struct stage *s, struct err *e) CHECKED;

#endif
