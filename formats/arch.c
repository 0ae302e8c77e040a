/* config.json. Fields are rows of one table; what is absent, null or too large
 * is decided there. The limits are some ten times what the largest published
 * model of the family has: a number past them is a broken file, and the sizes
 * that follow from numbers below them fit 64 bits with room to spare. */
#include "formats/arch.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/units.h"
#include "formats/json.h"

struct family {
    const char *model_type;
    enum arch_family family;
    bool nested; /* the language model's fields are in "text_config" */
};

static const struct family families[] = {
    {"deepseek_v2", ARCH_DEEPSEEK_V2, false},  {"deepseek_v3", ARCH_DEEPSEEK_V3, false},
    {"deepseek_v32", ARCH_DEEPSEEK_V3, false}, {"kimi_k2", ARCH_KIMI_K2, false},
    {"kimi_k25", ARCH_KIMI_K2, true},
};

/* A model whose config leaves these out means what its family's own code assumes. */
struct family_defaults {
    enum arch_scoring scoring;
    enum arch_topk topk;
    bool norm_topk_prob;
};

static const struct family_defaults defaults[ARCH_FAMILY_COUNT] = {
    [ARCH_DEEPSEEK_V2] = {SCORING_SOFTMAX, TOPK_GREEDY, false},
    [ARCH_DEEPSEEK_V3] = {SCORING_SIGMOID, TOPK_NOAUX_TC, true},
    [ARCH_KIMI_K2] = {SCORING_SIGMOID, TOPK_NOAUX_TC, true},
};

enum need {
    NEED_ALWAYS,
    NEED_MOE, /* when there are routed experts */
    OPTIONAL, /* absent or null: the default */
};

struct field {
    const char *key;
    size_t offset; /* of a uint64_t in struct arch */
    enum need need;
    bool nullable; /* null is 0, and says something */
    uint64_t min, max, absent;
};

/* num_key_value_heads is not read: latent attention has one latent for all heads, and files differ in what they put
 * there. */
#define AT(member) offsetof(struct arch, member)
static const struct field fields[] = {
    /* clang-format off */
    {"vocab_size",               AT(vocab_size),            NEED_ALWAYS, false, 1, 1u << 24, 0},
    {"hidden_size",              AT(hidden_size),           NEED_ALWAYS, false, 1, 1u << 17, 0},
    {"num_hidden_layers",        AT(layers),                NEED_ALWAYS, false, 1, 1000,     0},
    {"num_nextn_predict_layers", AT(mtp_layers),            OPTIONAL,    true,  0, 100,      0},
    {"num_attention_heads",      AT(heads),                 NEED_ALWAYS, false, 1, 4096,     0},
    {"q_lora_rank",              AT(q_lora_rank),           NEED_ALWAYS, true,  0, 1u << 16, 0},
    {"kv_lora_rank",             AT(kv_lora_rank),          NEED_ALWAYS, false, 1, 1u << 16, 0},
    {"qk_nope_head_dim",         AT(qk_nope_dim),           NEED_ALWAYS, false, 1, 1u << 13, 0},
    {"qk_rope_head_dim",         AT(qk_rope_dim),           NEED_ALWAYS, false, 1, 1u << 13, 0},
    {"v_head_dim",               AT(v_dim),                 NEED_ALWAYS, false, 1, 1u << 13, 0},
    {"intermediate_size",        AT(intermediate_size),     NEED_ALWAYS, false, 1, 1u << 20, 0},
    {"n_routed_experts",         AT(experts),               NEED_ALWAYS, true,  0, 1u << 14, 0},
    {"moe_intermediate_size",    AT(moe_intermediate_size), NEED_MOE,    false, 1, 1u << 20, 0},
    {"n_shared_experts",         AT(shared_experts),        NEED_MOE,    true,  0, 1000,     0},
    {"num_experts_per_tok",      AT(experts_per_token),     NEED_MOE,    false, 1, 1u << 14, 0},
    {"first_k_dense_replace",    AT(first_dense_layers),    NEED_MOE,    false, 0, 1000,     0},
    {"moe_layer_freq",           AT(moe_layer_freq),        OPTIONAL,    false, 1, 1000,     1},
    {"max_position_embeddings",  AT(max_positions),         NEED_ALWAYS, false, 1, 1u << 30, 0},
    {"index_topk",               AT(index_topk),            OPTIONAL,    false, 1, 1u << 30, 0},
    /* clang-format on */
};

