/* Keys. Each open object knows its own: the first few are compared one by one,
 * and an object with more gets a hash table, so that the header of a shard
 * costs nothing per tensor object and an index of 92,000 names stays linear. */
#include <stdio.h>
#include <string.h>

#include "formats/base/hash.h"
#include "formats/json_scan_private.h"

/* Tensor objects have three keys, tables of weights thousands. */
#define KEYS_COMPARED_ONE_BY_ONE 16u

const char *json_scan_key_text(const struct scan *s, const struct key *k)
{
    return (k->escaped ? s->unescaped.data : s->text) + k->at;
}

static bool keys_equal(const struct scan *s, const struct key *a, const struct key *b)
{
    return a->hash == b->hash && a->bytes == b->bytes &&
           !memcmp(json_scan_key_text(s, a), json_scan_key_text(s, b), a->bytes);
}

/* The slot that holds an equal key, or the free one where it belongs. */
static size_t *find_slot(const struct scan *s, const struct frame *f, const struct key *k)
{
    size_t mask = f->slot_count - 1;
    size_t i = k->hash & mask;

    while (f->slots[i] && !keys_equal(s, &s->keys[f->slots[i] - 1], k))
        i = (i + 1) & mask;
    return &f->slots[i];
}

/* Puts all keys the object has so far into a table with room for four times as many. */
static void grow_slots(const struct scan *s, struct frame *f, size_t keys_end)
{
    size_t wanted = (keys_end - f->first_key) * 4;

    mem_free(f->slots);
    for (f->slot_count = 64; f->slot_count < wanted;)
        f->slot_count *= 2;
    f->slots = mem_alloc(f->slot_count * sizeof *f->slots);
    for (size_t i = f->first_key; i < keys_end; i++)
        *find_slot(s, f, &s->keys[i]) = i + 1;
}

static bool is_duplicate(struct scan *s, struct frame *f, const struct key *k)
{
    size_t in_object = s->key_count - f->first_key;
    size_t *slot = NULL;

    if (in_object < KEYS_COMPARED_ONE_BY_ONE) {
        for (size_t i = f->first_key; i < s->key_count; i++)
            if (keys_equal(s, &s->keys[i], k))
                return true;
        return false;
    }
    if (in_object * 2 >= f->slot_count)
        grow_slots(s, f, s->key_count);
    slot = find_slot(s, f, k);
    if (*slot)
        return true;
    *slot = s->key_count + 1;
    return false;
}

bool json_scan_key(struct scan *s)
{
    struct frame *f = &s->stack[s->depth - 1];
    struct key k = {0};
    size_t quote = s->at, begin = 0;

    if (!json_scan_string(s, &begin, &k.escaped))
        return false;
    k.at = begin;
    k.bytes = s->at - 1 - begin;
    if (k.escaped) {
        k.at = s->unescaped.bytes;
        json_unescape(&s->unescaped, s->text + begin, k.bytes);
        k.bytes = s->unescaped.bytes - k.at;
    }
    k.hash = hash_key(json_scan_key_text(s, &k), k.bytes);
    if (is_duplicate(s, f, &k)) {
        char what[300];
        snprintf(what, sizeof what, "duplicate key '%.*s'", json_scan_shown_bytes(k.bytes), json_scan_key_text(s, &k));
        return json_scan_refuse(s, quote, what);
    }
    if (s->key_count == s->key_room) {
        s->key_room = s->key_room ? s->key_room * 2 : 64;
        s->keys = mem_grow(s->keys, s->key_room, sizeof *s->keys);
    }
    s->keys[s->key_count++] = k;
    return true;
}
