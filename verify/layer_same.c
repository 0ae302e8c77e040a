#include "verify/layer_same.h"

#include <stdatomic.h>
#include <string.h>

#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "verify/forward_private.h"
#include "verify/mtp.h"

/* Read and compared at a time. */
#define PIECE_BYTES ((size_t)256 << 10)
/* Matrices of B bytes cost 2 B to compare, and 2 B operations for each token to run: with so many tokens a few percent
 * when both come from memory, and never more than half from a slow disk. */
#define TOKENS_MIN 256u

struct piece {
    const struct tensor *tensor[2];
    uint64_t offset;
    size_t bytes;
};

struct comparison {
    const struct forward *f[2];
    struct piece *pieces;
    size_t count, room;
    uint8_t *buffers; /* two pieces for each worker */
    atomic_bool differ;
};

/* ---- what headers say ---- */

/* MTP layers and the size of the vocabulary are no part of what a layer does. */
static bool same_function(const struct arch *a, const struct arch *b)
{
    struct arch other = *b;
    char sha256[2][HASH_HEX_BYTES];

    other.mtp_layers = a->mtp_layers;
    other.vocab_size = a->vocab_size;
    arch_function_sha256(a, sha256[0]);
    arch_function_sha256(&other, sha256[1]);
    return strcmp(sha256[0], sha256[1]) == 0;
}

static void add_piece(struct comparison *c, const struct piece *p)
{
    if (c->count == c->room) {
        c->room = c->room ? 2 * c->room : 256;
        c->pieces = mem_grow(c->pieces, c->room, sizeof *c->pieces);
    }
    c->pieces[c->count++] = *p;
}

/* False: they cannot be the same. */
static bool add_tensors(struct comparison *c, const struct tensor *a, const struct tensor *b)
{
    if (!a || !b)
        return a == b;
    if (a->dtype != b->dtype || a->bytes != b->bytes)
        return false;
    for (uint64_t at = 0; at < a->bytes; at += PIECE_BYTES)
        add_piece(c, &(struct piece){{a, b}, at, a->bytes - at < PIECE_BYTES ? (size_t)(a->bytes - at) : PIECE_BYTES});
    return true;
}

/* What scales and shapes are called, and the shape's dtype, are nothing that a product sees. */
static bool same_scheme(const struct scheme *a, const struct scheme *b)
{
    struct scheme other = *b;

    other.compressed_tensors = a->compressed_tensors;
    other.shape_i64 = a->shape_i64;
    return scheme_same_storage(a, &other);
}

static bool add_weights(struct comparison *c, const struct weight *a, const struct weight *b)
{
    if (!a || !b)
        return a == b;
    if (!same_scheme(&a->stored, &b->stored) || a->rows != b->rows || a->cols != b->cols)
        return false;
    for (enum part part = PART_CODES; part < PART_COUNT; part++)
        if (part != PART_SHAPE && !add_tensors(c, a->parts[part], b->parts[part]))
            return false;
    return add_tensors(c, a->input_scale, b->input_scale);
}

static bool add_attention(struct comparison *c, uint64_t layer)
{
    const struct layer_weights *a = &c->f[0]->layers[layer], *b = &c->f[1]->layers[layer];

    return add_weights(c, a->input_norm, b->input_norm) && add_weights(c, a->q_a, b->q_a) &&
           add_weights(c, a->q_a_norm, b->q_a_norm) && add_weights(c, a->q_b, b->q_b) &&
           add_weights(c, a->kv_a, b->kv_a) && add_weights(c, a->kv_a_norm, b->kv_a_norm) &&
           add_weights(c, a->kv_b, b->kv_b) && add_weights(c, a->o, b->o);
}

static bool experts_are_cheap(const struct forward *f)
{
    return f->batch.tokens * f->arch->experts_per_token >= TOKENS_MIN * f->arch->experts;
}

static bool add_experts(struct comparison *c, uint64_t layer)
{
    const struct weight *a[MLP_PARTS], *b[MLP_PARTS];

    for (uint64_t i = 0; i < c->f[0]->arch->experts; i++) {
        if (!layer_expert(c->f[0]->source, layer, i, a, NULL) || !layer_expert(c->f[1]->source, layer, i, b, NULL))
            return false;
        for (size_t p = 0; p < MLP_PARTS; p++)
            if (!add_weights(c, a[p], b[p]))
                return false;
    }
    return true;
}

