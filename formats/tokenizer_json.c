#include <string.h>

#include "formats/base/map.h"
#include "formats/base/utf8.h"
#include "formats/byte_level.h"
#include "formats/tokenizer_private.h"

/* GPT-2's pattern, which ByteLevel applies itself when use_regex says so. */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

struct reading {
    struct tokenizer *t;
    const struct json_doc *d;
    struct map by_key; /* the vocabulary as the file spells it; keys are the document's */
    bool byte_level;   /* the pre-tokenizer has ended in ByteLevel */
};

/* ---- members ---- */

static const struct json *get(const struct json *o, const char *key)
{
    const struct json *v = json_get(o, key);

    return v && json_type(v) != JSON_NULL ? v : NULL;
}

static bool wrong_type(const char *key, const struct json *v, enum json_type wanted, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s is %s, not %s", key, json_type_name(json_type(v)), json_type_name(wanted));
}

bool tokenizer_get_bool(const struct json *o, const char *key, bool *value, struct err *e)
{
    const struct json *v = get(o, key);

    if (v && json_type(v) != JSON_BOOL)
        return wrong_type(key, v, JSON_BOOL, e);
    if (v)
        *value = json_bool(v);
    return true;
}

bool tokenizer_get_string(const struct json *o, const char *key, const char **value, struct err *e)
{
    const struct json *v = get(o, key);

    if (v && json_type(v) != JSON_STRING)
        return wrong_type(key, v, JSON_STRING, e);
    if (v)
        *value = json_string(v);
    return true;
}

/* A member that must be an array; absent or null is an error too. */
static bool need_array(const struct json *o, const char *key, const struct json **array, struct err *e)
{
    *array = json_get(o, key);
    if (!*array)
        return err_set(e, ERR_FORMAT, "%s is missing", key);
    return json_type(*array) == JSON_ARRAY || wrong_type(key, *array, JSON_ARRAY, e);
}

/* The "type" of a component; an absent component is NULL. */
static bool component(const struct json *o, const char *key, const struct json **v, const char **type, struct err *e)
{
    *v = get(o, key);
    *type = NULL;
    if (!*v)
        return true;
    if (json_type(*v) != JSON_OBJECT)
        return wrong_type(key, *v, JSON_OBJECT, e);
    return json_need_string(*v, "type", type, e) || err_in(e, "%s", key);
}

static bool unknown(const char *what, const char *type, const char *known, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "%s '%s' is not supported (%s)", what, type, known);
}

/* ---- normalizer ---- */

static bool check_normalizer(const struct json *v, struct err *e)
{
    const char *type = NULL;
    const struct json *list = NULL;

    if (json_type(v) == JSON_NULL)
        return true;
    if (!json_need_string(v, "type", &type, e))
        return err_in(e, "normalizer");
    if (strcmp(type, "Sequence") != 0)
        return unknown("normalizer", type, "none is", e);
    if (!need_array(v, "normalizers", &list, e))
        return false;
    for (const struct json *m = json_first(list); m; m = json_next(m))
        if (!check_normalizer(m, e))
            return false;
    return true;
}

/* ---- pre-tokenizer ---- */

static bool read_pre_tokenizer(struct reading *r, const struct json *v, struct err *e);

/* A literal, with what a regular expression would read otherwise behind backslashes. */
static bool add_literal(struct tokenizer *t, const char *text, struct err *e)
{
    struct buf regex = {0};
    bool ok = false;

    for (; *text; text++) {
        if (strchr("\\.+*?()|[]{}^$#&-~", *text))
            buf_puts(&regex, "\\");
        buf_add(&regex, text, 1);
    }
    ok = tokenizer_add_split(t, regex.data ? regex.data : "", e);
    buf_release(&regex);
    return ok;
}

static bool read_split(struct reading *r, const struct json *v, struct err *e)
{
    const struct json *pattern = get(v, "pattern");
    const char *behavior = NULL, *regex = NULL, *literal = NULL;

    if (!json_need_string(v, "behavior", &behavior, e))
        return false;
    /* What is inverted in this behaviour is the same: both kinds of stretches become pieces. */
    if (strcmp(behavior, "Isolated") != 0)
        return unknown("Split behavior", behavior, "Isolated is", e);
    if (!pattern || json_type(pattern) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "Split has no pattern");
    if (!tokenizer_get_string(pattern, "Regex", &regex, e) || !tokenizer_get_string(pattern, "String", &literal, e))
        return false;
    if (regex)
        return tokenizer_add_split(r->t, regex, e);
    if (literal)
        return add_literal(r->t, literal, e);
    return err_set(e, ERR_FORMAT, "Split has a pattern that is neither Regex nor String");
}