/* The document and the object whose members are meant. */
struct config {
    const struct json_doc *doc;
    const struct json *root, *text; /* the same, unless nested */
};

/* A member, or NULL when it is absent or null, or o is no object. */
static const struct json *get(const struct json *o, const char *key)
{
    const struct json *v = o && json_type(o) == JSON_OBJECT ? json_get(o, key) : NULL;

    return v && json_type(v) != JSON_NULL ? v : NULL;
}

/* A member of the inner object, or of the outer one. */
static const struct json *get_either(const struct config *c, const char *key)
{
    const struct json *v = get(c->text, key);

    return v ? v : get(c->root, key);
}

static bool check_range(const char *key, uint64_t value, uint64_t min, uint64_t max, struct err *e)
{
    if (value < min)
        return err_set(e, ERR_FORMAT, "'%s' is %" PRIu64 ", below %" PRIu64, key, value, min);
    if (value > max)
        return err_set(e, ERR_LIMIT, "'%s' is %" PRIu64 ", past the limit %" PRIu64, key, value, max);
    return true;
}

static bool read_field(struct arch *arch, const struct config *c, const struct field *f, struct err *e)
{
    uint64_t *out = (uint64_t *)(void *)((char *)arch + f->offset);
    const struct json *v = json_get(c->text, f->key);
    bool null = v && json_type(v) == JSON_NULL;

    *out = f->absent;
    if (null && (f->nullable || f->need == OPTIONAL))
        return true;
    if (!v && (f->need == OPTIONAL || (f->need == NEED_MOE && arch->experts == 0)))
        return true;
    if (!v)
        return err_set(e, ERR_FORMAT, "'%s' is missing", f->key);
    if (!json_need_u64(c->doc, c->text, f->key, out, e))
        return false;
    return check_range(f->key, *out, f->min, f->max, e);
}

static bool read_double(const struct config *c, const struct json *o, const char *key, double *out, struct err *e)
{
    if (!json_need_double(c->doc, o, key, out, e))
        return false;
    if (!isfinite(*out) || *out <= 0)
        return err_set(e, ERR_FORMAT, "'%s' is %g, not a positive number", key, *out);
    return true;
}

/* Absent or null: *out keeps its value. */
static bool read_optional_double(const struct config *c, const struct json *o, const char *key, double *out,
                                 struct err *e)
{
    return !get(o, key) || read_double(c, o, key, out, e);
}

static bool read_optional_bool(const struct json *o, const char *key, bool *out, struct err *e)
{
    const struct json *v = get(o, key);

    if (v && json_type(v) != JSON_BOOL)
        return err_set(e, ERR_FORMAT, "'%s' is %s, not true or false", key, json_type_name(json_type(v)));
    if (v)
        *out = json_bool(v);
    return true;
}

/* *out is NULL when absent or null. */
static bool read_optional_string(const struct json *o, const char *key, const char **out, struct err *e)
{
    *out = NULL;
    return !get(o, key) || json_need_string(o, key, out, e);
}

/* ---- the family ---- */

static bool unknown_family(const char *model_type, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED,
                   "model_type '%s' is not one of deepseek_v2, deepseek_v3, deepseek_v32, kimi_k2, kimi_k25",
                   model_type);
}

