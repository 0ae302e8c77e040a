#include "convert/quant_config.h"

#include <stdlib.h>
#include <string.h>

#include "convert/quant_modules.h"
#include "formats/json.h"
#include "formats/json_edit.h"

/* Unquantized modules have set 0; those of group i set i + 1. */
#define SET_PLAIN 0u

#define QUANTIZATION "quantization_config"
#define TEXT_CONFIG  "text_config"

/* Four groups and "channel", symmetric or not, three kinds of FP8: more is a mistake of ours. */
#define GROUPS_MAX 16u

struct work {
    struct arena arena;
    const struct arch *arch;
    struct modules modules;
    const struct scheme *groups[GROUPS_MAX]; /* one scheme for each group */
    size_t group_count;
};

static bool is_deepseek_fp8(const struct scheme *s)
{
    return s->kind == SCHEME_FP8_BLOCK && !s->compressed_tensors;
}

/* ---- what there is to say ---- */

static bool any_quantized(const struct modules *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (scheme_is_quantized(m->items[i].scheme))
            return true;
    return false;
}

/* The source's own words still hold: whatever is quantized was so before, in the same storage. */
static bool is_unchanged(const struct modules *m)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct scheme *to = m->items[i].scheme, *from = m->items[i].stored;
        if ((scheme_is_quantized(to) || scheme_is_quantized(from)) && !scheme_same_storage(to, from))
            return false;
    }
    return true;
}

static const struct module *find_module(const struct modules *m, bool (*is)(const struct scheme *))
{
    for (size_t i = 0; i < m->count; i++)
        if (is(m->items[i].scheme))
            return &m->items[i];
    return NULL;
}

static bool is_per_tensor(const struct scheme *s)
{
    return s->kind == SCHEME_FP8_TENSOR;
}

static bool is_compressed_tensors(const struct scheme *s)
{
    return scheme_is_quantized(s) && !is_deepseek_fp8(s);
}

static bool refuse_mixtures(const struct modules *m, struct err *e)
{
    const struct module *tensor = find_module(m, is_per_tensor);
    const struct module *deepseek = find_module(m, is_deepseek_fp8), *other = find_module(m, is_compressed_tensors);
    char a[SCHEME_TEXT], b[SCHEME_TEXT];

    if (tensor)
        return err_set(e, ERR_UNSUPPORTED,
                       "'%s' keeps per-tensor FP8, which can stay only where no linear layer changes", tensor->name);
    if (deepseek && other)
        return err_set(e, ERR_UNSUPPORTED,
                       "'%s' is %s in DeepSeek's layout and '%s' is %s, and config.json names one method for all; "
                       "layout 'compressed-tensors' holds both",
                       deepseek->name, scheme_text(deepseek->scheme, a), other->name, scheme_text(other->scheme, b));
    for (size_t i = 0; deepseek && i < m->count; i++) {
        const struct scheme *s = m->items[i].scheme, *first = deepseek->scheme;
        if (is_deepseek_fp8(s) && (s->block_rows != first->block_rows || s->block_cols != first->block_cols))
            return err_set(e, ERR_UNSUPPORTED,
                           "'%s' is %s and '%s' is %s, and config.json names one block size for all", deepseek->name,
                           scheme_text(first, a), m->items[i].name, scheme_text(s, b));
    }
    return true;
}

/* ---- DeepSeek's own: quant_method fp8 ---- */

/* What readers of the family's FP8 files leave alone without being told. */
static bool follows_convention(const struct modules *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (scheme_is_quantized(m->items[i].scheme) != role_get(m->items[i].role)->quantizable)
            return false;
    return true;
}

static bool all_powers_of_two(const struct modules *m)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct scheme *s = m->items[i].scheme;
        if (is_deepseek_fp8(s) && s->scale != SCALE_F32_POW2 && s->scale != SCALE_E8M0)
            return false;
    }
    return true;
}

/* vLLM reads the first key and SGLang, by version, either; names in full, since they know no patterns here. */
static void put_skipped(struct json_writer *w, const char *key, const struct modules *m)
{
    json_begin_array(w, key);
    for (size_t i = 0; i < m->count; i++)
        if (!scheme_is_quantized(m->items[i].scheme))
            json_put_string(w, NULL, m->items[i].name);
    json_end(w, ']');
}