static bool read_byte_level(struct reading *r, const struct json *v, struct err *e)
{
    bool prefix_space = true, use_regex = true; /* the library's defaults */

    if (!tokenizer_get_bool(v, "add_prefix_space", &prefix_space, e) ||
        !tokenizer_get_bool(v, "use_regex", &use_regex, e))
        return false;
    if (prefix_space)
        return err_set(e, ERR_UNSUPPORTED, "ByteLevel with add_prefix_space is not supported");
    r->byte_level = true;
    return !use_regex || tokenizer_add_split(r->t, GPT2_PATTERN, e);
}

/* DeepSeek-V2's tokenizer.json, as copies of it have it: Split by line ends, by letters, by punctuation, by \s+$ and by
 * CJK, then Digits with individual_digits, then ByteLevel without its pattern. llama.cpp's deepseek-llm has \p{N}+. */
static bool read_digits(struct reading *r, const struct json *v, struct err *e)
{
    bool individual = false;

    return tokenizer_get_bool(v, "individual_digits", &individual, e) &&
           tokenizer_add_split(r->t, individual ? "\\p{N}" : "\\p{N}+", e);
}

static bool read_sequence(struct reading *r, const struct json *v, struct err *e)
{
    const struct json *list = NULL;

    if (!need_array(v, "pretokenizers", &list, e))
        return false;
    for (const struct json *m = json_first(list); m; m = json_next(m))
        if (!read_pre_tokenizer(r, m, e))
            return false;
    return true;
}

static bool read_pre_tokenizer(struct reading *r, const struct json *v, struct err *e)
{
    static const struct {
        const char *type;
        bool (*read)(struct reading *r, const struct json *v, struct err *e);
    } known[] = {
        {"Sequence", read_sequence},
        {"Split", read_split},
        {"Digits", read_digits},
        {"ByteLevel", read_byte_level},
    };
    const char *type = NULL;

    if (json_type(v) != JSON_OBJECT)
        return wrong_type("pre_tokenizer", v, JSON_OBJECT, e);
    if (!json_need_string(v, "type", &type, e))
        return err_in(e, "pre_tokenizer");
    if (r->byte_level)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer '%s' behind ByteLevel is not supported", type);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i].type) == 0)
            return known[i].read(r, v, e);
    return unknown("pre_tokenizer", type, "Sequence, Split, Digits and ByteLevel are", e);
}

/* ---- post-processor and decoder ---- */

/* The first id of special_tokens[name], for the token that a template names. */
static bool template_id(struct reading *r, const struct json *v, const char *name, struct err *e)
{
    const struct json *all = get(v, "special_tokens"), *token = all ? get(all, name) : NULL;
    const struct json *ids = token ? get(token, "ids") : NULL, *first = ids ? json_first(ids) : NULL;
    uint64_t id = 0;

    if (!first || !json_u64(r->d, first, &id) || id >= BPE_IDS_MAX || json_next(first))
        return err_set(e, ERR_FORMAT, "post_processor: '%s' has no single id in special_tokens", name);
    r->t->bos_id = (uint32_t)id;
    r->t->template_bos = true;
    return true;
}

/* TemplateProcessing of a single text: [token] text; one behind the text is not for a text that goes on. */
static bool read_template(struct reading *r, const struct json *v, struct err *e)
{
    const struct json *single = NULL, *token = NULL;
    const char *name = NULL;

    if (!need_array(v, "single", &single, e))
        return err_in(e, "post_processor");
    if (json_first(single))
        token = get(json_first(single), "SpecialToken");
    if (!token)
        return true;
    return (json_need_string(token, "id", &name, e) || err_in(e, "post_processor")) && template_id(r, v, name, e);
}

static bool read_post_processor(struct reading *r, const struct json *v, struct err *e)
{
    const char *type = NULL;
    const struct json *list = NULL;

    if (!v)
        return true;
    if (json_type(v) != JSON_OBJECT)
        return wrong_type("post_processor", v, JSON_OBJECT, e);
    if (!json_need_string(v, "type", &type, e))
        return err_in(e, "post_processor");
    if (strcmp(type, "ByteLevel") == 0)
        return true; /* about offsets alone */
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(r, v, e);
    if (strcmp(type, "Sequence") != 0)
        return unknown("post_processor", type, "ByteLevel, TemplateProcessing and Sequence are", e);
    if (!need_array(v, "processors", &list, e))
        return false;
    for (const struct json *m = json_first(list); m; m = json_next(m))
        if (!read_post_processor(r, m, e))
            return false;
    return true;
}

