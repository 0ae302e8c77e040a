/* The reference forward pass: a layer at a time for all tokens of a batch, so
 * that weights are read once, used as they are stored, and dropped, and only
 * the residual stream stays. It is made of steps with observers and
 * replaceable weights: diff walks two of them side by side, calibration rides
 * on the hooks.
 *
 *     forward_open -> forward_begin(batch) -> forward_embed -> forward_layer 0, 1, ... -> forward_logits
 *
 * Arithmetic. float32 with the written order of quant/gemm.h and
 * quant/vecmath.h, sums of squares and of softmax in float64; no libm. Same bits
 * for any threads, memory, CPU, and whatever else is in the batch:
 *
 *   norm       y = (x * s) * w, s = 1 / sqrt(mean + eps)
 *   attention  per head: scores q . k with columns ascending, times the scale; a running softmax over tiles of
 *              ATTEND_KEYS keys; outputs as sums over keys ascending; divided at the end
 *   MoE        y = sum over the chosen experts, ids ascending, of fma(weight, expert(x), y) from 0; then
 *              x + (y + shared(x))
 *
 * With V3.2's sparse attention, contexts up to index_topk tokens are the same as dense attention, wherever they
 * start, and longer ones are refused. */
#ifndef VERIFY_FORWARD_H
#define VERIFY_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/weight.h"
#include "quant/gemm.h"
#include "verify/batch.h"
#include "verify/stream.h"

/* Of q_a_layernorm and kv_a_layernorm: DeepSeek-V3's code and transformers make these two without passing rms_norm_eps
 * on. */
#define MLA_NORM_EPS 1e-6

/* What to round as another program would, to see how far rounding alone carries. */
enum emulate {
    EMULATE_NONE,
    EMULATE_BF16,            /* as transformers' bfloat16 with eager attention: after each step of it */
    EMULATE_FP8_ACTIVATIONS, /* inputs of linears whose weights are FP8, per token and 128 columns; by the static scale
                              * that stands beside a weight, where one does */
};

struct forward_options {
    unsigned threads;      /* 0: one per CPU */
    uint64_t memory_bytes; /* 0: half of the machine's */
    uint64_t caller_bytes; /* of these, what the caller takes itself */
    enum emulate emulate;
    /* For few tokens: matrices are read by slices of rows where they are used, so that none is ever whole in memory.
     * Observers may then have routing alone, there is no forward_step, and what does not fit a chunk is read again. */
    bool by_slices;
    double mla_norm_eps;     /* 0: MLA_NORM_EPS, whatever rms_norm_eps is */
    const char *scratch_dir; /* NULL: $TMPDIR, or /var/tmp */
};

/* ---- observers ---- */

/* The router's decisions for tokens [first, first + tokens) of the batch. */
struct routing {
    uint64_t layer;
    size_t first, tokens, experts, top_k;
    const uint32_t *ids;  /* [tokens][top_k], ascending in a row */
    const float *weights; /* the same shape */
    const float *scores;  /* [tokens][experts], without bias */
};

/* What enters a linear: x[t * x_stride + c], c < cols. Linears that share an input are named by one role: q_a_proj (or
 * q_proj) for kv_a_proj too, gate for up, router for the shared and the routed experts too (as shared_gate it comes
 * again when `linear` wants it). An MTP layer's mtp_proj (eh_proj) comes before all others, and has no `linear`. */
struct linear_input {
    uint64_t layer;
    enum role role;
    size_t first, tokens;
    const float *x;
    size_t x_stride, cols;
};

struct expert_call {
    uint64_t layer, expert;
    const uint32_t *tokens; /* [count], ascending; indices into the batch */
    const float *weights;   /* [count] */
    size_t count;
    const struct expert_feed *feed;
};
/* The inputs of some of its tokens, [count][hidden]. */
bool expert_inputs(const struct expert_call *c, size_t first, size_t count, float *x, struct err *e) CHECKED;

/* What some of an expert's tokens became: what enters down_proj and what it gives, not yet weighted. */
struct expert_made {
    uint64_t layer, expert;
    size_t tokens, inner, hidden;
    const float *act; /* [tokens][inner] */
    const float *out; /* [tokens][hidden] */
};

/* Any member may be NULL. All but `expert` and `made` are called by the thread that called forward_layer, in token
 * order. */
struct observer {
    void *ctx;
    bool (*routing)(void *ctx, const struct routing *r, struct err *e);
    bool (*input)(void *ctx, const struct linear_input *in, struct err *e);
    /* A linear of attention, a dense layer or the shared expert, after all of its inputs went by `input` and before it
     * is used. May put other weights of the same shape into w; they must stay until forward_layer returns. Costs a
     * second pass over the inputs. */
    bool (*linear)(void *ctx, uint64_t layer, enum role role, struct coded *w, struct err *e);
    /* A routed expert that got tokens, on a worker thread (worker < forward_threads): gate, up, down as stored, which
     * it may replace by others; they must stay until the same worker is called again, or forward_layer returns. */
    bool (*expert)(void *ctx, unsigned worker, const struct expert_call *c, struct coded mlp[3], struct err *e);
    /* On a worker thread, several at once maybe for one expert: each token of it once, in any order. */
    void (*made)(void *ctx, const struct expert_made *m);
};

/* ---- the pass ---- */

struct forward;

/* The longest context in which a model's sparse attention leaves nothing out; UINT64_MAX: its attention is dense. */
uint64_t forward_dense_tokens(const struct source *s);
/* Finds every weight; the source outlives it. */
bool forward_open(struct forward **f, const struct source *s, const struct forward_options *o, struct err *e) CHECKED;
void forward_close(struct forward *f); /* NULL is fine */
unsigned forward_threads(const struct forward *f);

/* The least memory that a walk of such a batch needs, with its streams in files. */
uint64_t forward_memory_bytes(struct forward *f, const struct batch *b);
/* ERR_MEMORY, with both numbers, when the budget is less. */
bool forward_check_memory(struct forward *f, const struct batch *b, struct err *e) CHECKED;
/* What follows is about this batch, which stays the caller's and unchanged. Refuses ids past the vocabulary, contexts
 * past what the model is made for, and a batch that needs more memory than there may be. */
bool forward_begin(struct forward *f, const struct batch *b, struct err *e) CHECKED;
/* A stream [tokens][hidden] of the batch's size, from this pass's budget. */
bool forward_stream(struct forward *f, struct stream *s, struct err *e) CHECKED;

bool forward_embed(struct forward *f, struct stream *out, struct err *e) CHECKED;
/* layer: past the model's own layers, an MTP layer's block. observer may be NULL. Refused, naming layer and token: a
 * hidden state that is not finite. in and out are different streams. */
bool forward_layer(struct forward *f, uint64_t layer, const struct stream *in, struct stream *out,
                   const struct observer *o, struct err *e) CHECKED;
/* The same from behind attention on, which another pass has run: `by` ran this layer last, for the same batch, and
 * layer_same_find (verify/layer_same.h) says that its attention is this one's. Observers may have routing and experts
 * alone. */
bool forward_layer_behind(struct forward *f, uint64_t layer, const struct forward *by, struct stream *out,
                          const struct observer *o, struct err *e) CHECKED;
/* Logits [count][vocab] of tokens [first, first + count) from what the last layer gave: final norm and head. The head
 * is read once in each call. */
bool forward_logits(struct forward *f, const struct stream *last, size_t first, size_t count, float *logits,
                    struct err *e) CHECKED;

#endif