static void put_block(struct json_writer *w, const char *key, const struct scheme *s)
{
    bool compact = w->compact;

    json_begin_array(w, key);
    w->compact = true;
    json_put_u64(w, NULL, s->block_rows);
    json_put_u64(w, NULL, s->block_cols);
    json_end(w, ']');
    w->compact = compact;
}

static void write_fp8(struct json_writer *w, const struct work *k)
{
    const struct modules *m = &k->modules;

    json_begin_object(w, NULL);
    json_put_string(w, "activation_scheme", "dynamic");
    json_put_string(w, "fmt", "e4m3");
    json_put_string(w, "quant_method", "fp8");
    put_block(w, "weight_block_size", find_module(m, is_deepseek_fp8)->scheme);
    if (all_powers_of_two(m))
        json_put_string(w, "scale_fmt", "ue8m0");
    if (!follows_convention(m)) {
        put_skipped(w, "ignored_layers", m);
        put_skipped(w, "modules_to_not_convert", m);
    }
    json_end(w, '}');
}

/* ---- compressed-tensors ---- */

static bool same_group(const struct scheme *a, const struct scheme *b)
{
    return a->kind == b->kind && a->group_cols == b->group_cols && a->asymmetric == b->asymmetric &&
           a->block_rows == b->block_rows && a->block_cols == b->block_cols;
}

/* int4 before FP8, small groups before large ones: the order must not hang on the order of the file. */
static int compare_groups(const void *a, const void *b)
{
    const struct scheme *x = *(const struct scheme *const *)a, *y = *(const struct scheme *const *)b;
    const int64_t difference[] = {
        (int64_t)y->kind - (int64_t)x->kind,
        (int64_t)x->group_cols - (int64_t)y->group_cols,
        (int64_t)x->asymmetric - (int64_t)y->asymmetric,
        (int64_t)x->block_rows - (int64_t)y->block_rows,
        (int64_t)x->block_cols - (int64_t)y->block_cols,
    };

    for (size_t i = 0; i < sizeof difference / sizeof difference[0]; i++)
        if (difference[i] != 0)
            return difference[i] < 0 ? -1 : 1;
    return 0;
}

static uint32_t set_of(const struct work *k, const struct scheme *s)
{
    for (size_t i = 0; i < k->group_count; i++)
        if (same_group(k->groups[i], s))
            return (uint32_t)i + 1;
    return SET_PLAIN;
}

static bool find_groups(struct work *k, struct err *e)
{
    struct modules *m = &k->modules;

    for (size_t i = 0; i < m->count; i++) {
        const struct scheme *s = m->items[i].scheme;
        if (!scheme_is_quantized(s) || set_of(k, s) != SET_PLAIN)
            continue;
        if (k->group_count == GROUPS_MAX)
            return err_set(e, ERR_UNSUPPORTED, "more than %u schemes in one file", GROUPS_MAX);
        k->groups[k->group_count++] = s;
    }
    qsort(k->groups, k->group_count, sizeof(const struct scheme *), compare_groups);
    for (size_t i = 0; i < m->count; i++)
        m->items[i].set = scheme_is_quantized(m->items[i].scheme) ? set_of(k, m->items[i].scheme) : SET_PLAIN;
    return true;
}

static const char *group_format(const struct scheme *s)
{
    return s->kind == SCHEME_INT4 ? "pack-quantized" : "float-quantized";
}

static const char *top_format(const struct work *k)
{
    for (size_t i = 1; i < k->group_count; i++)
        if (strcmp(group_format(k->groups[i]), group_format(k->groups[0])) != 0)
            return "mixed-precision";
    return group_format(k->groups[0]);
}

static void put_strings(struct json_writer *w, const char *key, const struct entries *entries)
{
    json_begin_array(w, key);
    for (size_t i = 0; i < entries->count; i++)
        json_put_string(w, NULL, entries->items[i]);
    json_end(w, ']');
}

/* The key set that the library's strict reader knows, all of it. */
struct quant_args {
    unsigned num_bits;
    const char *type;
    bool symmetric;
    const char *strategy;
    uint32_t group_size;        /* 0: null */
    const struct scheme *block; /* or NULL */
    bool dynamic;
};

