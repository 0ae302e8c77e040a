#include "formats/tokenizer.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/utf8.h"
#include "formats/tokenizer_private.h"

/* ---- building ---- */

bool tokenizer_add_split(struct tokenizer *t, const char *regex, struct err *e)
{
    if (t->split_count == TOKENIZER_SPLITS_MAX)
        return err_set(e, ERR_LIMIT, "more splits than the limit of %u", TOKENIZER_SPLITS_MAX);
    struct tokenizer_split *s = &t->splits[t->split_count];
    if (!pattern_compile_ruby(&s->pattern, regex, e))
        return false;
    s->regex = arena_strdup(&t->arena, regex);
    t->split_count++;
    return true;
}

bool tokenizer_add_token(struct tokenizer *t, const struct added_token *token, struct err *e)
{
    bool is_there = token->id < t->bpe.id_limit && t->bpe.tokens[token->id].bytes;

    if (!is_there && !bpe_add_token(&t->bpe, token->id, token->text, strlen(token->text), true, e))
        return err_in(e, "added token '%s'", token->text);
    return added_add(&t->added, token, e);
}

uint32_t tokenizer_find(const struct tokenizer *t, const char *text)
{
    const struct added_token *added = added_find(&t->added, text);

    return added ? added->id : bpe_find(&t->bpe, text, strlen(text));
}

/* ---- opening ---- */

/* A file of the folder that may be absent: then *data stays NULL. One that cannot be looked for is not absent. */
static bool slurp_optional(const char *path, uint64_t limit_bytes, char **data, size_t *bytes, struct err *e)
{
    if (!path_exists(path) && (errno == ENOENT || errno == ENOTDIR))
        return true;
    return file_slurp(path, limit_bytes, data, bytes, e);
}

static bool open_in(struct tokenizer *t, struct arena *paths, const char *dir, struct err *e)
{
    const char *json_path = path_join(paths, dir, "tokenizer.json");
    const char *tiktoken_path = path_join(paths, dir, "tiktoken.model");
    const char *config_path = path_join(paths, dir, "tokenizer_config.json");
    char *json = NULL, *tiktoken = NULL, *config = NULL;
    size_t json_bytes = 0, tiktoken_bytes = 0, config_bytes = 0;
    bool ok = false;

    if (!slurp_optional(config_path, TOKENIZER_CONFIG_BYTES_MAX, &config, &config_bytes, e) ||
        !slurp_optional(json_path, TOKENIZER_FILE_BYTES_MAX, &json, &json_bytes, e) ||
        (!json && !slurp_optional(tiktoken_path, TOKENIZER_FILE_BYTES_MAX, &tiktoken, &tiktoken_bytes, e)))
        goto done;
    if (json)
        ok = tokenizer_parse_json(t, json, json_bytes, e) || err_in(e, "'%s'", json_path);
    else if (tiktoken)
        ok = tokenizer_parse_tiktoken(t, tiktoken, tiktoken_bytes, config, config_bytes, e) ||
             err_in(e, "'%s'", tiktoken_path);
    else
        err_set(e, ERR_FORMAT, "there is no tokenizer.json and no tiktoken.model in '%s'", dir);
    if (ok && config)
        ok = tokenizer_parse_config(t, config, config_bytes, e) || err_in(e, "'%s'", config_path);
done:
    mem_free(json);
    mem_free(tiktoken);
    mem_free(config);
    return ok;
}

bool tokenizer_open(struct tokenizer *t, const char *path, struct err *e)
{
    struct arena paths = {0};
    bool ok = false;

    *t = (struct tokenizer){0};
    if (path_exists(path))
        ok = open_in(t, &paths, path_is_dir(path) ? path : path_parent(&paths, path), e);
    else
        err_set(e, ERR_IO, "'%s': there is no such folder or file", path);
    if (!ok)
        tokenizer_release(t);
    arena_release(&paths);
    return ok;
}

void tokenizer_release(struct tokenizer *t)
{
    for (size_t i = 0; i < t->split_count; i++)
        pattern_release(&t->splits[i].pattern);
    bpe_release(&t->bpe);
    added_release(&t->added);
    arena_release(&t->arena);
    *t = (struct tokenizer){0};
}

/* ---- encoding ---- */

struct encoding {
    const struct tokenizer *t;
    struct bpe_scratch *scratch;
    struct id_list *out;
    size_t count_wanted; /* of out; SIZE_MAX: no end */
    bool full;           /* what was wanted is there: the walk ends without an error */
};

static bool look_full(struct encoding *x)
{
    x->full = x->out->count >= x->count_wanted;
    return !x->full;
}