static bool add_rest(struct comparison *c, uint64_t layer)
{
    const struct layer_weights *a = &c->f[0]->layers[layer], *b = &c->f[1]->layers[layer];

    if (!a->experts != !b->experts || (a->experts && !experts_are_cheap(c->f[0])))
        return false;
    if (!add_weights(c, a->post_norm, b->post_norm) || !add_weights(c, a->router, b->router) ||
        !add_weights(c, a->router_bias, b->router_bias))
        return false;
    for (size_t p = 0; p < MLP_PARTS; p++)
        if (!add_weights(c, a->mlp[p], b->mlp[p]))
            return false;
    return !a->experts || add_experts(c, layer);
}

static bool add_logits(struct comparison *c)
{
    const struct top_weights *a = &c->f[0]->top, *b = &c->f[1]->top;

    return c->f[0]->batch.tokens >= TOKENS_MIN && add_weights(c, a->norm, b->norm) && add_weights(c, a->head, b->head);
}

/* But for the layer itself. */
static bool add_drafts(struct comparison *c)
{
    const struct mtp_weights *a = &c->f[0]->mtp, *b = &c->f[1]->mtp;

    return add_weights(c, a->embed_norm, b->embed_norm) && add_weights(c, a->hidden_norm, b->hidden_norm) &&
           add_weights(c, a->proj, b->proj) && add_weights(c, a->final_norm, b->final_norm) &&
           add_weights(c, a->embed, b->embed) && add_weights(c, a->head, b->head);
}

/* ---- what bytes say ---- */

static bool compare_piece(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct comparison *c = ctx;
    const struct piece *p = &c->pieces[job];
    uint8_t *memory[2];

    if (atomic_load(&c->differ))
        return true;
    for (size_t s = 0; s < 2; s++) {
        memory[s] = c->buffers + (2 * worker + s) * PIECE_BYTES;
        if (!checkpoint_read(&c->f[s]->source->checkpoint, p->tensor[s], p->offset, memory[s], p->bytes, e))
            return err_in(e, "'%s'", c->f[s]->source->checkpoint.path);
    }
    if (memcmp(memory[0], memory[1], p->bytes) != 0)
        atomic_store(&c->differ, true);
    return true;
}

static bool compare(struct comparison *c, bool *same, struct err *e)
{
    unsigned threads = c->f[0]->crew.threads;

    atomic_store(&c->differ, false);
    c->buffers = mem_aligned(2 * threads * PIECE_BYTES);
    bool ok = pool_run(threads, c->count, compare_piece, c, e);
    mem_free(c->buffers);
    *same = ok && !atomic_load(&c->differ);
    return ok;
}

bool layer_same_find(struct layer_same *s, const struct forward *a, const struct forward *b, uint64_t layer,
                     struct err *e)
{
    struct comparison c = {.f = {a, b}};
    bool ok = true;

    *s = (struct layer_same){0};
    if (!same_function(a->arch, b->arch))
        return true;
    if (add_attention(&c, layer))
        ok = compare(&c, &s->attention, e);
    c.count = 0;
    if (ok && s->attention && add_rest(&c, layer))
        ok = compare(&c, &s->whole, e);
    mem_free(c.pieces);
    return ok;
}

bool outputs_same_find(struct outputs_same *s, const struct forward *a, const struct forward *b, struct err *e)
{
    struct comparison c = {.f = {a, b}};
    struct layer_same layer = {0};
    bool ok = true;

    *s = (struct outputs_same){0};
    if (!same_function(a->arch, b->arch))
        return true;
    if (add_logits(&c))
        ok = compare(&c, &s->logits, e);
    if (ok && s->logits && forward_has_mtp(a) && forward_has_mtp(b))
        ok = layer_same_find(&layer, a, b, a->arch->layers, e);
    c.count = 0;
    if (ok && layer.whole && add_drafts(&c))
        ok = compare(&c, &s->drafts, e);
    mem_free(c.pieces);
    return ok;
}
