#include "formats/added_tokens.h"

#include <assert.h>
#include <string.h>

#include "formats/base/utf8.h"

/* A trie over bytes, for both kinds of tokens. Node 0 and 1 are the roots. Children are a list, which is short
 * everywhere but at a root, so a root has a table of 256 as well. */
struct trie_node {
    uint32_t first_child, next_sibling; /* 0: none */
    uint32_t item;                      /* index + 1 of the token that ends here; 0: none */
    unsigned char byte;
};

enum { ROOT_COUNT = 2, ROOT_TABLE = 256 };

static size_t root_of(bool normalized)
{
    return normalized ? 1 : 0;
}

/* The roots' children stand at fixed places: ROOT_COUNT + 256 * root + byte. */
static uint32_t root_child(size_t root, unsigned char byte)
{
    return (uint32_t)(ROOT_COUNT + ROOT_TABLE * root + byte);
}

static void plant(struct added_tokens *t)
{
    t->node_count = ROOT_COUNT + ROOT_COUNT * ROOT_TABLE;
    t->node_room = 2 * t->node_count;
    t->nodes = mem_alloc(t->node_room * sizeof *t->nodes);
}

static uint32_t find_child(const struct added_tokens *t, uint32_t node, unsigned char byte)
{
    uint32_t child = t->nodes[node].first_child;

    while (child && t->nodes[child].byte != byte)
        child = t->nodes[child].next_sibling;
    return child;
}

static uint32_t add_child(struct added_tokens *t, uint32_t node, unsigned char byte)
{
    uint32_t child = find_child(t, node, byte);

    if (child)
        return child;
    if (t->node_count == t->node_room) {
        t->node_room *= 2;
        t->nodes = mem_grow(t->nodes, t->node_room, sizeof *t->nodes);
    }
    child = (uint32_t)t->node_count++;
    t->nodes[child] = (struct trie_node){.byte = byte, .next_sibling = t->nodes[node].first_child};
    t->nodes[node].first_child = child;
    return child;
}

const struct added_token *added_find(const struct added_tokens *t, const char *text)
{
    for (size_t kind = 0; t->nodes && *text && kind < ROOT_COUNT; kind++) {
        uint32_t node = root_child(kind, (unsigned char)text[0]);

        for (size_t i = 1; node && text[i]; i++)
            node = find_child(t, node, (unsigned char)text[i]);
        if (node && t->nodes[node].item)
            return &t->items[t->nodes[node].item - 1];
    }
    return NULL;
}

bool added_add(struct added_tokens *t, const struct added_token *token, struct err *e)
{
    assert(*token->text);
    if (t->count == ADDED_TOKENS_MAX)
        return err_set(e, ERR_LIMIT, "more added tokens than the limit of %u", ADDED_TOKENS_MAX);
    if (added_find(t, token->text))
        return err_set(e, ERR_FORMAT, "added token '%s' is given twice", token->text);
    /* \w of the Rust library has the two joiners as well. */
    if (token->single_word && !t->word.re && !pattern_compile_ruby(&t->word, "\\A[\\w\\x{200c}\\x{200d}]", e))
        return false;
    if (!t->nodes)
        plant(t);
    if (t->count == t->room) {
        t->room = t->room ? t->room * 2 : 64;
        t->items = mem_grow(t->items, t->room, sizeof *t->items);
    }
    t->items[t->count] = *token;
    t->items[t->count].text = arena_strdup(&t->arena, token->text);

    uint32_t node = root_child(root_of(token->normalized), (unsigned char)token->text[0]);
    for (size_t i = 1; token->text[i]; i++)
        node = add_child(t, node, (unsigned char)token->text[i]);
    t->nodes[node].item = (uint32_t)++t->count;
    return true;
}

/* ---- cutting ---- */

/* The longest token that stands at text; NULL: none. */
static const struct added_token *longest_at(const struct added_tokens *t, size_t root, const char *text, size_t bytes,
                                            size_t *token_bytes)
{
    uint32_t node = root_child(root, (unsigned char)text[0]), item = 0;

    for (size_t at = 1; node; at++) {
        if (t->nodes[node].item) {
            item = t->nodes[node].item;
            *token_bytes = at;
        }
        node = at < bytes ? find_child(t, node, (unsigned char)text[at]) : 0;
    }
    return item ? &t->items[item - 1] : NULL;
}

/* Bytes of the last character before text + at. */
static size_t step_back(const char *text, size_t at)
{
    size_t bytes = 1;

    while (bytes < at && ((unsigned char)text[at - bytes] & 0xc0) == 0x80)
        bytes++;
    return bytes;
}

static bool is_space_at(const char *text, size_t bytes)
{
    return utf8_is_space(utf8_code(text, bytes));
}

/* White space that ends at `end` begins here, but not before `floor`. */
static size_t space_begin(const char *text, size_t floor, size_t end)
{
    while (end > floor) {
        size_t step = step_back(text, end);
        if (!is_space_at(text + end - step, step))
            break;
        end -= step;
    }
    return end;
}

static size_t space_end(const char *text, size_t at, size_t bytes)
{
    while (at < bytes) {
        size_t step = utf8_step(text + at, bytes - at);
        if (!is_space_at(text + at, step))
            break;
        at += step;
    }
    return at;
}

static bool note_match(void *ctx, size_t begin, size_t end, struct err *e)
{
    (void)begin, (void)end, (void)e;
    *(bool *)ctx = true;
    return true;
}

static bool is_word_character(const struct added_tokens *t, const char *text, size_t bytes, bool *is, struct err *e)
{
    *is = false;
    return pattern_find_all(&t->word, text, bytes, note_match, is, e);
}

/* Whether a token at [begin, end) touches a word. */
static bool touches_word(const struct added_tokens *t, const char *text, size_t bytes, size_t begin, size_t end,
                         bool *touches, struct err *e)
{
    size_t before = begin ? step_back(text, begin) : 0;

    *touches = false;
    if (before && !is_word_character(t, text + begin - before, before, touches, e))
        return false;
    if (*touches || end == bytes)
        return true;
    return is_word_character(t, text + end, utf8_step(text + end, bytes - end), touches, e);
}

bool added_cut(const struct added_tokens *t, bool normalized, const char *text, size_t bytes, added_visit *visit,
               void *ctx, struct err *e)
{
    size_t at = 0, done = 0; /* done: everything before was visited */

    while (t->nodes && at < bytes) {
        size_t token_bytes = 0;
        const struct added_token *token = longest_at(t, root_of(normalized), text + at, bytes - at, &token_bytes);
        if (!token) {
            at++;
            continue;
        }
        size_t begin = at, end = at + token_bytes;
        bool touches = false;
        at = end;
        if (token->single_word && !touches_word(t, text, bytes, begin, end, &touches, e))
            return false;
        if (touches)
            continue;
        if (token->lstrip)
            begin = space_begin(text, done, begin);
        if (token->rstrip)
            end = space_end(text, end, bytes);
        if (done < begin && !visit(ctx, ADDED_NONE, done, begin, e))
            return false;
        if (!visit(ctx, token->id, begin, end, e))
            return false;
        done = end;
    }
    return done == bytes || visit(ctx, ADDED_NONE, done, bytes, e);
}

void added_release(struct added_tokens *t)
{
    mem_free(t->items);
    mem_free(t->nodes);
    pattern_release(&t->word);
    arena_release(&t->arena);
    *t = (struct added_tokens){0};
}
