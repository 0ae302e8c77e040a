#include "formats/bpe.h"

#include <assert.h>
#include <string.h>

#include "formats/base/hash.h"
#include "formats/bpe_pairs.h"

#define TABLE_ROOM_MIN 1024u

void id_list_add(struct id_list *l, uint32_t id)
{
    if (l->count == l->room) {
        l->room = l->room ? l->room * 2 : 256;
        l->ids = mem_grow(l->ids, l->room, sizeof *l->ids);
    }
    l->ids[l->count++] = id;
}

void id_list_release(struct id_list *l)
{
    mem_free(l->ids);
    *l = (struct id_list){0};
}

/* ---- bytes -> id: open addressing, at most half full; slots hold id + 1 ---- */

static uint32_t *bytes_slot(const struct bpe *b, const char *bytes, size_t byte_count)
{
    size_t mask = b->by_bytes_room - 1;

    for (size_t i = (size_t)hash_key(bytes, byte_count) & mask;; i = (i + 1) & mask) {
        uint32_t *slot = &b->by_bytes[i];
        const struct bpe_token *t = *slot ? &b->tokens[*slot - 1] : NULL;

        if (!t || (t->byte_count == byte_count && !memcmp(t->bytes, bytes, byte_count)))
            return slot;
    }
}

static void grow_by_bytes(struct bpe *b)
{
    uint32_t *old = b->by_bytes;
    size_t old_room = b->by_bytes_room;

    b->by_bytes_room = old_room ? old_room * 2 : TABLE_ROOM_MIN;
    b->by_bytes = mem_alloc(b->by_bytes_room * sizeof *b->by_bytes);
    for (size_t i = 0; i < old_room; i++)
        if (old[i])
            *bytes_slot(b, b->tokens[old[i] - 1].bytes, b->tokens[old[i] - 1].byte_count) = old[i];
    mem_free(old);
}

uint32_t bpe_find(const struct bpe *b, const char *bytes, size_t byte_count)
{
    return b->by_bytes_room ? *bytes_slot(b, bytes, byte_count) - 1 : BPE_NONE; /* an empty slot's 0 becomes NONE */
}

/* ---- building ---- */

static void make_room(struct bpe *b, uint32_t id)
{
    size_t room = b->token_room ? b->token_room : 1024;

    if (id >= b->token_room) {
        while (room <= id)
            room *= 2;
        b->tokens = mem_grow(b->tokens, room, sizeof *b->tokens);
        memset(b->tokens + b->token_room, 0, (room - b->token_room) * sizeof *b->tokens);
        b->token_room = room;
    }
    if (id >= b->id_limit)
        b->id_limit = id + 1;
}

bool bpe_add_token(struct bpe *b, uint32_t id, const char *bytes, size_t byte_count, bool unmatched, struct err *e)
{
    if (id >= BPE_IDS_MAX)
        return err_set(e, ERR_LIMIT, "token id %u is past the limit of %u", id, BPE_IDS_MAX - 1);
    if (byte_count > BPE_TOKEN_BYTES_MAX)
        return err_set(e, ERR_LIMIT, "token %u has %zu bytes, more than the limit of %u", id, byte_count,
                       BPE_TOKEN_BYTES_MAX);
    make_room(b, id);
    if (b->tokens[id].bytes)
        return err_set(e, ERR_FORMAT, "token id %u is given twice", id);
    if (!unmatched && byte_count) {
        if (b->by_bytes_count >= b->by_bytes_room / 2)
            grow_by_bytes(b);
        uint32_t *slot = bytes_slot(b, bytes, byte_count);
        if (*slot)
            return err_set(e, ERR_FORMAT, "tokens %u and %u are the same bytes", *slot - 1, id);
        *slot = id + 1;
        b->by_bytes_count++;
    }
    char *copy = arena_alloc(&b->arena, byte_count + 1);
    if (byte_count)
        memcpy(copy, bytes, byte_count); /* there may be a NUL in it */
    b->tokens[id] = (struct bpe_token){.bytes = copy, .byte_count = (uint32_t)byte_count, .unmatched = unmatched};
    return true;
}

/* The token that left and right spell together. */
static uint32_t find_joined(const struct bpe *b, uint32_t left, uint32_t right)
{
    const struct bpe_token *l = &b->tokens[left], *r = &b->tokens[right];
    char joined[2 * BPE_TOKEN_BYTES_MAX];

    memcpy(joined, l->bytes, l->byte_count);
    memcpy(joined + l->byte_count, r->bytes, r->byte_count);
    return bpe_find(b, joined, (size_t)l->byte_count + r->byte_count);
}

bool bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, struct err *e)
{
    uint32_t id = find_joined(b, left, right);

    if (id == BPE_NONE)
        return err_set(e, ERR_FORMAT, "what tokens %u and %u make together is no token", left, right);
    if (b->merge_count == BPE_IDS_MAX)
        return err_set(e, ERR_LIMIT, "more merges than the limit of %u", BPE_IDS_MAX);
    if (b->merge_count == b->merge_room) {
        b->merge_room = b->merge_room ? b->merge_room * 2 : 1024;
        b->merges = mem_grow(b->merges, b->merge_room, sizeof *b->merges);
    }
    bpe_pair_put(b, left, right, (uint32_t)b->merge_count, id);
    b->merges[b->merge_count++] = (struct bpe_merge){left, right, id};
    return true;
}

void bpe_merge_by_id(struct bpe *b)
{
    for (uint32_t id = 0; id < b->id_limit; id++) {
        const struct bpe_token *t = &b->tokens[id];

        if (!t->bytes || t->unmatched)
            continue;
        for (uint32_t cut = 1; cut < t->byte_count; cut++) {
            uint32_t left = bpe_find(b, t->bytes, cut), right = BPE_NONE;
            if (left != BPE_NONE)
                right = bpe_find(b, t->bytes + cut, t->byte_count - cut);
            if (right != BPE_NONE)
                bpe_pair_put(b, left, right, id, id);
        }
    }
}

bool bpe_finish(struct bpe *b, struct err *e)
{
    for (unsigned i = 0; i < 256; i++) {
        char byte = (char)i;
        b->byte_ids[i] = bpe_find(b, &byte, 1);
        if (b->byte_ids[i] == BPE_NONE)
            return err_set(e, ERR_UNSUPPORTED, "no token is byte 0x%02x, so that not every text can be spelled", i);
    }
    return true;
}

void bpe_release(struct bpe *b)
{
    mem_free(b->tokens);
    mem_free(b->merges);
    mem_free(b->by_bytes);
    mem_free(b->pairs);
    arena_release(&b->arena);
    *b = (struct bpe){0};
}
