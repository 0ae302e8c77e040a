/* Names. A name is read as [language_model.][model.layers.N.]MODULE[.PART]; the
 * module is then looked up in one table. Rows stand in the order of how often
 * they are hit: nine names in ten are a routed expert's. */
#include <inttypes.h>
#include <string.h>

#include "formats/arch.h"

static const struct role_info infos[ROLE_COUNT] = {
    /* clang-format off */
    /*                          name               group            linear quantizable exact */
    [ROLE_UNKNOWN]         = {"unknown",         "other",         false, false, false},
    [ROLE_EMBED]           = {"embed",           "embed",         false, false, false},
    [ROLE_HEAD]            = {"head",            "head",          true,  false, false},
    [ROLE_NORM]            = {"norm",            "norm",          false, false, true},
    [ROLE_Q_PROJ]          = {"q_proj",          "attention",     true,  true,  false},
    [ROLE_Q_A_PROJ]        = {"q_a_proj",        "attention",     true,  true,  false},
    [ROLE_Q_B_PROJ]        = {"q_b_proj",        "attention",     true,  true,  false},
    [ROLE_KV_A_PROJ]       = {"kv_a_proj",       "attention",     true,  true,  false},
    [ROLE_KV_B_PROJ]       = {"kv_b_proj",       "attention",     true,  true,  false},
    [ROLE_O_PROJ]          = {"o_proj",          "attention",     true,  true,  false},
    [ROLE_DENSE_GATE]      = {"dense_gate",      "dense_mlp",     true,  true,  false},
    [ROLE_DENSE_UP]        = {"dense_up",        "dense_mlp",     true,  true,  false},
    [ROLE_DENSE_DOWN]      = {"dense_down",      "dense_mlp",     true,  true,  false},
    [ROLE_SHARED_GATE]     = {"shared_gate",     "shared_expert", true,  true,  false},
    [ROLE_SHARED_UP]       = {"shared_up",       "shared_expert", true,  true,  false},
    [ROLE_SHARED_DOWN]     = {"shared_down",     "shared_expert", true,  true,  false},
    [ROLE_EXPERT_GATE]     = {"expert_gate",     "routed_expert", true,  true,  false},
    [ROLE_EXPERT_UP]       = {"expert_up",       "routed_expert", true,  true,  false},
    [ROLE_EXPERT_DOWN]     = {"expert_down",     "routed_expert", true,  true,  false},
    [ROLE_ROUTER]          = {"router",          "router",        true,  false, true},
    [ROLE_ROUTER_BIAS]     = {"router_bias",     "router",        false, false, true},
    [ROLE_MTP_PROJ]        = {"mtp_proj",        "mtp",           true,  false, false},
    [ROLE_MTP_NORM]        = {"mtp_norm",        "mtp",           false, false, true},
    [ROLE_MTP_EMBED]       = {"mtp_embed",       "mtp",           false, false, false},
    [ROLE_MTP_HEAD]        = {"mtp_head",        "mtp",           true,  false, false},
    [ROLE_INDEXER_PROJ]    = {"indexer_proj",    "indexer",       true,  true,  false},
    [ROLE_INDEXER_WEIGHTS] = {"indexer_weights", "indexer",       true,  false, false},
    [ROLE_ROPE_CACHE]      = {"rope_cache",      "other",         false, false, false},
    /* clang-format on */
};

/* Where a module may stand. */
enum place {
    PLACE_TOP,   /* the pattern is the whole module */
    PLACE_LAYER, /* behind "model.layers.N." */
    PLACE_MTP,   /* the same, in layers past num_hidden_layers only */
};

struct row {
    const char *pattern; /* '#' stands for an expert's number */
    enum role role;
    enum place place;
    bool bare; /* a parameter without ".weight" */
};