static bool check_decoder(const struct json *root, struct err *e)
{
    const struct json *v = NULL;
    const char *type = NULL;

    if (!component(root, "decoder", &v, &type, e))
        return false;
    return !v || strcmp(type, "ByteLevel") == 0 || unknown("decoder", type, "ByteLevel is", e);
}

/* ---- model ---- */

/* Settings of the model that would change ids, and that this family leaves alone. */
static bool check_model(const struct reading *r, const struct json *m, struct err *e)
{
    static const char *const texts[] = {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"};
    const struct json *dropout = get(m, "dropout");
    bool byte_fallback = false;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *value = NULL;
        if (!tokenizer_get_string(m, texts[i], &value, e))
            return false;
        if (value && (*value || i == 0))
            return err_set(e, ERR_UNSUPPORTED, "BPE with %s '%s' is not supported", texts[i], value);
    }
    if (dropout && json_double(r->d, dropout) != 0)
        return err_set(e, ERR_UNSUPPORTED, "BPE with dropout is not supported");
    if (!tokenizer_get_bool(m, "byte_fallback", &byte_fallback, e))
        return false;
    return !byte_fallback || err_set(e, ERR_UNSUPPORTED, "BPE with byte_fallback is not supported");
}

static bool read_vocab(struct reading *r, const struct json *m, struct err *e)
{
    const struct json *vocab = json_get(m, "vocab");
    struct buf bytes = {0};
    bool ok = true;

    if (!vocab || json_type(vocab) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "the vocabulary is missing, or no object");
    for (const struct json *v = json_first(vocab); ok && v; v = json_next(v)) {
        const char *key = json_key(v);
        size_t key_bytes = strlen(key);
        uint64_t id = 0;
        if (!json_u64(r->d, v, &id) || id >= BPE_IDS_MAX) {
            ok = err_set(e, ERR_FORMAT, "the id of '%s' is no integer below %u", key, BPE_IDS_MAX);
            break;
        }
        if (byte_level_read(&bytes, key, key_bytes))
            ok = bpe_add_token(&r->t->bpe, (uint32_t)id, bytes.data ? bytes.data : "", bytes.bytes, false, e);
        else /* spelled in no bytes: a special token that stands here too */
            ok = bpe_add_token(&r->t->bpe, (uint32_t)id, key, key_bytes, true, e);
        if (ok)
            map_put(&r->by_key, key, (size_t)id);
    }
    buf_release(&bytes);
    return ok || err_in(e, "vocab");
}

/* ["a", "b"], or "a b": the older spelling, where no token holds a space. */
static bool merge_parts(const struct json *m, const char *parts[2], size_t part_bytes[2], struct err *e)
{
    const char *text = json_string(m);
    const struct json *left = json_first(m), *right = left ? json_next(left) : NULL;

    if (text && strchr(text, ' ')) {
        parts[0] = text;
        parts[1] = strchr(text, ' ') + 1;
        part_bytes[0] = (size_t)(parts[1] - 1 - text);
        part_bytes[1] = strlen(parts[1]);
        return true;
    }
    if (!right || json_next(right) || !json_string(left) || !json_string(right))
        return err_set(e, ERR_FORMAT, "it is neither two tokens nor \"a b\"");
    parts[0] = json_string(left);
    parts[1] = json_string(right);
    part_bytes[0] = strlen(parts[0]);
    part_bytes[1] = strlen(parts[1]);
    return true;
}

static bool read_merge(struct reading *r, const struct json *m, struct err *e)
{
    const char *parts[2] = {0};
    size_t part_bytes[2] = {0};
    uint32_t ids[2] = {0};

    if (!merge_parts(m, parts, part_bytes, e))
        return false;
    for (int i = 0; i < 2; i++) {
        size_t id = map_get_n(&r->by_key, parts[i], part_bytes[i]);
        if (id == MAP_NONE || r->t->bpe.tokens[id].unmatched)
            return err_set(e, ERR_FORMAT, "'%.*s' is not in the vocabulary",
                           part_bytes[i] < 100 ? (int)part_bytes[i] : 100, parts[i]);
        ids[i] = (uint32_t)id;
    }
    return bpe_add_merge(&r->t->bpe, ids[0], ids[1], e);
}

static bool read_merges(struct reading *r, const struct json *m, struct err *e)
{
    const struct json *merges = NULL;
    size_t index = 0;

    if (!need_array(m, "merges", &merges, e))
        return false;
    for (const struct json *v = json_first(merges); v; v = json_next(v), index++)
        if (!read_merge(r, v, e))
            return err_in(e, "merge %zu", index);
    return true;
}

