/* Checkpoints made by tests: tensors added one by one, or a whole small model
 * of the family from a config and a scheme. Values are drawn from the tensor's
 * name, so a tensor is the same in whatever checkpoint it stands. */
#ifndef TESTS_CKPT_SUPPORT_H
#define TESTS_CKPT_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/arch.h"
#include "formats/base/mem.h"
#include "formats/scheme.h"
#include "formats/tensor.h"

/* Zero is an empty checkpoint. */
struct ckpt_maker {
    struct arena arena;
    struct tensor *tensors;
    void **data;
    size_t count, room;
    uint32_t shard;     /* where the tensors that follow go: 0, 1, ... */
    const char *config; /* config.json's text; NULL: none is written */
};

/* Adds a tensor. data is copied; NULL: drawn from the name (floats in [-1, 1], positive powers of two where the
 * name says scale, e4m3 codes without NaN, random words otherwise). */
void ckpt_add(struct ckpt_maker *m, const char *name, enum dtype_id dtype, uint32_t rank, const uint64_t *dims,
              const void *data);
void ckpt_matrix(struct ckpt_maker *m, const char *name, enum dtype_id dtype, uint64_t rows, uint64_t cols,
                 const void *data);
void ckpt_vector(struct ckpt_maker *m, const char *name, enum dtype_id dtype, uint64_t elems, const void *data);
/* All parts of a matrix under a scheme; weight_shape is right, the rest is drawn. */
void ckpt_weight(struct ckpt_maker *m, const char *module, const struct scheme *s, uint64_t rows, uint64_t cols);
/* Takes a tensor out again; it must be there. */
void ckpt_drop(struct ckpt_maker *m, const char *name);
/* Writes model.safetensors, or, when there are several shards, model-0000N-of-0000M.safetensors and the index;
 * and config.json. A failure fails the test. */
void ckpt_write(const struct ckpt_maker *m, const char *dir);
void ckpt_release(struct ckpt_maker *m);

/* ---- models ---- */

/* A row of published values, or a small model in their likeness. */
struct model {
    const char *name, *model_type;
    unsigned vocab, hidden, layers, mtp, heads, q_lora /* 0: null */, kv_lora, nope, rope, v;
    unsigned intermediate, moe_intermediate, experts, shared, top_k, first_dense, groups, topk_groups;
    const char *topk, *scoring;
    bool norm_topk;
    double scaling, eps, theta;
    double yarn_factor /* 0: null */, beta_fast, beta_slow, mscale;
    unsigned max_positions;
    const char *quantization; /* the object's text, or NULL */
};

enum {
    MODEL_V3,
    MODEL_V31,
    MODEL_V32,
    MODEL_V2_LITE,
    MODEL_V2,
    MODEL_KIMI_K2,
    MODEL_KIMI_K25,
    MODEL_MOONLIGHT,
    MODEL_TINY, /* V3 with MTP, widths of 64 to 384, a ragged kv_a: a few MB */
    MODEL_COUNT
};
extern const struct model models[MODEL_COUNT];

#define QUANT_FP8_TEXT                                                                                                 \
    "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128]}"
#define QUANT_FP8_UE8M0_TEXT                                                                                           \
    "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128],"    \
    "\"scale_fmt\":\"ue8m0\"}"
#define QUANT_INT4_TEXT(group)                                                                                         \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"group_0\":{"          \
    "\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"type\":\"int\",\"symmetric\":true,\"strategy\":"           \
    "\"group\",\"group_size\":" #group "}}},\"ignore\":[\"lm_head\"]}"

/* config.json of a model, one member a line; in the arena. */
const char *model_config(struct arena *a, const struct model *m);
/* Every module of a model in the order of its layers. rows 0: a vector of cols elements. MODULE.weight is the
 * tensor, but for the router's bias, which has no ending. */
typedef void model_visit(void *ctx, const char *module, enum role role, uint64_t rows, uint64_t cols);
void model_modules(const struct arch *arch, model_visit *visit, void *ctx);
/* Adds a whole model: what published files quantize gets `linear`, the rest is BF16, the router's bias F32.
 * quantized(role) may narrow that; NULL: role_get()->quantizable. */
void ckpt_model(struct ckpt_maker *m, const struct arch *arch, const struct scheme *linear,
                bool (*quantized)(enum role role));

#endif
