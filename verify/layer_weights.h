/* What a layer computes with: finding its matrices and vectors in the
 * checkpoint, all of them before the first is read, and loading them as they
 * are stored. */
#ifndef VERIFY_LAYER_WEIGHTS_H
#define VERIFY_LAYER_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/weight.h"
#include "quant/gemm.h"

enum mlp_part { MLP_GATE, MLP_UP, MLP_DOWN, MLP_PARTS };

/* NULL where the model has none. */
struct layer_weights {
    const struct weight *input_norm, *post_norm;
    const struct weight *q_a, *q_a_norm, *q_b; /* without q_lora_rank: q_b is q_proj */
    const struct weight *kv_a, *kv_a_norm, *kv_b, *o;
    const struct weight *mlp[MLP_PARTS]; /* a dense layer's, or the shared expert's */
    const struct weight *router, *router_bias;
    const struct weight *experts; /* not NULL: there are routed ones; layer_expert finds them */
};

/* MTP layers have these as well. embed and head: the main ones where it has none of its own. */
struct mtp_weights {
    const struct weight *embed_norm, *hidden_norm, *proj, *final_norm, *embed, *head;
};

struct top_weights {
    const struct weight *embed, *norm, *head; /* head: embed when tied */
};

/* Refused, by name: a weight that is not there, or not of the shape that the model needs; numbers that nothing can
 * read; biases of linear layers. */
bool layer_weights_find(struct layer_weights *l, const struct source *s, uint64_t layer, struct err *e) CHECKED;
bool mtp_weights_find(struct mtp_weights *m, const struct source *s, const struct top_weights *top, uint64_t layer,
                      struct err *e) CHECKED;
bool top_weights_find(struct top_weights *t, const struct source *s, struct err *e) CHECKED;
bool layer_expert(const struct source *s, uint64_t layer, uint64_t expert, const struct weight *mlp[MLP_PARTS],
                  struct err *e) CHECKED;

/* Memory of a weight as it is stored, a multiple of MEM_ALIGN. */
size_t weight_memory_bytes(const struct weight *w);
/* Reads all of it into memory, which out's parts point to. Thread-safe. */
bool weight_load(const struct source *s, const struct weight *w, void *memory, struct coded *out,
                 struct err *e) CHECKED;
/* Asks the system to have it in memory soon. */
void weight_expect(const struct source *s, const struct weight *w);
/* Rows [row, row + count), which obey scheme_row_multiple, as a matrix of their own; memory for as many bytes. */
size_t weight_rows_memory_bytes(const struct weight *w, uint64_t count);
bool weight_load_rows(const struct source *s, const struct weight *w, uint64_t row, uint64_t count, void *memory,
                      struct coded *out, struct err *e) CHECKED;
/* The number of a weight's input_scale, whatever number it is; 0: it has none. Refused: not one F32 or BF16. */
bool weight_input_scale(const struct source *s, const struct weight *w, float *scale, struct err *e) CHECKED;
/* A vector as float32 [cols]; memory as for weight_load, scratch included. */
size_t vector_memory_bytes(const struct weight *w);
bool vector_load(const struct source *s, const struct weight *w, void *memory, float *x, struct err *e) CHECKED;

#endif