static bool read_model(struct reading *r, const struct json *root, struct err *e)
{
    const struct json *m = NULL;
    const char *type = NULL;

    if (!component(root, "model", &m, &type, e))
        return false;
    if (!m)
        return err_set(e, ERR_FORMAT, "model is missing");
    if (strcmp(type, "BPE") != 0)
        return unknown("model", type, "BPE is", e);
    return check_model(r, m, e) && tokenizer_get_bool(m, "ignore_merges", &r->t->bpe.whole_pieces, e) &&
           read_vocab(r, m, e) && read_merges(r, m, e) && bpe_finish(&r->t->bpe, e);
}

/* ---- added tokens ---- */

bool tokenizer_read_added(struct added_token *token, const struct json *o, struct err *e)
{
    if (!json_need_string(o, "content", &token->text, e))
        return false;
    if (!*token->text)
        return err_set(e, ERR_FORMAT, "'content' is empty");
    return tokenizer_get_bool(o, "single_word", &token->single_word, e) &&
           tokenizer_get_bool(o, "lstrip", &token->lstrip, e) && tokenizer_get_bool(o, "rstrip", &token->rstrip, e) &&
           tokenizer_get_bool(o, "normalized", &token->normalized, e) &&
           tokenizer_get_bool(o, "special", &token->special, e);
}

static bool read_added_token(struct reading *r, const struct json *o, struct err *e)
{
    struct added_token token = {0};
    uint64_t id = 0;
    size_t id_in_vocab = MAP_NONE;

    if (!json_need_u64(r->d, o, "id", &id, e) || !tokenizer_read_added(&token, o, e))
        return false;
    if (id >= BPE_IDS_MAX)
        return err_set(e, ERR_LIMIT, "id %llu is past the limit of %u", (unsigned long long)id, BPE_IDS_MAX - 1);
    token.id = (uint32_t)id;
    id_in_vocab = map_get(&r->by_key, token.text);
    if (id_in_vocab != MAP_NONE && id_in_vocab != id)
        return err_set(e, ERR_FORMAT, "'%s' has id %llu here and %zu in the vocabulary", token.text,
                       (unsigned long long)id, id_in_vocab);
    if (id_in_vocab == MAP_NONE && id < r->t->bpe.id_limit && r->t->bpe.tokens[id].bytes)
        return err_set(e, ERR_FORMAT, "'%s' has id %llu, which is another token's", token.text, (unsigned long long)id);
    return tokenizer_add_token(r->t, &token, e);
}

static bool read_added_tokens(struct reading *r, const struct json *root, struct err *e)
{
    const struct json *list = get(root, "added_tokens");

    if (list && json_type(list) != JSON_ARRAY)
        return wrong_type("added_tokens", list, JSON_ARRAY, e);
    for (const struct json *m = list ? json_first(list) : NULL; m; m = json_next(m))
        if (!read_added_token(r, m, e))
            return err_in(e, "added_tokens");
    return true;
}

static bool read_document(struct reading *r, const struct json *root, struct err *e)
{
    const struct json *normalizer = NULL, *pre_tokenizer = NULL;

    if (json_type(root) != JSON_OBJECT)
        return wrong_type("the file", root, JSON_OBJECT, e);
    normalizer = get(root, "normalizer");
    pre_tokenizer = get(root, "pre_tokenizer");
    if (normalizer && !check_normalizer(normalizer, e))
        return false;
    if (pre_tokenizer && !read_pre_tokenizer(r, pre_tokenizer, e))
        return false;
    if (!r->byte_level)
        return err_set(e, ERR_UNSUPPORTED, "a pre_tokenizer without ByteLevel is not supported");
    return read_post_processor(r, get(root, "post_processor"), e) && check_decoder(root, e) && read_model(r, root, e) &&
           read_added_tokens(r, root, e);
}

bool tokenizer_parse_json(struct tokenizer *t, const char *text, size_t bytes, struct err *e)
{
    struct json_doc d = {0};
    struct reading r = {.t = t, .d = &d};
    bool ok = false;

    *t = (struct tokenizer){.bos_id = BPE_NONE, .eos_id = BPE_NONE};
    ok = json_parse(&d, text, bytes, JSON_STRICT, e) && read_document(&r, d.root, e);
    if (ok)
        t->add_bos = t->template_bos;
    else
        tokenizer_release(t);
    map_release(&r.by_key);
    json_release(&d);
    return ok;
}