static bool read_family(struct arch *arch, struct arena *a, struct config *c, struct err *e)
{
    const struct family *f = families, *end = families + sizeof families / sizeof families[0];
    const struct json *names = get(c->root, "architectures");
    const struct json *first = names ? json_first(names) : NULL;
    const char *model_type;

    if (!json_need_string(c->root, "model_type", &model_type, e))
        return false;
    while (f < end && strcmp(f->model_type, model_type) != 0)
        f++;
    if (f == end)
        return unknown_family(model_type, e);
    arch->family = f->family;
    arch->model_type = arena_strdup(a, model_type);
    if (first && json_string(first))
        arch->architecture = arena_strdup(a, json_string(first));
    c->text = f->nested ? get(c->root, "text_config") : c->root;
    if (!c->text || json_type(c->text) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "model_type '%s' without a 'text_config' object", model_type);
    return true;
}

static bool read_torch_dtype(struct arch *arch, struct arena *a, const struct config *c, struct err *e)
{
    const struct json *v = get_either(c, "torch_dtype");

    if (!v)
        v = get_either(c, "dtype");
    if (v && !json_string(v))
        return err_set(e, ERR_FORMAT, "'torch_dtype' is %s, not a string", json_type_name(json_type(v)));
    arch->torch_dtype = v ? arena_strdup(a, json_string(v)) : NULL;
    return true;
}

/* ---- routing ---- */

static bool read_choice(const struct json *o, const char *key, const char *const *names, unsigned count, unsigned *out,
                        struct err *e)
{
    const char *name;
    unsigned i = 0;

    if (!read_optional_string(o, key, &name, e))
        return false;
    if (!name)
        return true;
    while (i < count && strcmp(names[i], name) != 0)
        i++;
    if (i == count)
        return err_set(e, ERR_UNSUPPORTED, "'%s' is '%s', which is not known", key, name);
    *out = i;
    return true;
}

/* Greedy routing has no groups, and its configs may say so with null or not at all. */
static bool read_groups(struct arch *arch, const struct config *c, struct err *e)
{
    bool may_lack = arch->experts == 0 || arch->topk == TOPK_GREEDY;
    const struct field groups = {"n_group", AT(groups), may_lack ? OPTIONAL : NEED_MOE, false, 1, 1u << 14, 1};
    const struct field chosen = {"topk_group", AT(topk_groups), groups.need, false, 1, 1u << 14, 1};

    return read_field(arch, c, &groups, e) && read_field(arch, c, &chosen, e);
}

static bool check_routing(const struct arch *arch, struct err *e)
{
    if (arch->experts_per_token > arch->experts)
        return err_set(e, ERR_FORMAT, "'num_experts_per_tok' is %" PRIu64 ", but there %s %" PRIu64 " expert%s",
                       arch->experts_per_token, is_are(arch->experts), arch->experts, plural(arch->experts));
    if (arch->experts % arch->groups != 0)
        return err_set(e, ERR_FORMAT, "'n_group' is %" PRIu64 ", which does not divide %" PRIu64 " experts",
                       arch->groups, arch->experts);
    if (arch->topk_groups > arch->groups)
        return err_set(e, ERR_FORMAT, "'topk_group' is %" PRIu64 ", but there %s %" PRIu64 " group%s",
                       arch->topk_groups, is_are(arch->groups), arch->groups, plural(arch->groups));
    return true;
}

