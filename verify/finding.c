#include "verify/finding.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NOTE    SEVERITY_NOTE
#define WARNING SEVERITY_WARNING
#define ERROR   SEVERITY_ERROR

/* clang-format off */
static const struct rule rules[RULE_COUNT] = {
    [RULE_MALFORMED]                 = {"malformed",                 ERROR,   "a file that cannot be read as what it is"},

    [RULE_BITS_UNKNOWN]              = {"bits-unknown",              ERROR,   "packed codes of another width than 4 bits"},
    [RULE_CODES_DTYPE]               = {"codes-dtype",               ERROR,   "codes of a type that their name does not go with"},
    [RULE_COLUMNS_REORDERED]         = {"columns-reordered",         ERROR,   "columns in activation order (weight_g_idx)"},
    [RULE_CONFIG_MALFORMED]          = {"config-malformed",          ERROR,   "config.json cannot be read, or says what cannot be"},
    [RULE_CONFIG_MISSING]            = {"config-missing",            ERROR,   "there is no config.json"},
    [RULE_INDEX_LACKS_TENSOR]        = {"index-lacks-tensor",        ERROR,   "a tensor of a shard that the index does not name"},
    [RULE_INDEX_MALFORMED]           = {"index-malformed",           ERROR,   "model.safetensors.index.json cannot be read"},
    [RULE_INDEX_MISSING]             = {"index-missing",             ERROR,   "several shards and no index"},
    [RULE_INDEX_NAMES_ABSENT_TENSOR] = {"index-names-absent-tensor", ERROR,   "the index names a tensor that its shard does not hold"},
    [RULE_INDEX_WRONG_SHARD]         = {"index-wrong-shard",         ERROR,   "a tensor is in another shard than the index says"},
    [RULE_PACKED_SHAPE]              = {"packed-shape",              ERROR,   "weight_shape is absent, or not the shape that config.json promises"},
    [RULE_PART_ORPHAN]               = {"part-orphan",               ERROR,   "scales or zero points of no weight"},
    [RULE_QUANT_CONFIG_MALFORMED]    = {"quant-config-malformed",    ERROR,   "quantization_config makes no sense"},
    [RULE_SCALE_DTYPE]               = {"scale-dtype",               ERROR,   "scales of a type that scales do not have"},
    [RULE_SCALE_MISSING]             = {"scale-missing",             ERROR,   "codes without scales"},
    [RULE_SCALE_SHAPE]               = {"scale-shape",               ERROR,   "scales whose shape their codes do not need"},
    [RULE_SCALE_TWICE]               = {"scale-twice",               ERROR,   "a weight with two tensors of scales"},
    [RULE_SHAPE_MISMATCH]            = {"shape-mismatch",            ERROR,   "a tensor of another shape than config.json promises"},
    [RULE_SHARD_MALFORMED]           = {"shard-malformed",           ERROR,   "a shard whose header cannot be read"},
    [RULE_SHARD_MISSING]             = {"shard-missing",             ERROR,   "a shard that the index names is not there"},
    [RULE_SHARD_TRUNCATED]           = {"shard-truncated",           ERROR,   "a shard that is shorter than its header says"},
    [RULE_TENSOR_TWICE]              = {"tensor-twice",              ERROR,   "a tensor in two shards"},
    [RULE_WEIGHT_TWICE]              = {"weight-twice",              ERROR,   "a weight that is stored packed and plain"},
    [RULE_ZERO_POINT_SHAPE]          = {"zero-point-shape",          ERROR,   "zero points whose type or shape their scales do not need"},
    [RULE_HEADER_FIELDS]             = {"header-fields",             NOTE,    "fields of tensors that readers ignore"},
    [RULE_INDEX_TOTAL_SIZE]          = {"index-total-size",          NOTE,    "the index's total_size is not what the headers say"},
    [RULE_SHARD_REMOVED]             = {"shard-removed",             NOTE,    "only the header of a shard is left (--delete-source)"},
    [RULE_SHARD_UNREAD]              = {"shard-unread",              WARNING, "a .safetensors file that nothing names; some engines load it all the same"},

    [RULE_WEIGHT_MISSING]            = {"weight-missing",            ERROR,   "weights that config.json promises are not there"},
    [RULE_MTP_MISSING]               = {"mtp-missing",               ERROR,   "config.json declares an MTP layer that is not stored"},
    [RULE_MTP_UNDECLARED]            = {"mtp-undeclared",            ERROR,   "an MTP layer is stored that config.json does not declare"},
    [RULE_NAME_UNKNOWN]              = {"name-unknown",              WARNING, "tensors that have no place in this architecture"},
    [RULE_ROPE_CACHE]                = {"rope-cache",                NOTE,    "rotary caches that engines compute themselves"},
    [RULE_HEAD_TIED]                 = {"head-tied",                 NOTE,    "a head is stored although config.json ties it to the embedding"},
    [RULE_QUANT_CONFIG_MISSING]      = {"quant-config-missing",      ERROR,   "weights are quantized and config.json does not say so"},
    [RULE_QUANT_CONFIG_MISMATCH]     = {"quant-config-mismatch",     ERROR,   "weights are quantized in another way than config.json says"},
    [RULE_QUANT_FORMAT]              = {"quant-format",              ERROR,   "quantization_config names a format that is not the one stored"},
    [RULE_QUANT_IGNORE]              = {"quant-ignore",              ERROR,   "the ignore list names quantized weights, or lacks plain ones"},
    [RULE_QUANT_IGNORE_UNMATCHED]    = {"quant-ignore-unmatched",    WARNING, "the ignore list names what is not there"},

    [RULE_INPUT_SCALE_MISSING]       = {"input-scale-missing",       ERROR,   "config.json promises static activation scales that are not there"},
    [RULE_INPUT_SCALE_UNUSED]        = {"input-scale-unused",        WARNING, "static activation scales that config.json does not speak of"},

    [RULE_ROUTER_QUANTIZED]          = {"router-quantized",          ERROR,   "a router is stored in less than 16 bits; engines build it without quantization"},
    [RULE_ROUTER_BIAS_NARROWED]      = {"router-bias-narrowed",      ERROR,   "a router's correction bias is not F32"},
    [RULE_NORM_QUANTIZED]            = {"norm-quantized",            ERROR,   "a norm is stored in less than 16 bits"},
    [RULE_NORM_DTYPE]                = {"norm-dtype",                WARNING, "a norm that is neither BF16 nor F32"},
    [RULE_NORMS_MIXED]               = {"norms-mixed",               NOTE,    "some norms are F32 and some BF16"},

    [RULE_FUSED_SPLIT]               = {"fused-split",               ERROR,   "modules that engines load as one are stored in two ways"},
    [RULE_ENGINE_REFUSES]            = {"engine-refuses",            WARNING, "an engine refuses to load it"},
    [RULE_ENGINE_LIMIT]              = {"engine-limit",              NOTE,    "an engine runs it slowly, or needs an option for it"},
    [RULE_KV_B_PACKED]               = {"kv-b-packed",               WARNING, "kv_b_proj is packed: SGLang cannot load it"},
    [RULE_QUANTIZED_OUTSIDE]         = {"quantized-outside",         WARNING, "a layer is quantized that engines build without a quantized form"},
    [RULE_HEADER_LONG]               = {"header-long",               WARNING, "a header that is longer than the hub reads"},
    [RULE_MISALIGNED]                = {"misaligned",                NOTE,    "tensors that are not aligned to their type"},

    [RULE_TOKENIZER_MISSING]         = {"tokenizer-missing",         ERROR,   "neither tokenizer.json nor another tokenizer is there"},
    [RULE_TOKENIZER_MALFORMED]       = {"tokenizer-malformed",       ERROR,   "the tokenizer cannot be read"},
    [RULE_TOKENIZER_UNSUPPORTED]     = {"tokenizer-unsupported",     WARNING, "the tokenizer has steps that are not known here"},
    [RULE_SIDE_FILE_MALFORMED]       = {"side-file-malformed",       ERROR,   "a side file cannot be read as what it is"},
    [RULE_TOKEN_ID_RANGE]            = {"token-id-range",            ERROR,   "a special token's id is past the vocabulary"},
    [RULE_GENERATION_CONFIG_MISSING] = {"generation-config-missing", NOTE,    "there is no generation_config.json: engines use their own defaults"},

    [RULE_SCALE_ZERO]                = {"scale-zero",                ERROR,   "a scale is zero: all under it is lost"},
    [RULE_SCALE_NAN]                 = {"scale-nan",                 ERROR,   "a scale is not a number"},
    [RULE_SCALE_INF]                 = {"scale-inf",                 ERROR,   "a scale is infinite"},
    [RULE_SCALE_NEGATIVE]            = {"scale-negative",            ERROR,   "an FP8 scale is negative"},
    [RULE_SCALE_DENORMAL]            = {"scale-denormal",            WARNING, "a scale is denormal: GPUs take it for zero"},
    [RULE_SCALE_NOT_POW2]            = {"scale-not-pow2",            ERROR,   "a scale is no power of two though scale_fmt is ue8m0"},
    [RULE_SCALE_ABSURD]              = {"scale-absurd",              WARNING, "scales so small or large that no trained matrix has them"},
    [RULE_SCALE_SPLIT]               = {"scale-split",               WARNING, "scales of matrices that engines load as one differ: they take the largest"},
    [RULE_VALUE_NAN]                 = {"value-nan",                 ERROR,   "a weight is not a number (--deep)"},
    [RULE_VALUE_INF]                 = {"value-inf",                 ERROR,   "a weight is infinite (--deep)"},
    [RULE_WEIGHT_EMPTY]              = {"weight-empty",              WARNING, "a matrix of nothing but zeros (--deep)"},
    [RULE_GROUP_EMPTY]               = {"group-empty",               NOTE,    "groups of zeros whose scale is not 1 (--deep)"},

    [RULE_MANIFEST_MISSING]          = {"manifest-missing",          NOTE,    "there is no quern.json: nothing to hold files against"},
    [RULE_MANIFEST_MALFORMED]        = {"manifest-malformed",        ERROR,   "quern.json cannot be read"},
    [RULE_FILE_MISSING]              = {"file-missing",              ERROR,   "a file that quern.json lists is not there"},
    [RULE_FILE_SIZE]                 = {"file-size",                 ERROR,   "a file has another size than quern.json says"},
    [RULE_FILE_HASH]                 = {"file-hash",                 ERROR,   "a file has another SHA-256 than quern.json says"},
    [RULE_FILE_EXTRA]                = {"file-extra",                NOTE,    "a file that quern.json does not list"},
    [RULE_SHARD_EXTRA]               = {"shard-extra",               ERROR,   "a .safetensors file that quern.json does not list"},
    [RULE_ROW_MISSING]               = {"row-missing",               ERROR,   "a tensor that no row of quern.json accounts for"},
    [RULE_ROW_TENSOR_MISSING]        = {"row-tensor-missing",        ERROR,   "a row of quern.json names a tensor that is not there"},
    [RULE_ROW_TWICE]                 = {"row-twice",                 ERROR,   "a tensor in two rows of quern.json"},
    [RULE_ROW_SCHEME]                = {"row-scheme",                ERROR,   "a weight is stored in another way than quern.json says"},
    [RULE_ROW_SHAPE]                 = {"row-shape",                 ERROR,   "a weight has another shape than quern.json says"},

    [RULE_SOURCE_CONFIG]             = {"source-config",             ERROR,   "the source's config.json is not the one that the bundle was made from"},
    [RULE_SOURCE_FILE_MISSING]       = {"source-file-missing",       ERROR,   "a shard of the source that quern.json records is not there"},
    [RULE_SOURCE_FILE_SIZE]          = {"source-file-size",          ERROR,   "a shard of the source has another size than quern.json records"},
    [RULE_SOURCE_FILE_HASH]          = {"source-file-hash",          ERROR,   "a shard of the source has another SHA-256 than quern.json records (--deep)"},
    [RULE_SOURCE_TENSOR_MISSING]     = {"source-tensor-missing",     ERROR,   "the source lacks a tensor that a row was made from"},
    [RULE_SOURCE_UNUSED]             = {"source-unused",             ERROR,   "a tensor of the source is neither in a row nor dropped"},
    [RULE_SOURCE_MISMATCH]           = {"source-mismatch",           ERROR,   "the source gives other bytes than the bundle holds"},
    [RULE_SOURCE_ERROR]              = {"source-error",              ERROR,   "a weight is not as far from the source as quern.json says"},
    [RULE_METHOD_UNKNOWN]            = {"method-unknown",            ERROR,   "a row's method is not known to this version"},
    [RULE_SIDE_FILE_LOST]            = {"side-file-lost",            ERROR,   "a tokenizer or configuration file of the source is not in the bundle"},
    [RULE_SIDE_FILE_CHANGED]         = {"side-file-changed",         WARNING, "a tokenizer or configuration file is not as the source has it"},

    [RULE_FINGERPRINT_MISSING]       = {"fingerprint-missing",       NOTE,    "quern.json holds no fingerprint, and says why"},
    [RULE_FINGERPRINT_FAILED]        = {"fingerprint-failed",        ERROR,   "the forward pass does not run"},
    [RULE_FINGERPRINT_OFF]           = {"fingerprint-off",           ERROR,   "the forward pass gives other log-probabilities than quern.json records"},
    [RULE_ROUTER_FLIPS]              = {"router-flips",              NOTE,    "some tokens go to other experts than when the bundle was made"},
};
/* clang-format on */

