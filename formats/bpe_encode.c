#include <assert.h>
#include <string.h>

#include "formats/bpe_pairs.h"

/* Up to here a scan for the lowest rank is quicker than a heap. */
#define SCAN_SYMBOLS_MAX 32u
#define NOWHERE          UINT32_MAX

/* A stretch of the piece that is one token so far; and what it would make with its right neighbour. */
struct symbol {
    uint32_t id;           /* BPE_NONE: swallowed by its left neighbour */
    uint32_t prev, next;   /* NOWHERE at the ends */
    uint32_t rank, joined; /* of the pair; rank BPE_NONE: none */
};

struct bpe_scratch {
    struct symbol *symbols;
    uint64_t *heap; /* rank << 32 | the left symbol's place; what no longer holds is skipped */
    size_t symbol_room, heap_room, heap_count;
};

struct bpe_scratch *bpe_scratch_new(void)
{
    return mem_alloc(sizeof(struct bpe_scratch));
}

void bpe_scratch_free(struct bpe_scratch *s)
{
    if (!s)
        return;
    mem_free(s->symbols);
    mem_free(s->heap);
    mem_free(s);
}

/* ---- short pieces ---- */

struct short_piece {
    uint32_t ids[SCAN_SYMBOLS_MAX], ranks[SCAN_SYMBOLS_MAX], joined[SCAN_SYMBOLS_MAX];
    size_t count;
};

static void look_up_at(const struct bpe *b, struct short_piece *p, size_t i)
{
    struct bpe_pair pair = bpe_pair_get(b, p->ids[i], p->ids[i + 1]);

    p->ranks[i] = pair.rank;
    p->joined[i] = pair.id;
}

/* The leftmost of the lowest ranks; the count of symbols when nothing merges. */
static size_t lowest_rank(const struct short_piece *p)
{
    size_t best = p->count;
    uint32_t rank = BPE_NONE;

    for (size_t i = 0; i + 1 < p->count; i++)
        if (p->ranks[i] < rank) {
            rank = p->ranks[i];
            best = i;
        }
    return best;
}

static void merge_at(const struct bpe *b, struct short_piece *p, size_t i)
{
    size_t behind = p->count - i - 2; /* symbols behind the pair */

    p->ids[i] = p->joined[i];
    memmove(&p->ids[i + 1], &p->ids[i + 2], behind * sizeof p->ids[0]);
    memmove(&p->ranks[i + 1], &p->ranks[i + 2], behind * sizeof p->ranks[0]);
    memmove(&p->joined[i + 1], &p->joined[i + 2], behind * sizeof p->joined[0]);
    p->count--;
    if (i > 0)
        look_up_at(b, p, i - 1);
    if (i + 1 < p->count)
        look_up_at(b, p, i);
}

static void encode_short(const struct bpe *b, const char *piece, size_t bytes, struct id_list *out)
{
    struct short_piece p = {.count = bytes};

    for (size_t i = 0; i < bytes; i++)
        p.ids[i] = b->byte_ids[(unsigned char)piece[i]];
    for (size_t i = 0; i + 1 < bytes; i++)
        look_up_at(b, &p, i);
    for (size_t i = lowest_rank(&p); i < p.count; i = lowest_rank(&p))
        merge_at(b, &p, i);
    for (size_t i = 0; i < p.count; i++)
        id_list_add(out, p.ids[i]);
}

/* ---- long ones: a linked list of symbols and a heap of pairs ---- */

static void heap_push(struct bpe_scratch *s, uint64_t entry)
{
    size_t i = s->heap_count++;

    assert(i < s->heap_room);
    for (; i > 0 && s->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = entry;
}

static uint64_t heap_pop(struct bpe_scratch *s)
{
    uint64_t top = s->heap[0], last = s->heap[--s->heap_count];
    size_t i = 0;

    for (size_t child = 1; child < s->heap_count; child = 2 * i + 1) {
        if (child + 1 < s->heap_count && s->heap[child + 1] < s->heap[child])
            child++;
        if (s->heap[child] >= last)
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

/* Looks up what symbol i makes with its right neighbour, and queues it. */
static void queue_pair(const struct bpe *b, struct bpe_scratch *s, uint32_t i)
{
    struct symbol *left = &s->symbols[i];
    struct bpe_pair pair = {.rank = BPE_NONE};

    if (left->next != NOWHERE)
        pair = bpe_pair_get(b, left->id, s->symbols[left->next].id);
    left->rank = pair.rank;
    left->joined = pair.id;
    if (pair.rank != BPE_NONE)
        heap_push(s, (uint64_t)pair.rank << 32 | i);
}

static void make_room(struct bpe_scratch *s, size_t bytes)
{
    if (bytes <= s->symbol_room)
        return;
    s->symbol_room = bytes;
    s->symbols = mem_grow(s->symbols, bytes, sizeof *s->symbols);
    s->heap_room = bytes * 2; /* a pair for each neighbourhood, and each merge takes one and adds two */
    s->heap = mem_grow(s->heap, s->heap_room, sizeof *s->heap);
}

static void join(const struct bpe *b, struct bpe_scratch *s, uint32_t i)
{
    struct symbol *left = &s->symbols[i], *right = &s->symbols[left->next];

    left->id = left->joined;
    left->next = right->next;
    right->id = BPE_NONE;
    if (left->next != NOWHERE)
        s->symbols[left->next].prev = i;
    queue_pair(b, s, i);
    if (left->prev != NOWHERE)
        queue_pair(b, s, left->prev);
}

static void encode_long(const struct bpe *b, struct bpe_scratch *s, const char *piece, uint32_t bytes,
                        struct id_list *out)
{
    make_room(s, bytes);
    s->heap_count = 0;
    for (uint32_t i = 0; i < bytes; i++)
        s->symbols[i] = (struct symbol){.id = b->byte_ids[(unsigned char)piece[i]],
                                        .prev = i ? i - 1 : NOWHERE,
                                        .next = i + 1 < bytes ? i + 1 : NOWHERE};
    for (uint32_t i = 0; i < bytes; i++)
        queue_pair(b, s, i);
    while (s->heap_count) {
        uint64_t entry = heap_pop(s);
        const struct symbol *left = &s->symbols[(uint32_t)entry];
        if (left->id != BPE_NONE && left->rank == entry >> 32)
            join(b, s, (uint32_t)entry);
    }
    for (uint32_t i = 0; i != NOWHERE; i = s->symbols[i].next)
        id_list_add(out, s->symbols[i].id);
}

bool bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *piece, size_t bytes, struct id_list *out,
                struct err *e)
{
    uint32_t whole = BPE_NONE;

    if (!bytes)
        return true;
    if (bytes > BPE_PIECE_BYTES_MAX)
        return err_set(e, ERR_LIMIT, "%zu bytes in which nothing may be cut, more than the limit of %zu", bytes,
                       BPE_PIECE_BYTES_MAX);
    if (b->whole_pieces && bytes <= BPE_TOKEN_BYTES_MAX)
        whole = bpe_find(b, piece, bytes);
    if (whole != BPE_NONE)
        id_list_add(out, whole);
    else if (bytes <= SCAN_SYMBOLS_MAX)
        encode_short(b, piece, bytes, out);
    else
        encode_long(b, s, piece, (uint32_t)bytes, out);
    return true;
}