static const struct row rows[] = {
    /* clang-format off */
    {"mlp.experts.#.gate_proj",               ROLE_EXPERT_GATE,     PLACE_LAYER, false},
    {"mlp.experts.#.up_proj",                 ROLE_EXPERT_UP,       PLACE_LAYER, false},
    {"mlp.experts.#.down_proj",               ROLE_EXPERT_DOWN,     PLACE_LAYER, false},
    {"mlp.shared_experts.gate_proj",          ROLE_SHARED_GATE,     PLACE_LAYER, false},
    {"mlp.shared_experts.up_proj",            ROLE_SHARED_UP,       PLACE_LAYER, false},
    {"mlp.shared_experts.down_proj",          ROLE_SHARED_DOWN,     PLACE_LAYER, false},
    {"mlp.gate",                              ROLE_ROUTER,          PLACE_LAYER, false},
    {"mlp.gate.e_score_correction_bias",      ROLE_ROUTER_BIAS,     PLACE_LAYER, true},
    {"mlp.gate_proj",                         ROLE_DENSE_GATE,      PLACE_LAYER, false},
    {"mlp.up_proj",                           ROLE_DENSE_UP,        PLACE_LAYER, false},
    {"mlp.down_proj",                         ROLE_DENSE_DOWN,      PLACE_LAYER, false},
    {"self_attn.q_proj",                      ROLE_Q_PROJ,          PLACE_LAYER, false},
    {"self_attn.q_a_proj",                    ROLE_Q_A_PROJ,        PLACE_LAYER, false},
    {"self_attn.q_a_layernorm",               ROLE_NORM,            PLACE_LAYER, false},
    {"self_attn.q_b_proj",                    ROLE_Q_B_PROJ,        PLACE_LAYER, false},
    {"self_attn.kv_a_proj_with_mqa",          ROLE_KV_A_PROJ,       PLACE_LAYER, false},
    {"self_attn.kv_a_layernorm",              ROLE_NORM,            PLACE_LAYER, false},
    {"self_attn.kv_b_proj",                   ROLE_KV_B_PROJ,       PLACE_LAYER, false},
    {"self_attn.o_proj",                      ROLE_O_PROJ,          PLACE_LAYER, false},
    {"self_attn.rotary_emb.inv_freq",         ROLE_ROPE_CACHE,      PLACE_LAYER, true},
    {"self_attn.indexer.wq_b",                ROLE_INDEXER_PROJ,    PLACE_LAYER, false},
    {"self_attn.indexer.wk",                  ROLE_INDEXER_PROJ,    PLACE_LAYER, false},
    {"self_attn.indexer.weights_proj",        ROLE_INDEXER_WEIGHTS, PLACE_LAYER, false},
    {"self_attn.indexer.k_norm",              ROLE_NORM,            PLACE_LAYER, false},
    {"input_layernorm",                       ROLE_NORM,            PLACE_LAYER, false},
    {"post_attention_layernorm",              ROLE_NORM,            PLACE_LAYER, false},
    {"enorm",                                 ROLE_MTP_NORM,        PLACE_MTP,   false},
    {"hnorm",                                 ROLE_MTP_NORM,        PLACE_MTP,   false},
    {"eh_proj",                               ROLE_MTP_PROJ,        PLACE_MTP,   false},
    {"embed_tokens",                          ROLE_MTP_EMBED,       PLACE_MTP,   false},
    {"shared_head.norm",                      ROLE_MTP_NORM,        PLACE_MTP,   false},
    {"shared_head.head",                      ROLE_MTP_HEAD,        PLACE_MTP,   false},
    {"model.embed_tokens",                    ROLE_EMBED,           PLACE_TOP,   false},
    {"model.norm",                            ROLE_NORM,            PLACE_TOP,   false},
    {"lm_head",                               ROLE_HEAD,            PLACE_TOP,   false},
    /* clang-format on */
};

struct ending {
    const char *text;
    enum name_part part;
};

static const struct ending endings[] = {
    {"weight", NAME_WEIGHT},        {"weight_scale_inv", NAME_SCALE_INV}, {"weight_scale", NAME_SCALE},
    {"weight_packed", NAME_PACKED}, {"weight_shape", NAME_SHAPE},         {"weight_zero_point", NAME_ZERO_POINT},
    {"weight_g_idx", NAME_G_IDX},   {"input_scale", NAME_INPUT_SCALE},    {"bias", NAME_BIAS},
};

const struct role_info *role_get(enum role role)
{
    return &infos[role];
}

enum role role_find(const char *name)
{
    enum role role = ROLE_UNKNOWN;

    while (role < ROLE_COUNT && strcmp(infos[role].name, name) != 0)
        role++;
    return role;
}

/* A decimal number without leading zeros, of at most 9 digits; NULL: there is none. */
static const char *take_number(const char *s, int64_t *n)
{
    const char *from = s;

    for (*n = 0; *s >= '0' && *s <= '9' && s - from < 9; s++)
        *n = *n * 10 + (*s - '0');
    return s == from || (s > from + 1 && *from == '0') ? NULL : s;
}

static const char *take_prefix(const char *s, const char *prefix)
{
    size_t bytes = strlen(prefix);

    return strncmp(s, prefix, bytes) == 0 ? s + bytes : NULL;
}

static bool matches(const char *pattern, const char *s, const char *end, int64_t *expert)
{
    for (; *pattern && s < end; pattern++) {
        if (*pattern == '#') {
            s = take_number(s, expert);
            if (!s)
                return false;
        } else if (*pattern != *s++) {
            return false;
        }
    }
    return !*pattern && s == end;
}

/* Cuts the part off. Returns whether there was none: a bare parameter. */
static bool split_part(const char *name, struct tensor_id *id)
{
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot && i < sizeof endings / sizeof endings[0]; i++)
        if (strcmp(dot + 1, endings[i].text) == 0) {
            id->part = endings[i].part;
            id->module_bytes = (uint32_t)(dot - name);
            return false;
        }
    id->part = NAME_WEIGHT;
    id->module_bytes = (uint32_t)strlen(name);
    return true;
}

