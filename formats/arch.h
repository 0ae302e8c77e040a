/* The model family: config.json -> struct arch, tensor name -> role, layer,
 * expert. One table of names; recipes, the plan, the forward pass and the
 * oracles all speak of its roles. */
#ifndef FORMATS_ARCH_H
#define FORMATS_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/hash.h"
#include "formats/base/mem.h"

enum arch_family { ARCH_DEEPSEEK_V2, ARCH_DEEPSEEK_V3, ARCH_KIMI_K2, ARCH_FAMILY_COUNT };
enum arch_scoring { SCORING_SOFTMAX, SCORING_SIGMOID };
enum arch_topk { TOPK_GREEDY, TOPK_GROUP_LIMITED, TOPK_NOAUX_TC };

/* What config.json's quantization_config says; formats/weight.h says what the tensors are. */
enum arch_quant { QUANT_NONE, QUANT_FP8, QUANT_COMPRESSED_TENSORS, QUANT_OTHER };

#define ARCH_GROUPS_MAX 8u

struct arch {
    enum arch_family family;
    const char *model_type;                   /* "deepseek_v3", as the file says; in the arena */
    const char *architecture;                 /* architectures[0] or NULL */
    const char *torch_dtype;                  /* "bfloat16" or NULL */
    uint64_t vocab_size, hidden_size, layers; /* layers: without MTP */
    uint64_t mtp_layers;                      /* num_nextn_predict_layers, 0 when absent */
    uint64_t heads, q_lora_rank /* 0: one q_proj */, kv_lora_rank;
    uint64_t qk_nope_dim, qk_rope_dim, v_dim;
    uint64_t intermediate_size, moe_intermediate_size;
    uint64_t experts, shared_experts, experts_per_token; /* routed; 0: a dense model */
    uint64_t first_dense_layers, moe_layer_freq;
    uint64_t groups, topk_groups;
    enum arch_scoring scoring;
    enum arch_topk topk;
    bool norm_topk_prob;
    double routed_scaling;
    double rms_norm_eps;
    double rope_theta;
    bool yarn;
    double yarn_factor, yarn_beta_fast, yarn_beta_slow, yarn_mscale, yarn_mscale_all_dim;
    bool yarn_has_mscale, yarn_has_mscale_all_dim;
    uint64_t yarn_original_positions;
    uint64_t max_positions;
    uint64_t index_topk; /* V3.2: tokens that its sparse attention keeps; 0: dense attention */
    bool tied_embeddings;
    enum arch_quant quant;
    uint64_t quant_block_rows, quant_block_cols; /* weight_block_size or block_structure; 0 when absent */
    uint64_t quant_bits, quant_group_cols;       /* of the first integer config group; 0: none, or per channel */
    uint64_t quant_groups[ARCH_GROUPS_MAX];      /* of all of them, 0 behind the last; past ARCH_GROUPS_MAX not kept */
    bool quant_ue8m0;                            /* scale_fmt "ue8m0" */
    const char *quant_format;                    /* compressed-tensors "format", or quant_method when OTHER; or NULL */
};

/* A size field that is absent is an error that names it (transformers would take V3's value in silence).
 * A nested text_config (Kimi-K2.5) is entered. Unknown model types are ERR_UNSUPPORTED, naming what is known.
 * Numbers are held against plausible limits. */
bool arch_parse(struct arch *arch, struct arena *a, const char *config, size_t bytes, struct err *e) CHECKED;

/* SHA-256 of what the model computes: sizes, layers, routing, rope. Not how its weights are stored, how long a context
 * it allows, nor how config.json is written: a quantized bundle and its source have the same. */
void arch_function_sha256(const struct arch *arch, char hex[HASH_HEX_BYTES]);

bool arch_has_group(const struct arch *arch, uint64_t cols);     /* whether an integer config group has that width */
bool arch_is_moe_layer(const struct arch *arch, uint64_t layer); /* MTP layers are */
uint64_t arch_layers_stored(const struct arch *arch);            /* with MTP */

enum role {
    ROLE_UNKNOWN,
    ROLE_EMBED,
    ROLE_HEAD,
    ROLE_NORM, /* every RMSNorm, and the indexer's LayerNorm */
    ROLE_Q_PROJ,
    ROLE_Q_A_PROJ,
    ROLE_Q_B_PROJ,
    ROLE_KV_A_PROJ,
    ROLE_KV_B_PROJ,
    ROLE_O_PROJ,
    ROLE_DENSE_GATE,
    ROLE_DENSE_UP,
    ROLE_DENSE_DOWN,
    ROLE_SHARED_GATE,
    ROLE_SHARED_UP,
    ROLE_SHARED_DOWN,
    ROLE_EXPERT_GATE,
    ROLE_EXPERT_UP,
    ROLE_EXPERT_DOWN,
    ROLE_ROUTER,
    ROLE_ROUTER_BIAS,
    ROLE_MTP_PROJ,        /* eh_proj */
    ROLE_MTP_NORM,        /* enorm, hnorm, shared_head.norm */
    ROLE_MTP_EMBED,       /* repeats the main one */
    ROLE_MTP_HEAD,        /* shared_head.head */
    ROLE_INDEXER_PROJ,    /* V3.2: wq_b, wk */
    ROLE_INDEXER_WEIGHTS, /* V3.2: weights_proj, never quantized */
    ROLE_ROPE_CACHE,      /* rotary_emb.inv_freq: stale junk, dropped with a note */
    ROLE_COUNT
};

/* Facts about a role, one row each. */
struct role_info {
    const char *name;  /* "kv_a_proj"; what recipes say */
    const char *group; /* "attention", "routed_expert", ...: recipes may say this as well */
    bool linear;       /* a matrix that engines run as a linear layer */
    bool quantizable;  /* one that this family's published FP8 files quantize */
    bool exact;        /* must never change: router, correction bias, norms */
};
const struct role_info *role_get(enum role role);
enum role role_find(const char *name); /* by .name; ROLE_COUNT: no such role */

/* Which part of its weight a tensor is, from the name's ending. */
enum name_part {
    NAME_WEIGHT,      /* .weight, or a bare parameter such as e_score_correction_bias */
    NAME_BIAS,        /* .bias */
    NAME_SCALE_INV,   /* .weight_scale_inv */
    NAME_SCALE,       /* .weight_scale */
    NAME_PACKED,      /* .weight_packed */
    NAME_SHAPE,       /* .weight_shape */
    NAME_ZERO_POINT,  /* .weight_zero_point */
    NAME_G_IDX,       /* .weight_g_idx */
    NAME_INPUT_SCALE, /* .input_scale */
};

struct tensor_id {
    enum role role;
    enum name_part part;
    int64_t layer;  /* -1: none */
    int64_t expert; /* -1: none */
    uint32_t
        module_bytes; /* length of the module's name: the part before ".weight..."; a bare parameter's whole name */
};
/* Fills id; ROLE_UNKNOWN when no row fits. A layer or expert past the config's count is ROLE_UNKNOWN too.
 * Names may carry the prefix "language_model." (Kimi-K2.5). */
void arch_identify(const struct arch *arch, const char *name, struct tensor_id *id);

/* A name with another number behind ".experts."; without such a part the same name. */
char *arch_expert_name(struct arena *a, const char *name, uint64_t expert);

/* The [rows, cols] that config.json promises for a weight of this role; false: not a matrix, or not known. */
bool arch_shape(const struct arch *arch, enum role role, uint64_t *rows, uint64_t *cols);
/* The length it promises for a norm or a router's bias, by the module's name; 0: not known. */
uint64_t arch_length(const struct arch *arch, enum role role, const char *module);

#endif
