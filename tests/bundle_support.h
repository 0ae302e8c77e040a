/* A bundle to spoil: copies of a good one, and the ways to spoil them. A failure fails the test. */
#ifndef TESTS_BUNDLE_SUPPORT_H
#define TESTS_BUNDLE_SUPPORT_H

#include <stddef.h>
#include <stdint.h>

#include "formats/manifest.h"

/* Every file of a folder in a new one, as a link: what follows puts new files in their places. */
void bundle_copy(const char *from, const char *to);
/* Puts what is in the folder now, sizes and hashes, into its quern.json: as one who hides a change would. */
void bundle_rehash(const char *dir);
/* Reads quern.json, hands it to `edit`, and writes it again. */
void bundle_edit_manifest(const char *dir, void (*edit)(struct manifest *m, struct arena *a));

/* The first `from` in a file becomes `to`, of any length. */
void bundle_replace(const char *dir, const char *file, const char *from, const char *to);
void bundle_remove(const char *dir, const char *file);
/* Cuts bytes off the end. */
void bundle_truncate(const char *dir, const char *file, uint64_t cut);
/* Name of the shard that holds a tensor; in the arena. */
const char *bundle_shard_of(struct arena *a, const char *dir, const char *tensor);
/* Writes over a tensor's bytes. */
void bundle_poke(const char *dir, const char *tensor, uint64_t offset, const void *data, size_t bytes);
void bundle_peek(const char *dir, const char *tensor, uint64_t offset, void *data, size_t bytes);
/* In the header of its shard, behind the tensor's name, the first `from` becomes `to`; the padding makes up for it. */
void bundle_edit_header(const char *dir, const char *tensor, const char *from, const char *to);

#endif
