/* A pushdown automaton over the bytes: an explicit stack of open containers,
 * one word for what may come next. Each open object knows its keys: the first
 * few are compared one by one, and an object with more gets a hash table, so
 * that the header of a shard costs nothing per tensor object and an index of
 * 92,000 names stays linear. */
#include "formats/json_scan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/hash.h"
#include "formats/base/utf8.h"
#include "formats/json.h"

/* Tensor objects have three keys, tables of weights thousands. */
#define KEYS_COMPARED_ONE_BY_ONE 16u
/* cJSON copies a number into 64 bytes; what is longer gets a stand-in. */
#define CJSON_NUMBER_BYTES_MAX 60u

struct key {
    uint64_t hash;
    size_t at, bytes;
    bool escaped; /* at counts in the unescaped bytes, not in the text */
};

struct frame {
    bool is_object;
    size_t first_key, unescaped_bytes; /* what to go back to when it closes */
    size_t *slots;                     /* key index + 1; NULL while there are few */
    size_t slot_count;                 /* a power of two */
};

enum expect { EXPECT_VALUE, EXPECT_VALUE_OR_END, EXPECT_KEY, EXPECT_KEY_OR_END, EXPECT_COMMA_OR_END, EXPECT_NOTHING };

struct scan {
    char *text;
    size_t bytes, at;
    unsigned flags;
    struct err *e;
    struct frame stack[JSON_DEPTH_MAX];
    unsigned depth;
    struct key *keys;
    size_t key_count, key_room;
    struct buf unescaped;
    struct json_numbers *numbers;
    size_t comma_at; /* the last comma outside strings */
};

/* ---- messages ---- */

static const char *key_text(const struct scan *s, const struct key *k)
{
    return (k->escaped ? s->unescaped.data : s->text) + k->at;
}

static void position(const struct scan *s, size_t at, size_t *line, size_t *column)
{
    *line = 1;
    *column = 1;
    for (size_t i = 0; i < at; i++) {
        (*column)++;
        if (s->text[i] == '\n') {
            (*line)++;
            *column = 1;
        }
    }
}

/* Long keys are cut: the message has 480 bytes for everything. */
static int shown_bytes(size_t bytes)
{
    return bytes < 200 ? (int)bytes : 200;
}

/* "what at line 1 column 7, in 'the root's member that holds it'" */
static bool refuse(const struct scan *s, size_t at, const char *what)
{
    size_t line = 0, column = 0;

    position(s, at, &line, &column);
    if (s->depth > 1 && s->stack[0].is_object) {
        const struct key *k = &s->keys[s->stack[1].first_key - 1];
        return err_set(s->e, ERR_FORMAT, "%s at line %zu column %zu, in '%.*s'", what, line, column,
                       shown_bytes(k->bytes), key_text(s, k));
    }
    return err_set(s->e, ERR_FORMAT, "%s at line %zu column %zu", what, line, column);
}

static bool refuse_byte(const struct scan *s, const char *wanted)
{
    unsigned char c = (unsigned char)s->text[s->at];
    char what[100];

    if (s->at >= s->bytes)
        snprintf(what, sizeof what, "the text ends where %s should be", wanted);
    else if (c > 0x20 && c < 0x7f)
        snprintf(what, sizeof what, "'%c' stands where %s should be", c, wanted);
    else
        snprintf(what, sizeof what, "byte 0x%02x stands where %s should be", c, wanted);
    return refuse(s, s->at, what);
}

/* ---- strings ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The four digits behind "\u"; -1: not four hex digits. */
static int32_t hex4(const char *p)
{
    int32_t value = 0;

    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(p[i]); /* a NUL ends it before the text does */
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static bool is_surrogate(int32_t code, int32_t first)
{
    return code >= first && code < first + 0x400;
}

/* at stands on the backslash; moves behind the escape. */
static bool scan_escape(struct scan *s)
{
    const char *p = s->text + s->at;
    int32_t code = 0, low = 0;

    if (s->at + 1 < s->bytes && p[1] && strchr("\"\\/bfnrt", p[1])) {
        s->at += 2;
        return true;
    }
    if (s->at + 1 >= s->bytes || p[1] != 'u')
        return refuse(s, s->at, "unknown escape");
    code = hex4(p + 2);
    if (code < 0)
        return refuse(s, s->at, "\\u without four hex digits");
    if (code == 0)
        return refuse(s, s->at, "\\u0000 in a string");
    s->at += 6;
    if (is_surrogate(code, 0xdc00))
        return refuse(s, s->at - 6, "lone low surrogate");
    if (!is_surrogate(code, 0xd800))
        return true;
    low = p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (!is_surrogate(low, 0xdc00))
        return refuse(s, s->at - 6, "lone high surrogate");
    s->at += 6;
    return true;
}

/* at stands on the opening quote; moves behind the closing one. The content is [*begin, at - 1). */
static bool scan_string(struct scan *s, size_t *begin, bool *escaped)
{
    size_t opening = s->at;

    *escaped = false;
    *begin = ++s->at;
    while (s->at < s->bytes) {
        unsigned char c = (unsigned char)s->text[s->at];
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c < 0x20)
            return refuse(s, s->at, "raw control character in a string");
        if (c == '\\') {
            *escaped = true;
            if (!scan_escape(s))
                return false;
        } else {
            s->at++;
        }
    }
    return refuse(s, opening, "string without an end");
}

