/* Name -> number, for tables of a hundred thousand tensors. Keys are borrowed.
 * Zero is an empty map. */
#ifndef FORMATS_BASE_MAP_H
#define FORMATS_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAP_NONE SIZE_MAX

struct map {
    struct map_slot *slots;
    size_t room, count;
};
bool map_put(struct map *m, const char *key, size_t value); /* false: the key is there already (unchanged) */
size_t map_get(const struct map *m, const char *key);       /* MAP_NONE: not there */
size_t map_get_n(const struct map *m, const char *key, size_t key_bytes);
void map_release(struct map *m);

#endif
