/* Byte-pair encoding: a vocabulary of byte strings, and the pairs that merge, each with a rank. A piece starts as its
 * bytes; the adjacent pair of the lowest rank merges, the leftmost of equal ones, until none is left.
 *
 * Both spellings of the model end here: a list of merges (rank: its place), and tiktoken's ranks, where any two
 * neighbours merge whose concatenation is a token (rank: that token's id). */
#ifndef FORMATS_BPE_H
#define FORMATS_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

#define BPE_NONE            UINT32_MAX
#define BPE_IDS_MAX         (1u << 22)
#define BPE_TOKEN_BYTES_MAX 1024u
/* Scratch is about 40 bytes for each. A piece is what the pre-tokenizer leaves whole, a word as a rule. */
#define BPE_PIECE_BYTES_MAX ((size_t)16 << 20)

struct id_list {
    uint32_t *ids; /* mem_free */
    size_t count, room;
};
void id_list_add(struct id_list *l, uint32_t id);
void id_list_release(struct id_list *l);

struct bpe_token {
    const char *bytes; /* NULL: no token has this id */
    uint32_t byte_count;
    bool unmatched; /* known by its id alone: never what a piece spells */
};

struct bpe_merge {
    uint32_t left, right, id;
};

/* Zero holds nothing. Read by many threads at once after bpe_finish. */
struct bpe {
    struct arena arena;
    struct bpe_token *tokens; /* by id */
    uint32_t id_limit;        /* every id is below */
    struct bpe_merge *merges; /* in the order of their ranks; none for tiktoken's */
    size_t merge_count;
    uint32_t byte_ids[256];
    bool whole_pieces; /* a piece that is a token becomes it, whatever the merges say */
    /* private */
    size_t token_room, merge_room;
    uint32_t *by_bytes; /* hash table of ids */
    size_t by_bytes_room, by_bytes_count;
    struct bpe_pair *pairs; /* hash table of pairs */
    size_t pair_room, pair_count;
};

/* The bytes are copied. Refuses an id given twice, bytes spelled twice (unless unmatched), and what passes a limit. */
bool bpe_add_token(struct bpe *b, uint32_t id, const char *bytes, size_t byte_count, bool unmatched,
                   struct err *e) CHECKED;
/* The next merge in the order of ranks. The result must be a token, and be what left and right spell. Of a pair that
 * is given twice the later rank counts. */
bool bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, struct err *e) CHECKED;
/* Every way to cut a token in two tokens, with the token's id as rank. */
void bpe_merge_by_id(struct bpe *b);
/* The last step; refuses a vocabulary that lacks one of the 256 bytes. */
bool bpe_finish(struct bpe *b, struct err *e) CHECKED;

uint32_t bpe_find(const struct bpe *b, const char *bytes, size_t byte_count); /* BPE_NONE: no such token */

struct bpe_scratch; /* one thread's */
struct bpe_scratch *bpe_scratch_new(void);
void bpe_scratch_free(struct bpe_scratch *s);
/* Appends the piece's ids. ERR_LIMIT: longer than BPE_PIECE_BYTES_MAX. Time grows as n log n. */
bool bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *piece, size_t bytes, struct id_list *out,
                struct err *e) CHECKED;

void bpe_release(struct bpe *b);

#endif