/* One piece on its way through the splits. */
struct splitting {
    struct encoding *x;
    size_t level;
    const char *text;
    size_t done; /* bytes that went on to the next level */
};

static bool split(struct encoding *x, size_t level, const char *text, size_t bytes, struct err *e);

static bool split_match(void *ctx, size_t begin, size_t end, struct err *e)
{
    struct splitting *s = ctx;
    size_t done = s->done;

    s->done = end;
    return split(s->x, s->level + 1, s->text + done, begin - done, e) &&
           split(s->x, s->level + 1, s->text + begin, end - begin, e);
}

static bool split(struct encoding *x, size_t level, const char *text, size_t bytes, struct err *e)
{
    struct splitting s = {.x = x, .level = level, .text = text};

    if (!bytes)
        return true;
    if (level == x->t->split_count)
        return bpe_encode(&x->t->bpe, x->scratch, text, bytes, x->out, e) && look_full(x);
    if (!pattern_find_all(&x->t->splits[level].pattern, text, bytes, split_match, &s, e))
        return false;
    return split(x, level + 1, text + s.done, bytes - s.done, e);
}

/* Between the tokens that are cut out first, and between those that are cut out second. */
struct cutting {
    struct encoding *x;
    bool normalized;
    const char *text;
};

static bool cut_part(void *ctx, uint32_t id, size_t begin, size_t end, struct err *e)
{
    const struct cutting *c = ctx;
    struct cutting next = {.x = c->x, .normalized = true, .text = c->text + begin};

    if (id != ADDED_NONE) {
        id_list_add(c->x->out, id);
        return look_full(c->x);
    }
    if (c->normalized)
        return split(c->x, 0, c->text + begin, end - begin, e);
    return added_cut(&c->x->t->added, true, next.text, end - begin, cut_part, &next, e);
}

static bool encode_stretch(struct encoding *x, const char *text, size_t bytes, struct err *e)
{
    struct cutting c = {.x = x, .text = text};

    return added_cut(&x->t->added, false, text, bytes, cut_part, &c, e);
}

static bool encode_all(struct encoding *x, const char *text, size_t bytes, struct err *e)
{
    size_t chunk_bytes = bytes, characters = 0;

    for (size_t at = 0; at < bytes; at += chunk_bytes) {
        if (x->t->in_chunks)
            chunk_bytes = tokenizer_chunk_bytes(text + at, bytes - at, &characters);
        if (!encode_stretch(x, text + at, chunk_bytes, e))
            return false;
    }
    return true;
}

/* Puts bos_id at `first`, where the text's ids begin, unless it is there. */
static void put_bos_first(const struct tokenizer *t, size_t first, struct id_list *out)
{
    if (out->count > first && out->ids[first] == t->bos_id)
        return;
    id_list_add(out, t->bos_id);
    memmove(&out->ids[first + 1], &out->ids[first], (out->count - 1 - first) * sizeof *out->ids);
    out->ids[first] = t->bos_id;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, const struct tokenizer_encode *how,
                      struct id_list *out, struct err *e)
{
    size_t first = out->count;
    struct encoding x = {.t = t, .out = out, .count_wanted = how->ids_wanted ? first + how->ids_wanted : SIZE_MAX};
    size_t valid_bytes = 0;

    if (how->bos && t->bos_id == BPE_NONE)
        return err_set(e, ERR_UNSUPPORTED, "the tokenizer names no token for the beginning of a text");
    if (bytes > TOKENIZER_TEXT_BYTES_MAX)
        return err_set(e, ERR_LIMIT, "%zu bytes of text, more than the limit of %zu", bytes, TOKENIZER_TEXT_BYTES_MAX);
    valid_bytes = utf8_end(text, bytes);
    if (valid_bytes < bytes)
        return err_set(e, ERR_FORMAT, "byte 0x%02x at offset %zu is not UTF-8", (unsigned char)text[valid_bytes],
                       valid_bytes);
    x.scratch = bpe_scratch_new();
    bool ok = encode_all(&x, text, bytes, e) || x.full;
    bpe_scratch_free(x.scratch);
    if (ok && how->bos)
        put_bos_first(t, first, out);
    if (ok && out->count > x.count_wanted)
        out->count = x.count_wanted;
    return ok;
}

/* ---- decoding ---- */

const char *tokenizer_bytes(const struct tokenizer *t, uint32_t id, size_t *bytes)
{
    const struct bpe_token *token = id < t->bpe.id_limit ? &t->bpe.tokens[id] : NULL;

    *bytes = token ? token->byte_count : 0;
    return token ? token->bytes : NULL;
}