void json_unescape(struct buf *out, const char *content, size_t bytes)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    size_t at = 0;

    while (at < bytes) {
        const char *p = content + at;
        const char *backslash = memchr(p, '\\', bytes - at);
        size_t plain = backslash ? (size_t)(backslash - p) : bytes - at;
        char character[UTF8_BYTES_MAX];
        uint32_t code = 0;

        if (plain) {
            buf_add(out, p, plain);
            at += plain;
            continue;
        }
        if (p[1] != 'u') {
            buf_add(out, &meanings[strchr(letters, p[1]) - letters], 1);
            at += 2;
            continue;
        }
        code = (uint32_t)hex4(p + 2);
        at += 6;
        if (code >= 0xd800 && code < 0xdc00) {
            code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hex4(p + 8) - 0xdc00);
            at += 6;
        }
        buf_add(out, character, utf8_put(code, character));
    }
}

/* ---- keys ---- */

static bool keys_equal(const struct scan *s, const struct key *a, const struct key *b)
{
    return a->hash == b->hash && a->bytes == b->bytes && !memcmp(key_text(s, a), key_text(s, b), a->bytes);
}

/* The slot that holds an equal key, or the free one where it belongs. */
static size_t *find_slot(const struct scan *s, const struct frame *f, const struct key *k)
{
    size_t mask = f->slot_count - 1;
    size_t i = k->hash & mask;

    while (f->slots[i] && !keys_equal(s, &s->keys[f->slots[i] - 1], k))
        i = (i + 1) & mask;
    return &f->slots[i];
}

/* Puts all keys the object has so far into a table with room for four times as many. */
static void grow_slots(const struct scan *s, struct frame *f, size_t keys_end)
{
    size_t wanted = (keys_end - f->first_key) * 4;

    mem_free(f->slots);
    for (f->slot_count = 64; f->slot_count < wanted;)
        f->slot_count *= 2;
    f->slots = mem_alloc(f->slot_count * sizeof *f->slots);
    for (size_t i = f->first_key; i < keys_end; i++)
        *find_slot(s, f, &s->keys[i]) = i + 1;
}

static bool is_duplicate(struct scan *s, struct frame *f, const struct key *k)
{
    size_t in_object = s->key_count - f->first_key;
    size_t *slot = NULL;

    if (in_object < KEYS_COMPARED_ONE_BY_ONE) {
        for (size_t i = f->first_key; i < s->key_count; i++)
            if (keys_equal(s, &s->keys[i], k))
                return true;
        return false;
    }
    if (in_object * 2 >= f->slot_count)
        grow_slots(s, f, s->key_count);
    slot = find_slot(s, f, k);
    if (*slot)
        return true;
    *slot = s->key_count + 1;
    return false;
}

static bool scan_key(struct scan *s)
{
    struct frame *f = &s->stack[s->depth - 1];
    struct key k = {0};
    size_t quote = s->at, begin = 0;

    if (!scan_string(s, &begin, &k.escaped))
        return false;
    k.at = begin;
    k.bytes = s->at - 1 - begin;
    if (k.escaped) {
        k.at = s->unescaped.bytes;
        json_unescape(&s->unescaped, s->text + begin, k.bytes);
        k.bytes = s->unescaped.bytes - k.at;
    }
    k.hash = hash_key(key_text(s, &k), k.bytes);
    if (is_duplicate(s, f, &k)) {
        char what[300];
        snprintf(what, sizeof what, "duplicate key '%.*s'", shown_bytes(k.bytes), key_text(s, &k));
        return refuse(s, quote, what);
    }
    if (s->key_count == s->key_room) {
        s->key_room = s->key_room ? s->key_room * 2 : 64;
        s->keys = mem_grow(s->keys, s->key_room, sizeof *s->keys);
    }
    s->keys[s->key_count++] = k;
    return true;
}