static bool read_routing(struct arch *arch, const struct config *c, struct err *e)
{
    static const char *const scorings[] = {[SCORING_SOFTMAX] = "softmax", [SCORING_SIGMOID] = "sigmoid"};
    static const char *const topks[] = {
        [TOPK_GREEDY] = "greedy", [TOPK_GROUP_LIMITED] = "group_limited_greedy", [TOPK_NOAUX_TC] = "noaux_tc"};
    const struct family_defaults *d = &defaults[arch->family];
    unsigned scoring = d->scoring, topk = d->topk;

    arch->norm_topk_prob = d->norm_topk_prob;
    arch->routed_scaling = 1.0;
    if (!read_choice(c->text, "scoring_func", scorings, 2, &scoring, e) ||
        !read_choice(c->text, "topk_method", topks, 3, &topk, e) ||
        !read_optional_bool(c->text, "norm_topk_prob", &arch->norm_topk_prob, e))
        return false;
    arch->scoring = (enum arch_scoring)scoring;
    arch->topk = (enum arch_topk)topk;
    if (!read_groups(arch, c, e))
        return false;
    if (arch->experts == 0)
        return true;
    /* V3's own code would take 2.5 for a model that does not say; V2's takes 1. */
    if (arch->family != ARCH_DEEPSEEK_V2 && !read_double(c, c->text, "routed_scaling_factor", &arch->routed_scaling, e))
        return false;
    return read_optional_double(c, c->text, "routed_scaling_factor", &arch->routed_scaling, e) &&
           check_routing(arch, e);
}

/* ---- rope ---- */

static bool read_yarn(struct arch *arch, const struct config *c, const struct json *o, struct err *e)
{
    static const char key[] = "original_max_position_embeddings";

    arch->yarn = true;
    arch->yarn_beta_fast = 32;
    arch->yarn_beta_slow = 1;
    arch->yarn_has_mscale = get(o, "mscale") != NULL;
    arch->yarn_has_mscale_all_dim = get(o, "mscale_all_dim") != NULL;
    return read_double(c, o, "factor", &arch->yarn_factor, e) &&
           json_need_u64(c->doc, o, key, &arch->yarn_original_positions, e) &&
           check_range(key, arch->yarn_original_positions, 1, 1u << 30, e) &&
           read_optional_double(c, o, "beta_fast", &arch->yarn_beta_fast, e) &&
           read_optional_double(c, o, "beta_slow", &arch->yarn_beta_slow, e) &&
           read_optional_double(c, o, "mscale", &arch->yarn_mscale, e) &&
           read_optional_double(c, o, "mscale_all_dim", &arch->yarn_mscale_all_dim, e);
}

static bool read_rope(struct arch *arch, const struct config *c, struct err *e)
{
    const struct json *newer = get(c->text, "rope_parameters"); /* transformers 5: rope_theta moved in here */
    const struct json *o = get(c->text, "rope_scaling");
    const char *type;

    arch->rope_theta = 10000;
    if (!o)
        o = newer;
    if (!read_optional_double(c, c->text, "rope_theta", &arch->rope_theta, e))
        return false;
    if (!o)
        return true;
    if (json_type(o) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "'rope_scaling' is %s, not an object", json_type_name(json_type(o)));
    if (newer && !read_optional_double(c, newer, "rope_theta", &arch->rope_theta, e))
        return false;
    if (!read_optional_string(o, "type", &type, e) || (!type && !read_optional_string(o, "rope_type", &type, e)))
        return false;
    if (!type || strcmp(type, "default") == 0)
        return type || o == newer || err_set(e, ERR_FORMAT, "'rope_scaling' has no 'type'");
    if (strcmp(type, "yarn") != 0)
        return err_set(e, ERR_UNSUPPORTED, "'rope_scaling' is of type '%s', and only yarn is known", type);
    return read_yarn(arch, c, o, e) || err_in(e, "'rope_scaling'");
}

/* ---- quantization_config ---- */

static bool read_block(struct arch *arch, const struct config *c, const struct json *o, const char *key, struct err *e)
{
    const struct json *v = get(o, key), *second = NULL;

    if (!v)
        return true;
    if (json_type(v) == JSON_ARRAY && json_count(v) == 2)
        second = json_next(json_first(v));
    if (!second || !json_u64(c->doc, json_first(v), &arch->quant_block_rows) ||
        !json_u64(c->doc, second, &arch->quant_block_cols))
        return err_set(e, ERR_FORMAT, "'%s' is not two whole numbers", key);
    return check_range(key, arch->quant_block_rows, 1, 1u << 16, e) &&
           check_range(key, arch->quant_block_cols, 1, 1u << 16, e);
}

