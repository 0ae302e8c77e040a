#include "formats/base/map.h"

#include <assert.h>
#include <string.h>

#include "formats/base/hash.h"
#include "formats/base/mem.h"

/* Open addressing, a power of two of slots, at most three quarters full. */
struct map_slot {
    const char *key; /* NULL: free */
    size_t key_bytes, value;
    uint64_t hash;
};

static struct map_slot *slot_find(const struct map *m, const char *key, size_t key_bytes, uint64_t hash)
{
    for (size_t i = (size_t)hash & (m->room - 1);; i = (i + 1) & (m->room - 1)) {
        struct map_slot *s = &m->slots[i];

        if (!s->key)
            return s;
        if (s->hash == hash && s->key_bytes == key_bytes && !memcmp(s->key, key, key_bytes))
            return s;
    }
}

static void map_grow(struct map *m)
{
    struct map old = *m;

    m->room = old.room ? old.room * 2 : 16;
    assert(m->room <= SIZE_MAX / sizeof *m->slots);
    m->slots = mem_alloc(m->room * sizeof *m->slots);
    for (size_t i = 0; i < old.room; i++) {
        const struct map_slot *s = &old.slots[i];

        if (s->key)
            *slot_find(m, s->key, s->key_bytes, s->hash) = *s;
    }
    mem_free(old.slots);
}

bool map_put(struct map *m, const char *key, size_t value)
{
    size_t key_bytes = strlen(key);
    uint64_t hash = hash_key(key, key_bytes);

    assert(value != MAP_NONE);
    if (m->count >= m->room / 4 * 3)
        map_grow(m);
    struct map_slot *s = slot_find(m, key, key_bytes, hash);
    if (s->key)
        return false;
    *s = (struct map_slot){.key = key, .key_bytes = key_bytes, .value = value, .hash = hash};
    m->count++;
    return true;
}

size_t map_get(const struct map *m, const char *key)
{
    return map_get_n(m, key, strlen(key));
}

size_t map_get_n(const struct map *m, const char *key, size_t key_bytes)
{
    if (!m->count)
        return MAP_NONE;
    const struct map_slot *s = slot_find(m, key, key_bytes, hash_key(key, key_bytes));
    return s->key ? s->value : MAP_NONE;
}

void map_release(struct map *m)
{
    mem_free(m->slots);
    *m = (struct map){0};
}
