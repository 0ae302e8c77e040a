/* Attention of one head. Plain: keys and values of every token are made from
 * its latent, and a running softmax goes over tiles of keys, so that nothing of
 * tokens x tokens is ever held. Absorbed: the query goes into the latents'
 * space instead, which is cheaper for a single token behind many. Both give the
 * same numbers but for rounding. */
#ifndef VERIFY_ATTEND_H
#define VERIFY_ATTEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/decode.h"
#include "verify/crew.h"
#include "verify/rope.h"

#define ATTEND_KEYS    128u /* of a tile: the running softmax's steps, so part of what is computed */
#define ATTEND_QUERIES 256u

/* What all heads of a layer share. */
struct attend {
    const struct crew *crew;
    const struct rope *rope;
    size_t heads, nope_dim, rope_dim, v_dim, query_width, latent_width; /* latent_width: kv_lora_rank */
};

/* Rows of one head, float32. */
struct head_rows {
    const float *q_b;  /* [nope + rope][query_width] */
    const float *kv_b; /* [nope + v][latent_width] */
};

/* One context. Latents are kv_lora_rank normed values and then the turned rope part. */
struct context {
    size_t tokens;
    const float *query;  /* [tokens][query_width]: what q_b_proj takes */
    const float *latent; /* [tokens][latent_width + rope_dim] */
    const float *turns;  /* [tokens][rope_dim], from rope_turns */
    float *out;          /* [tokens][heads][v_dim] */
};

/* One worker's memory, for contexts of up to `tokens`. */
struct attend_scratch {
    float *keys;        /* [panels of TILE_COLS tokens][nope + rope][TILE_COLS] */
    float *values;      /* [panels of TILE_COLS values][tokens, in whole panels][TILE_COLS] */
    size_t value_panel; /* floats of one of these */
    float *made;        /* [ATTEND_KEYS][nope + v]: keys and values as kv_b_proj gives them */
    float *query;       /* [ATTEND_QUERIES][nope + rope] */
    float *output;      /* [ATTEND_QUERIES][v, in whole panels] */
    float *scores;      /* [TILE_ROWS][ATTEND_KEYS] */
    float *maximum;     /* [ATTEND_QUERIES] */
    double *sum;        /* [ATTEND_QUERIES] */
};
void attend_place(struct attend_scratch *s, const struct attend *a, size_t tokens, struct scratch *memory);

/* Head `head` of all the context's tokens. */
bool attend_head(const struct attend *a, size_t head, const struct head_rows *w, const struct context *c,
                 const struct attend_scratch *s, unsigned worker, struct err *e) CHECKED;

/* The last token of `tokens` whose latents are at hand: query [nope + rope] turned, out [v]. scratch: floats. */
size_t absorbed_scratch_floats(const struct attend *a);
void attend_absorbed(const struct attend *a, const float *kv_b, const float *query, const float *latents, size_t tokens,
                     float *out, float *scratch);

#endif
