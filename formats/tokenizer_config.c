#include <string.h>

#include "formats/tokenizer_private.h"

/* "bos_token": its text, or an object with the text as "content"; null: there is none. */
static bool read_special(const struct tokenizer *t, const struct json *root, const char *key, uint32_t *id,
                         struct err *e)
{
    const struct json *v = json_get(root, key);
    const char *text = NULL;
    uint32_t found = BPE_NONE;

    if (!v || json_type(v) == JSON_NULL)
        return true;
    text = json_string(v);
    if (!text && (json_type(v) != JSON_OBJECT || !json_need_string(v, "content", &text, e)))
        return err_set(e, ERR_FORMAT, "%s is neither a string nor an object with content", key);
    found = tokenizer_find(t, text);
    if (found == BPE_NONE)
        return err_set(e, ERR_FORMAT, "%s '%s' is no token of the vocabulary", key, text);
    *id = found;
    return true;
}

/* The classes whose add_bos_token is true when nobody says anything. */
static bool class_adds_bos(const char *name)
{
    return name && (strcmp(name, "LlamaTokenizer") == 0 || strcmp(name, "LlamaTokenizerFast") == 0);
}

static bool read_config(struct tokenizer *t, const struct json *root, struct err *e)
{
    const char *class_name = NULL;

    if (json_type(root) != JSON_OBJECT)
        return err_set(e, ERR_FORMAT, "the file is %s, not an object", json_type_name(json_type(root)));
    if (!read_special(t, root, "bos_token", &t->bos_id, e) || !read_special(t, root, "eos_token", &t->eos_id, e) ||
        !tokenizer_get_string(root, "tokenizer_class", &class_name, e))
        return false;
    t->add_bos = t->template_bos || (class_adds_bos(class_name) && t->bos_id != BPE_NONE);
    if (!tokenizer_get_bool(root, "add_bos_token", &t->add_bos, e))
        return false;
    if (t->add_bos && t->bos_id == BPE_NONE)
        return err_set(e, ERR_FORMAT, "add_bos_token is true, and bos_token is missing");
    return true;
}

bool tokenizer_parse_config(struct tokenizer *t, const char *text, size_t bytes, struct err *e)
{
    struct json_doc d = {0};
    bool ok = json_parse(&d, text, bytes, JSON_STRICT, e) && read_config(t, d.root, e);

    json_release(&d);
    return ok;
}