/* ---- numbers ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits_end(const struct scan *s, size_t at)
{
    while (is_digit(s->text[at])) /* ends at the text's NUL */
        at++;
    return at;
}

/* false: above 2^64-1 */
static bool digits_value(const char *p, size_t count, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < count; i++)
        if (__builtin_mul_overflow(*value, 10u, value) || __builtin_add_overflow(*value, (uint64_t)(p[i] - '0'), value))
            return false;
    return true;
}

static void add_number(struct json_numbers *n, struct json_number number)
{
    if (n->count == n->room) {
        n->room = n->room ? n->room * 2 : 64;
        n->items = mem_grow(n->items, n->room, sizeof *n->items);
    }
    n->items[n->count++] = number;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)? */
static bool number_end(struct scan *s, size_t *end, bool *plain)
{
    size_t at = s->at, first = 0;

    *plain = s->text[at] != '-';
    first = *plain ? at : at + 1;
    at = digits_end(s, first);
    if (at == first)
        return refuse(s, s->at, "minus sign without digits");
    if (s->text[first] == '0' && at > first + 1)
        return refuse(s, s->at, "number with a leading zero");
    if (s->text[at] == '.') {
        *plain = false;
        first = at + 1;
        at = digits_end(s, first);
        if (at == first)
            return refuse(s, s->at, "no digit behind the decimal point");
    }
    if (s->text[at] == 'e' || s->text[at] == 'E') {
        *plain = false;
        first = at + 1;
        if (s->text[first] == '+' || s->text[first] == '-')
            first++;
        at = digits_end(s, first);
        if (at == first)
            return refuse(s, s->at, "no digit in the exponent");
    }
    *end = at;
    return true;
}

static bool scan_number(struct scan *s)
{
    struct json_number n = {0};
    size_t end = 0, begin = s->at;

    if (!number_end(s, &end, &n.is_u64))
        return false;
    n.is_u64 = n.is_u64 && digits_value(s->text + begin, end - begin, &n.u64);
    if (!n.is_u64 && (s->flags & JSON_INTEGERS_ONLY)) {
        char what[120];
        snprintf(what, sizeof what, "'%.*s' is not an integer from 0 to 2^64-1",
                 (int)(end - begin < 40 ? end - begin : 40), s->text + begin);
        return refuse(s, begin, what);
    }
    n.value = n.is_u64 ? (double)n.u64 : strtod(s->text + begin, NULL);
    add_number(s->numbers, n);
    if (end - begin > CJSON_NUMBER_BYTES_MAX) {
        memset(s->text + begin, ' ', end - begin);
        s->text[begin] = '0';
    }
    s->at = end;
    return true;
}

/* ---- space and comments ---- */

static void blank(struct scan *s, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (s->text[i] != '\n')
            s->text[i] = ' ';
}

/* at stands on a slash. */
static bool scan_comment(struct scan *s)
{
    size_t begin = s->at;
    const char *end = NULL;

    if (s->text[begin + 1] == '/') {
        end = memchr(s->text + begin, '\n', s->bytes - begin);
        s->at = end ? (size_t)(end - s->text) : s->bytes;
    } else if (s->text[begin + 1] == '*') {
        end = memmem(s->text + begin + 2, s->bytes - begin - 2, "*/", 2);
        if (!end)
            return refuse(s, begin, "comment without an end");
        s->at = (size_t)(end - s->text) + 2;
    } else {
        return refuse_byte(s, "a comment");
    }
    blank(s, begin, s->at);
    return true;
}

static bool skip_space(struct scan *s)
{
    for (;;) {
        char c = s->text[s->at];
        if (s->at < s->bytes && (c == ' ' || c == '\n' || c == '\r' || c == '\t'))
            s->at++;
        else if (c == '/' && (s->flags & JSON_COMMENTS)) {
            if (!scan_comment(s))
                return false;
        } else
            return true;
    }
}

/* ---- containers ---- */

static bool open_container(struct scan *s, bool is_object)
{
    if (s->depth == JSON_DEPTH_MAX)
        return refuse(s, s->at, "nesting deeper than 127");
    s->stack[s->depth++] = (struct frame){
        .is_object = is_object,
        .first_key = s->key_count,
        .unescaped_bytes = s->unescaped.bytes,
    };
    s->at++;
    return true;
}

static void close_container(struct scan *s)
{
    struct frame *f = &s->stack[--s->depth];

    s->key_count = f->first_key;
    s->unescaped.bytes = f->unescaped_bytes;
    mem_free(f->slots);
    f->slots = NULL;
}