const struct rule *rule_get(enum rule_id id)
{
    return &rules[id];
}

enum rule_id rule_find(const char *id)
{
    for (size_t i = 0; id && i < RULE_COUNT; i++)
        if (strcmp(rules[i].id, id) == 0)
            return (enum rule_id)i;
    return RULE_MALFORMED;
}

const char *severity_name(enum severity severity)
{
    static const char *const names[] = {[NOTE] = "note", [WARNING] = "warning", [ERROR] = "error"};

    return names[severity];
}

static void add_text(struct findings *f, enum rule_id rule, const char *text)
{
    if (f->count == f->room) {
        f->room = f->room ? 2 * f->room : 16;
        f->items = mem_grow(f->items, f->room, sizeof *f->items);
    }
    f->items[f->count++] = (struct finding){rule, arena_strdup(&f->arena, text)};
}

void findings_add(struct findings *f, enum rule_id rule, const char *fmt, ...)
{
    char text[1024];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    add_text(f, rule, text);
}

void findings_add_err(struct findings *f, const struct err *e)
{
    add_text(f, rule_find(e->rule), e->text);
}

static void take_err(void *ctx, const struct err *e)
{
    findings_add_err(ctx, e);
}

struct err_sink findings_sink(struct findings *f)
{
    return (struct err_sink){.take = take_err, .ctx = f};
}