static void keep_group(struct arch *arch, uint64_t cols)
{
    for (size_t i = 0; i < ARCH_GROUPS_MAX && cols > 0; i++) {
        if (arch->quant_groups[i] == cols)
            return;
        if (arch->quant_groups[i] == 0) {
            arch->quant_groups[i] = cols;
            return;
        }
    }
}

bool arch_has_group(const struct arch *arch, uint64_t cols)
{
    for (size_t i = 0; i < ARCH_GROUPS_MAX; i++)
        if (arch->quant_groups[i] == cols)
            return cols > 0;
    return false;
}

static bool read_config_group(struct arch *arch, const struct config *c, const struct json *group, struct err *e)
{
    const struct json *weights = get(group, "weights");
    const char *type;

    if (!weights)
        return true;
    if (!read_optional_string(weights, "type", &type, e))
        return false;
    if (type && strcmp(type, "float") == 0)
        return read_block(arch, c, weights, "block_structure", e);
    const struct json *size = get(weights, "group_size");
    uint64_t cols = 0;
    if (!size || !json_u64(c->doc, size, &cols))
        cols = 0; /* null, or -1: per channel */
    keep_group(arch, cols);
    if (arch->quant_bits > 0)
        return true;
    arch->quant_group_cols = cols;
    if (!json_need_u64(c->doc, weights, "num_bits", &arch->quant_bits, e) ||
        !check_range("num_bits", arch->quant_bits, 1, 64, e))
        return false;
    return true;
}

static bool read_compressed_tensors(struct arch *arch, struct arena *a, const struct config *c, const struct json *q,
                                    struct err *e)
{
    const char *format;

    arch->quant = QUANT_COMPRESSED_TENSORS;
    if (!read_optional_string(q, "format", &format, e))
        return false;
    arch->quant_format = format ? arena_strdup(a, format) : NULL;
    const struct json *groups = get(q, "config_groups");
    for (const struct json *g = groups ? json_first(groups) : NULL; g; g = json_next(g))
        if (!read_config_group(arch, c, g, e))
            return err_in(e, "config group '%s'", json_key(g) ? json_key(g) : "?");
    return true;
}

static bool read_fp8(struct arch *arch, const struct config *c, const struct json *q, struct err *e)
{
    const char *fmt, *scale_fmt;

    arch->quant = QUANT_FP8;
    if (!read_optional_string(q, "fmt", &fmt, e) || !read_optional_string(q, "scale_fmt", &scale_fmt, e))
        return false;
    if (fmt && strcmp(fmt, "e4m3") != 0)
        return err_set(e, ERR_UNSUPPORTED, "'fmt' is '%s', and only e4m3 is known", fmt);
    arch->quant_ue8m0 = scale_fmt && strcmp(scale_fmt, "ue8m0") == 0;
    return read_block(arch, c, q, "weight_block_size", e);
}

static bool read_quantization(struct arch *arch, struct arena *a, const struct config *c, struct err *e)
{
    const struct json *q = get_either(c, "quantization_config");
    const char *method;

    if (!q)
        return true;
    if (json_type(q) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "not an object but %s", json_type_name(json_type(q)));
    if (!json_need_string(q, "quant_method", &method, e))
        return false;
    if (strcmp(method, "fp8") == 0)
        return read_fp8(arch, c, q, e);
    if (strcmp(method, "compressed-tensors") == 0)
        return read_compressed_tensors(arch, a, c, q, e);
    arch->quant = QUANT_OTHER;
    arch->quant_format = arena_strdup(a, method);
    return true;
}

/* ---- the whole ---- */

