/* What stands beside the weights: without it a server starts, and answers otherwise. */
#include <inttypes.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/json.h"
#include "formats/tokenizer.h"
#include "verify/lint.h"

#define SIDE_FILE_BYTES_MAX (64u << 20)

static bool is_there(const struct lint *l, const char *name)
{
    struct arena a = {0};
    bool there = path_exists(path_join(&a, l->source->checkpoint.dir, name));

    arena_release(&a);
    return there;
}

/* ---- tokenizer ---- */

static void check_vocabulary(const struct lint *l, const struct tokenizer *t)
{
    uint64_t vocabulary = l->source->arch.vocab_size;

    if (t->bpe.id_limit > vocabulary)
        findings_add(l->findings, RULE_TOKEN_ID_RANGE,
                     "the tokenizer has ids up to %u, and config.json's vocab_size %" PRIu64, t->bpe.id_limit - 1,
                     vocabulary);
}

static bool check_tokenizer(const struct lint *l, struct err *e)
{
    struct tokenizer t = {0};
    struct err bad = {0};

    if (!is_there(l, "tokenizer.json") && !is_there(l, "tiktoken.model")) {
        if (!is_there(l, "tokenizer.model")) /* sentencepiece, which the family does not use, is left alone */
            findings_add(l->findings, RULE_TOKENIZER_MISSING,
                         "there is no tokenizer.json, tiktoken.model or tokenizer.model");
        return true;
    }
    if (tokenizer_open(&t, l->source->checkpoint.dir, &bad)) {
        check_vocabulary(l, &t);
    } else if (bad.code == ERR_IO || bad.code == ERR_CANCELLED) {
        *e = bad;
        return false;
    } else {
        findings_add(l->findings, bad.code == ERR_UNSUPPORTED ? RULE_TOKENIZER_UNSUPPORTED : RULE_TOKENIZER_MALFORMED,
                     "%s", bad.text);
    }
    tokenizer_release(&t);
    return true;
}

/* ---- JSON side files ---- */

static void check_id(const struct lint *l, const struct json_doc *d, const char *file, const char *key,
                     const struct json *v)
{
    uint64_t id = 0, vocabulary = l->source->arch.vocab_size;

    if (json_u64(d, v, &id) && id >= vocabulary)
        findings_add(l->findings, RULE_TOKEN_ID_RANGE, "%s: %s is %" PRIu64 ", and config.json's vocab_size %" PRIu64,
                     file, key, id, vocabulary);
    /* Some files have -1 for a padding token that there is none of; a text must end. */
    else if (strcmp(key, "eos_token_id") == 0 && !json_u64(d, v, &id))
        findings_add(l->findings, RULE_SIDE_FILE_MALFORMED, "%s: %s is %s, not a token id", file, key,
                     json_type(v) == JSON_NUMBER ? "no whole number from 0 on" : json_type_name(json_type(v)));
}

/* An id, or a list of them. */
static void check_ids(const struct lint *l, const struct json_doc *d, const char *file)
{
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id"};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const struct json *v = json_get(d->root, keys[i]);
        if (!v)
            continue;
        if (json_type(v) != JSON_ARRAY && json_type(v) != JSON_NULL)
            check_id(l, d, file, keys[i], v);
        for (const struct json *m = json_type(v) == JSON_ARRAY ? json_first(v) : NULL; m; m = json_next(m))
            check_id(l, d, file, keys[i], m);
    }
}

static bool check_json(const struct lint *l, const char *name, struct err *e)
{
    struct arena a = {0};
    struct json_doc d = {0};
    struct err bad = {0};
    bool ok = true;

    if (json_load(&d, path_join(&a, l->source->checkpoint.dir, name), SIDE_FILE_BYTES_MAX, JSON_STRICT, &bad)) {
        check_ids(l, &d, name);
    } else if (bad.code == ERR_IO) {
        *e = bad;
        ok = false;
    } else {
        findings_add(l->findings, RULE_SIDE_FILE_MALFORMED, "%s", bad.text);
    }
    json_release(&d);
    arena_release(&a);
    return ok;
}

bool lint_side_files(const struct lint *l, struct err *e)
{
    static const char *const json_files[] = {"config.json", "generation_config.json", "tokenizer_config.json",
                                             "special_tokens_map.json"};

    for (size_t i = 0; i < sizeof json_files / sizeof json_files[0]; i++)
        if (is_there(l, json_files[i]) && !check_json(l, json_files[i], e))
            return false;
    if (!is_there(l, "generation_config.json"))
        findings_add(l->findings, RULE_GENERATION_CONFIG_MISSING,
                     "there is no generation_config.json: engines use their own defaults");
    return check_tokenizer(l, e);
}