size_t findings_count(const struct findings *f, enum severity severity)
{
    size_t count = 0;

    for (size_t i = 0; i < f->count; i++)
        count += rules[f->items[i].rule].severity == severity;
    return count;
}

bool findings_has(const struct findings *f, enum rule_id rule)
{
    for (size_t i = 0; i < f->count; i++)
        if (f->items[i].rule == rule)
            return true;
    return false;
}

void findings_sort(struct findings *f)
{
    struct finding *sorted = mem_alloc((f->count + 1) * sizeof *sorted);
    size_t n = 0;

    for (int s = ERROR; s >= NOTE; s--)
        for (size_t i = 0; i < f->count; i++)
            if ((int)rules[f->items[i].rule].severity == s)
                sorted[n++] = f->items[i];
    assert(n == f->count);
    mem_free(f->items);
    f->items = sorted;
    f->room = n + 1;
}

void findings_release(struct findings *f)
{
    mem_free(f->items);
    arena_release(&f->arena);
    *f = (struct findings){0};
}

void findings_put_json(const struct findings *f, struct json_writer *w)
{
    json_begin_array(w, "findings");
    for (size_t i = 0; i < f->count; i++) {
        const struct rule *rule = &rules[f->items[i].rule];
        json_begin_object(w, NULL);
        json_put_string(w, "rule", rule->id);
        json_put_string(w, "severity", severity_name(rule->severity));
        json_put_string(w, "text", f->items[i].text);
        json_end(w, '}');
    }
    json_end(w, ']');
}