static bool check_activation(const struct config *c, struct err *e)
{
    const char *act;

    if (!read_optional_string(c->text, "hidden_act", &act, e))
        return false;
    return !act || strcmp(act, "silu") == 0 ||
           err_set(e, ERR_UNSUPPORTED, "'hidden_act' is '%s', and only silu is known", act);
}

/* No published model of the family has any; without them a model that was trained with them would run, and be wrong. */
static bool check_biases(const struct config *c, struct err *e)
{
    bool bias = false;

    return read_optional_bool(c->text, "attention_bias", &bias, e) &&
           (!bias ||
            err_set(e, ERR_UNSUPPORTED, "'attention_bias' is true, and only linears without a bias are known"));
}

static bool read_config(struct arch *arch, struct arena *a, struct config *c, struct err *e)
{
    if (json_type(c->root) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "not an object but %s", json_type_name(json_type(c->root)));
    if (!read_family(arch, a, c, e))
        return false;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (!read_field(arch, c, &fields[i], e))
            return false;
    arch->rms_norm_eps = 1e-6;
    if (!read_torch_dtype(arch, a, c, e) || !check_activation(c, e) || !check_biases(c, e) ||
        !read_routing(arch, c, e) || !read_rope(arch, c, e) ||
        !read_optional_double(c, c->text, "rms_norm_eps", &arch->rms_norm_eps, e) ||
        !read_optional_bool(c->text, "tie_word_embeddings", &arch->tied_embeddings, e))
        return false;
    if (read_quantization(arch, a, c, e))
        return true;
    err_rule(e, "quant-config-malformed");
    return err_in(e, "'quantization_config'");
}

bool arch_parse(struct arch *arch, struct arena *a, const char *config, size_t bytes, struct err *e)
{
    struct json_doc doc = {0};
    bool ok = false;

    memset(arch, 0, sizeof *arch);
    if (json_parse(&doc, config, bytes, JSON_STRICT, e)) {
        struct config c = {.doc = &doc, .root = doc.root, .text = doc.root};
        ok = read_config(arch, a, &c, e);
    }
    json_release(&doc);
    return ok || err_in(e, "config.json");
}

/* The family decides nothing that a field does not say. Floats are hexadecimal, so that none is rounded. */
void arch_function_sha256(const struct arch *a, char hex[HASH_HEX_BYTES])
{
    struct buf text = {0};

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].offset != AT(max_positions))
            buf_printf(&text, "%s %" PRIu64 "\n", fields[i].key,
                       *(const uint64_t *)(const void *)((const char *)a + fields[i].offset));
    buf_printf(&text, "n_group %" PRIu64 "\ntopk_group %" PRIu64 "\nscoring %d\ntopk %d\nnorm_topk_prob %d\n",
               a->groups, a->topk_groups, a->scoring, a->topk, a->norm_topk_prob);
    buf_printf(&text, "routed_scaling %a\nrms_norm_eps %a\nrope_theta %a\ntied %d\n", a->routed_scaling,
               a->rms_norm_eps, a->rope_theta, a->tied_embeddings);
    if (a->yarn)
        buf_printf(&text, "yarn %a %a %a %" PRIu64 " %d %a %d %a\n", a->yarn_factor, a->yarn_beta_fast,
                   a->yarn_beta_slow, a->yarn_original_positions, a->yarn_has_mscale, a->yarn_mscale,
                   a->yarn_has_mscale_all_dim, a->yarn_mscale_all_dim);
    hash_hex(text.data, text.bytes, hex);
    buf_release(&text);
}

bool arch_is_moe_layer(const struct arch *arch, uint64_t layer)
{
    if (arch->experts == 0)
        return false;
    return layer >= arch->layers ||
           (layer >= arch->first_dense_layers && (arch->moe_layer_freq < 2 || layer % arch->moe_layer_freq == 0));
}

uint64_t arch_layers_stored(const struct arch *arch)
{
    return arch->layers + arch->mtp_layers;
}