static void put_args(struct json_writer *w, const char *key, const struct quant_args *q)
{
    json_begin_object(w, key);
    json_put_u64(w, "num_bits", q->num_bits);
    json_put_string(w, "type", q->type);
    json_put_bool(w, "symmetric", q->symmetric);
    json_put_string(w, "strategy", q->strategy);
    if (q->group_size)
        json_put_u64(w, "group_size", q->group_size);
    else
        json_put_string(w, "group_size", NULL);
    json_put_bool(w, "dynamic", q->dynamic);
    json_put_string(w, "actorder", NULL);
    if (q->block)
        put_block(w, "block_structure", q->block);
    else
        json_put_string(w, "block_structure", NULL);
    /* An observer watches weights; what is scaled as it comes has none. */
    json_put_string(w, "observer", q->dynamic ? NULL : "minmax");
    json_begin_object(w, "observer_kwargs");
    json_end(w, '}');
    json_end(w, '}');
}

static void put_weights(struct json_writer *w, const struct scheme *s)
{
    bool int4 = s->kind == SCHEME_INT4, block = s->kind == SCHEME_FP8_BLOCK;
    struct quant_args q = {
        .num_bits = int4 ? 4 : 8,
        .type = int4 ? "int" : "float",
        .symmetric = !s->asymmetric,
        .strategy = block           ? "block"
                    : s->group_cols ? "group"
                                    : "channel",
        .group_size = s->group_cols,
        .block = block ? s : NULL,
    };

    put_args(w, "weights", &q);
}

/* int4 weights meet 16-bit activations; FP8 weights meet FP8 activations, scaled as they come. */
static void put_activations(struct json_writer *w, const struct scheme *s)
{
    bool block = s->kind == SCHEME_FP8_BLOCK;
    struct quant_args q = {
        .num_bits = 8,
        .type = "float",
        .symmetric = true,
        .strategy = block ? "group" : "token",
        .group_size = block ? s->block_cols : 0,
        .dynamic = true,
    };

    if (s->kind == SCHEME_INT4)
        json_put_string(w, "input_activations", NULL);
    else
        put_args(w, "input_activations", &q);
    json_put_string(w, "output_activations", NULL);
}

static void put_group(struct json_writer *w, struct work *k, size_t i)
{
    static const char *linear[] = {"Linear"};
    struct entries targets = {linear, 1};

    json_begin_object(w, arena_printf(&k->arena, "group_%zu", i));
    if (k->group_count > 1) {
        modules_cover(&k->modules, &k->arena, (uint32_t)i + 1, &targets);
        json_put_string(w, "format", group_format(k->groups[i]));
    }
    put_strings(w, "targets", &targets);
    put_weights(w, k->groups[i]);
    put_activations(w, k->groups[i]);
    json_end(w, '}');
}

static void write_compressed_tensors(struct json_writer *w, struct work *k)
{
    struct entries ignore = {0};

    modules_cover(&k->modules, &k->arena, SET_PLAIN, &ignore);
    json_begin_object(w, NULL);
    json_put_string(w, "quant_method", "compressed-tensors");
    json_put_string(w, "format", top_format(k));
    json_put_string(w, "quantization_status", "compressed");
    json_begin_object(w, "config_groups");
    for (size_t i = 0; i < k->group_count; i++)
        put_group(w, k, i);
    json_end(w, '}');
    put_strings(w, "ignore", &ignore);
    json_put_string(w, "kv_cache_scheme", NULL);
    json_end(w, '}');
}

/* ---- dtype ---- */

static const char *torch_name(enum dtype_id dtype)
{
    switch ((unsigned)dtype) {
    case DTYPE_F16:
        return "\"float16\"";
    case DTYPE_BF16:
        return "\"bfloat16\"";
    case DTYPE_F32:
        return "\"float32\"";
    default:
        return NULL;
    }
}

/* The dtype that all float matrices come out in, when any of them changed to it; NONE: leave the key alone. */
static enum dtype_id common_dtype(const struct engine_weight *rows, size_t count)
{
    enum dtype_id common = DTYPE_NONE;
    bool changed = false;

    for (size_t i = 0; i < count; i++) {
        const struct weight *w = rows[i].weight;
        const struct scheme *s = rows[i].scheme;
        if (s->kind != SCHEME_PLAIN || w->id.role == ROLE_UNKNOWN || role_get(w->id.role)->exact ||
            w->parts[PART_CODES]->rank != 2)
            continue;
        if (common != DTYPE_NONE && s->dtype != common)
            return DTYPE_NONE;
        common = s->dtype;
        changed |= !scheme_same_storage(s, &w->stored);
    }
    return changed ? common : DTYPE_NONE;
}