static bool scan_word(struct scan *s, const char *word)
{
    size_t bytes = strlen(word);

    if (s->bytes - s->at < bytes || memcmp(s->text + s->at, word, bytes) != 0)
        return refuse_byte(s, "a value");
    s->at += bytes;
    return true;
}

static enum expect after_value(const struct scan *s)
{
    return s->depth ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
}

static bool scan_value(struct scan *s, enum expect *next)
{
    char c = s->text[s->at];
    size_t begin = 0;
    bool escaped = false, ok = false;

    if (c == '{' || c == '[') {
        *next = c == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
        return open_container(s, c == '{');
    }
    *next = after_value(s);
    if (c == '"')
        ok = scan_string(s, &begin, &escaped);
    else if (c == '-' || is_digit(c))
        ok = scan_number(s);
    else
        ok = scan_word(s, c == 't' ? "true" : c == 'f' ? "false" : "null");
    return ok;
}

static bool scan_member(struct scan *s, enum expect *next)
{
    if (s->text[s->at] != '"')
        return refuse_byte(s, *next == EXPECT_KEY ? "a key" : "a key or '}'");
    if (!scan_key(s) || !skip_space(s))
        return false;
    if (s->text[s->at] != ':')
        return refuse_byte(s, "':'");
    s->at++;
    *next = EXPECT_VALUE;
    return true;
}

static bool may_close(const struct scan *s, enum expect expect)
{
    bool comma_allowed = s->flags & JSON_COMMENTS;

    switch (expect) {
    case EXPECT_VALUE_OR_END:
    case EXPECT_KEY_OR_END:
    case EXPECT_COMMA_OR_END:
        return true;
    case EXPECT_KEY:
        return comma_allowed;
    case EXPECT_VALUE: /* a colon comes before a value too: only a comma directly before counts */
        return comma_allowed && !s->stack[s->depth - 1].is_object;
    case EXPECT_NOTHING:
        break;
    }
    return false;
}

/* One token, at the first byte that is not space. */
static bool scan_token(struct scan *s, enum expect *expect)
{
    const struct frame *f = s->depth ? &s->stack[s->depth - 1] : NULL;
    char c = s->text[s->at];

    if (f && c == (f->is_object ? '}' : ']') && may_close(s, *expect)) {
        if (*expect == EXPECT_KEY || *expect == EXPECT_VALUE)
            blank(s, s->comma_at, s->comma_at + 1);
        s->at++;
        close_container(s);
        *expect = after_value(s);
        return true;
    }
    switch (*expect) {
    case EXPECT_KEY:
    case EXPECT_KEY_OR_END:
        return scan_member(s, expect);
    case EXPECT_COMMA_OR_END:
        if (c != ',')
            return refuse_byte(s, f->is_object ? "',' or '}'" : "',' or ']'");
        s->comma_at = s->at++;
        *expect = f->is_object ? EXPECT_KEY : EXPECT_VALUE;
        return true;
    case EXPECT_NOTHING:
        return refuse_byte(s, "the end of the text");
    case EXPECT_VALUE:
    case EXPECT_VALUE_OR_END:
        break;
    }
    return scan_value(s, expect);
}

static bool scan_text(struct scan *s)
{
    enum expect expect = EXPECT_VALUE;
    size_t valid_bytes = utf8_end(s->text, s->bytes);

    if (valid_bytes < s->bytes)
        return refuse(s, valid_bytes, "invalid UTF-8");
    if (s->bytes >= 3 && !memcmp(s->text, "\xef\xbb\xbf", 3))
        return refuse(s, 0, "byte order mark");
    if ((s->flags & JSON_NO_LEADING_SPACE) && s->bytes && strchr(" \t\r\n/", s->text[0]))
        return refuse_byte(s, "the first byte of a value");
    for (;;) {
        if (!skip_space(s))
            return false;
        if (s->at == s->bytes && expect == EXPECT_NOTHING)
            return true;
        if (!scan_token(s, &expect))
            return false;
    }
}

bool json_scan(char *text, size_t bytes, unsigned flags, struct json_numbers *n, struct err *e)
{
    struct scan s = {.text = text, .bytes = bytes, .flags = flags, .e = e, .numbers = n};
    bool ok = false;

    assert(text[bytes] == 0);
    ok = scan_text(&s);
    while (s.depth)
        close_container(&s);
    mem_free(s.keys);
    buf_release(&s.unescaped);
    if (!ok) {
        mem_free(n->items);
        *n = (struct json_numbers){0};
    }
    return ok;
}