static bool place_fits(const struct arch *arch, enum place place, int64_t layer)
{
    if (place == PLACE_TOP)
        return layer < 0;
    return layer >= (place == PLACE_MTP ? (int64_t)arch->layers : 0);
}

static const struct row *find_row(const struct arch *arch, const char *module, const char *end, bool bare,
                                  struct tensor_id *id)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *r = &rows[i];

        if (r->bare != bare || !place_fits(arch, r->place, id->layer))
            continue;
        id->expert = -1;
        if (matches(r->pattern, module, end, &id->expert))
            return r;
    }
    return NULL;
}

void arch_identify(const struct arch *arch, const char *name, struct tensor_id *id)
{
    const char *text = take_prefix(name, "language_model.");
    const char *module = text ? text : name;
    const struct row *row;

    *id = (struct tensor_id){.role = ROLE_UNKNOWN, .layer = -1, .expert = -1};
    bool bare = split_part(name, id);
    const char *end = name + id->module_bytes;
    const char *number = take_prefix(module, "model.layers.");
    if (number) {
        module = take_number(number, &id->layer);
        if (!module || *module++ != '.' || id->layer >= (int64_t)arch_layers_stored(arch))
            goto unknown;
    }
    row = module < end ? find_row(arch, module, end, bare, id) : NULL;
    if (!row || id->expert >= (int64_t)arch->experts)
        goto unknown;
    id->role = row->role;
    return;
unknown:
    id->layer = id->expert = -1;
}

/* ---- shapes ---- */

bool arch_shape(const struct arch *a, enum role role, uint64_t *rows_out, uint64_t *cols_out)
{
    uint64_t d = a->hidden_size, dq = a->qk_nope_dim + a->qk_rope_dim;
    uint64_t shared = a->moe_intermediate_size * a->shared_experts;
    const struct shape {
        uint64_t rows, cols;
    } shapes[ROLE_COUNT] = {
        [ROLE_EMBED] = {a->vocab_size, d},
        [ROLE_HEAD] = {a->vocab_size, d},
        [ROLE_Q_PROJ] = {a->heads * dq, d},
        [ROLE_Q_A_PROJ] = {a->q_lora_rank, d},
        [ROLE_Q_B_PROJ] = {a->heads * dq, a->q_lora_rank},
        [ROLE_KV_A_PROJ] = {a->kv_lora_rank + a->qk_rope_dim, d},
        [ROLE_KV_B_PROJ] = {a->heads * (a->qk_nope_dim + a->v_dim), a->kv_lora_rank},
        [ROLE_O_PROJ] = {d, a->heads * a->v_dim},
        [ROLE_DENSE_GATE] = {a->intermediate_size, d},
        [ROLE_DENSE_UP] = {a->intermediate_size, d},
        [ROLE_DENSE_DOWN] = {d, a->intermediate_size},
        [ROLE_SHARED_GATE] = {shared, d},
        [ROLE_SHARED_UP] = {shared, d},
        [ROLE_SHARED_DOWN] = {d, shared},
        [ROLE_EXPERT_GATE] = {a->moe_intermediate_size, d},
        [ROLE_EXPERT_UP] = {a->moe_intermediate_size, d},
        [ROLE_EXPERT_DOWN] = {d, a->moe_intermediate_size},
        [ROLE_ROUTER] = {a->experts, d},
        [ROLE_MTP_PROJ] = {d, 2 * d},
        [ROLE_MTP_EMBED] = {a->vocab_size, d},
        [ROLE_MTP_HEAD] = {a->vocab_size, d},
    };

    *rows_out = shapes[role].rows;
    *cols_out = shapes[role].cols;
    return *rows_out > 0 && *cols_out > 0;
}

/* Latents have norms of their own; the indexer's are not in config.json's words that we read. */
uint64_t arch_length(const struct arch *a, enum role role, const char *module)
{
    if (role == ROLE_ROUTER_BIAS)
        return a->experts;
    if (role != ROLE_NORM && role != ROLE_MTP_NORM)
        return 0;
    if (strstr(module, ".self_attn.indexer."))
        return 0;
    if (strstr(module, ".self_attn.q_a_layernorm"))
        return a->q_lora_rank;
    return strstr(module, ".self_attn.kv_a_layernorm") ? a->kv_lora_rank : a->hidden_size;
}

char *arch_expert_name(struct arena *a, const char *name, uint64_t expert)
{
    static const char mark[] = ".experts.";
    const char *at = strstr(name, mark);

    if (!at)
        return arena_strdup(a, name);
    const char *number = at + strlen(mark), *rest = number + strspn(number, "0123456789");
    return arena_printf(a, "%.*s%" PRIu64 "%s", (int)(number - name), name, expert, rest);
}