static bool has_member(const struct buf *text, const char *key)
{
    size_t begin, end;

    return json_member_span(text->data, text->bytes, key, &begin, &end);
}

static void put_dtype(struct buf *text, const char *name)
{
    static const char *const keys[] = {"torch_dtype", "dtype"};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (has_member(text, keys[i]))
            json_edit_put(text, keys[i], name, NULL);
}

static void follow_dtype(struct buf *text, const struct engine_weight *rows, size_t count)
{
    const char *name = torch_name(common_dtype(rows, count));
    struct buf inner = {0};

    if (!name)
        return;
    put_dtype(text, name);
    if (json_edit_copy(text, TEXT_CONFIG, &inner)) {
        put_dtype(&inner, name);
        json_edit_put(text, TEXT_CONFIG, inner.data, NULL);
    }
    buf_release(&inner);
}

/* ---- the whole ---- */

static bool write_value(struct work *k, struct buf *value, const char *indent, struct err *e)
{
    struct json_writer w = {.out = value, .compact = !indent};

    if (!refuse_mixtures(&k->modules, e))
        return false;
    if (find_module(&k->modules, is_deepseek_fp8)) {
        write_fp8(&w, k);
    } else {
        if (!find_groups(k, e))
            return false;
        write_compressed_tensors(&w, k);
    }
    if (indent)
        json_edit_shift(value, indent);
    return true;
}

static bool put_quantization(struct work *k, struct buf *object, struct err *e)
{
    struct buf value = {0};

    if (!any_quantized(&k->modules)) {
        json_edit_remove(object, QUANTIZATION);
        return true;
    }
    const char *indent = json_edit_indent(&k->arena, object->data, object->bytes);
    bool ok = write_value(k, &value, indent, e);
    if (ok)
        json_edit_put(object, QUANTIZATION, value.data, indent);
    buf_release(&value);
    return ok;
}

/* Where the language model has a config of its own, its quantization stands there: Kimi-K2.5's class lifts the inner
 * one to the outer, and vLLM reads the inner one where there is no outer. An outer one of the source's is kept outer.
 */
static bool follow_quantization(struct work *k, struct buf *text, struct err *e)
{
    struct buf inner = {0};

    if (is_unchanged(&k->modules) && any_quantized(&k->modules) == (k->arch->quant != QUANT_NONE))
        return true;
    bool outer = has_member(text, QUANTIZATION), nested = json_edit_copy(text, TEXT_CONFIG, &inner), ok;
    if (outer && nested && has_member(&inner, QUANTIZATION))
        ok = err_set(e, ERR_UNSUPPORTED, "'" QUANTIZATION "' stands at the root and inside '" TEXT_CONFIG "' as well");
    else
        ok = put_quantization(k, nested && !outer ? &inner : text, e);
    if (ok && nested && !outer)
        json_edit_put(text, TEXT_CONFIG, inner.data, NULL);
    buf_release(&inner);
    return ok;
}

/* The scanner accepts what we read; splicing relies on it. */
static bool check_object(const char *text, size_t bytes, struct err *e)
{
    struct json_doc d = {0};

    bool ok = json_parse(&d, text, bytes, JSON_STRICT, e);
    if (ok && json_type(d.root) != JSON_OBJECT)
        ok = err_set(e, ERR_FORMAT, "%s, not an object", json_type_name(json_type(d.root)));
    json_release(&d);
    return ok;
}

bool quant_config_write(struct buf *out, const struct arch *arch, const char *source_config, size_t bytes,
                        const struct engine_weight *rows, size_t count, struct err *e)
{
    struct work k = {.arch = arch};
    struct buf text = {0};
    bool ok = false;

    buf_add(&text, source_config, bytes);
    if (!check_object(source_config, bytes, e))
        goto done;
    modules_collect(&k.modules, &k.arena, rows, count);
    if (!follow_quantization(&k, &text, e))
        goto done;
    follow_dtype(&text, rows, count);
    /* The source's own words are the source's to answer for. */
    if (!is_unchanged(&k.modules) && !quant_config_check(text.data, text.bytes, rows, count, e))
        goto done;
    buf_add(out, text.data, text.bytes);
    ok = true;
done:
    buf_release(&text);
    arena_release(&k.arena);
    return ok || err_in(e, "config.json");
}
